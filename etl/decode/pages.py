"""A page of a listing, cut into its items without reading them."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Final

import msgspec

from etl.decode.values import clean_text
from etl.errors import TransientError

_SPACE: Final = b" \t\n\r"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_PIECE = re.compile(rb'(?P<string>"[^"\\]*+(?:\\.[^"\\]*+)*+")|(?P<mark>[\[\]{},:"])', re.DOTALL)


class _Identified(msgspec.Struct):
    id: str | None = None


_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_IDENTITY = msgspec.json.Decoder(_Identified)


def digest(raw: bytes) -> bytes:
    """The content hash of an item as received: SHA-256, which CPUs compute faster than BLAKE2."""
    return hashlib.sha256(raw).digest()


def split_page(body: bytes) -> list[bytes]:
    """The bytes of each element of a JSON array, without the white space around them.

    An element that is not valid JSON by itself comes out as it is, so that it can be set aside alone.

    Raises:
        TransientError: the body is not a JSON array, or it was cut.
    """
    try:
        return [bytes(item) for item in _ITEMS.decode(body)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _split_tolerantly(body)


def _split_tolerantly(body: bytes) -> list[bytes]:
    text = body.removeprefix(_BYTE_ORDER_MARK).strip(_SPACE)
    if not text.startswith(b"["):
        raise TransientError(f"not a JSON list: {_what_it_is(text)}")
    items: list[bytes] = []
    start, depth = 1, 0
    for piece in _PIECE.finditer(text):
        mark = piece["mark"]
        if mark == b'"':
            break  # a string without an end
        if mark in {b"[", b"{"}:
            depth += 1
        elif mark in {b"]", b"}"}:
            depth -= 1
        if depth == 1 and mark == b",":
            items.append(text[start : piece.start()].strip(_SPACE))
            start = piece.end()
        elif depth == 0 and mark is not None:
            if text[piece.end() :].strip(_SPACE):
                raise TransientError("not a JSON list: something follows its end")
            last = text[start : piece.start()].strip(_SPACE)
            return [*items, last] if last or items else []
    raise TransientError("cut body: the list has no end")


def _what_it_is(text: bytes) -> str:
    if not text:
        return "the body is empty"
    if text.startswith(b"<"):
        return "HTML or XML"
    if text.startswith(b"{"):
        return f"an object{_api_message(text)}"
    return "not JSON" if text[:1] not in b'"-0123456789tfn' else "a single value"


def _api_message(text: bytes) -> str:
    """What an error document in the API's form says, for the reader of the log."""
    try:
        document: Any = json.loads(text)
    except ValueError:
        return ""
    except RecursionError:
        return ""
    message = document.get("message") if isinstance(document, dict) else None
    return f" with the message {message[:200]!r}" if isinstance(message, str) else ""


def peek_id(raw: bytes) -> str | None:
    """The `id` of an item, cleaned as in the tables, valid JSON or not; None where it cannot be told."""
    try:
        found = _IDENTITY.decode(raw).id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = _find_id(raw)
    return clean_text(found) if found else None


def _find_id(raw: bytes) -> str | None:
    """The last string value of the key `id` at the top level of what looks like an object."""
    if not raw.lstrip(_SPACE).startswith(b"{"):
        return None
    found: str | None = None
    depth, key, value_follows = 0, "", False
    for piece in _PIECE.finditer(raw):
        mark = piece["mark"]
        if mark is None:
            text = _string(piece["string"]) if depth == 1 else None
            if value_follows and key == "id":
                found = text
            key = text or ""
        elif mark in {b"[", b"{"}:
            depth += 1
        elif mark in {b"]", b"}"}:
            depth -= 1
        value_follows = mark == b":"
    return found


def _string(token: bytes) -> str | None:
    try:
        text = json.loads(token)
    except (ValueError, UnicodeDecodeError):
        return None
    return text if isinstance(text, str) else None
