"""Split a page of a listing into its items, and read the ids of items."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Final

import msgspec

from etl.decode.json_text import UNREADABLE, clean_text
from etl.errors import TransientError

_SPACE: Final = b" \t\n\r"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_CLOSING: Final[dict[bytes | None, bytes]] = {b"[": b"]", b"{": b"}"}
_LEADING_ID = re.compile(rb'\{"id":"([0-9A-Za-z_.:-]{1,200})"')
_GAP = re.compile(rb",[ \t\n\r]*+(?=\{)")
_PIECE = re.compile(rb'(?P<string>"[^"\\]*+(?:\\.[^"\\]*+)*+")|(?P<mark>[\[\]{},:"])', re.DOTALL)


class _Identified(msgspec.Struct):
    id: str | None = None


class _Listed(msgspec.Struct):
    """The fields that distinguish a run (workflow and status) or a workflow (app and name) from nested objects."""

    id: str
    created_at: msgspec.Raw
    workflow_id: str | None = None
    status: str | None = None
    app: dict[str, msgspec.Raw] | None = None
    name: str | None = None


_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_LISTED = msgspec.json.Decoder(_Listed)
_IDENTITY = msgspec.json.Decoder(_Identified)


def digest(raw: bytes) -> bytes:
    """Return the content hash of an item: SHA-256, which CPUs compute faster than BLAKE2."""
    return hashlib.sha256(raw).digest()


def split_page(body: bytes) -> list[bytes]:
    """Split a JSON array into the bytes of its elements, without the white space around them.

    Elements that are not valid JSON are returned unchanged, so that only they are quarantined.

    Raises:
        TransientError: the body is not a JSON array, or is truncated.
    """
    try:
        return [bytes(item) for item in _ITEMS.decode(body)]
    except UNREADABLE:
        return _split_tolerantly(body)


def _split_tolerantly(body: bytes) -> list[bytes]:
    text = body.removeprefix(_BYTE_ORDER_MARK).strip(_SPACE)
    if not text.startswith(b"["):
        raise TransientError(f"not a JSON list: {_what_it_is(text)}")
    if not text[1:-1].strip(_SPACE) and text.endswith(b"]"):
        return []
    items: list[bytes] = []
    start = 1
    while True:
        end = _end_of_item(text, start)
        if end is None:
            end = _end_of_damage(text, start)
        items.append(text[start:end].strip(_SPACE))
        if text[end : end + 1] == b"]":
            break
        start = end + 1
    if end + 1 < len(text):
        raise TransientError("not a JSON list: something follows its end")
    return items


def _end_of_item(text: bytes, start: int) -> int | None:
    """Find the comma or bracket after the item at `start`; return None if the brackets of the item do not match."""
    closing = bytearray()  # the closing brackets of the open containers
    for piece in _PIECE.finditer(text, start):
        mark = piece["mark"]
        if mark == b'"':
            return None  # an unterminated string
        if mark in _CLOSING:
            closing += _CLOSING[mark]
        elif not closing and mark in {b",", b"]"}:
            return piece.start()
        elif mark in {b"]", b"}"}:
            if not closing.endswith(mark):
                return None
            closing.pop()
    return None


def _end_of_damage(text: bytes, start: int) -> int:
    """Find the end of the truncated item at `start`, which is before the next valid item.

    Raises:
        TransientError: no valid item follows, so the body itself is truncated.
    """
    for gap in _GAP.finditer(text, start):
        end = _end_of_item(text, gap.end())
        if end is not None and _is_listed(text[gap.end() : end]):
            return gap.start()
    raise TransientError("cut body: the list has no end")


def _is_listed(item: bytes) -> bool:
    """Return whether an object is a run or a workflow, rather than a part of one."""
    try:
        listed = _LISTED.decode(item)
    except UNREADABLE:
        return False
    return bool(listed.id) and bool((listed.workflow_id and listed.status) or (listed.app and listed.name))


def _what_it_is(text: bytes) -> str:
    if not text:
        return "the body is empty"
    if text.startswith(b"<"):
        return "HTML or XML"
    if text.startswith(b"{"):
        return "an object"
    return "not JSON" if text[:1] not in b'"-0123456789tfn' else "a single value"


def guess_id(raw: bytes) -> str | None:
    """Guess the id of an item from its first bytes, which is very fast.

    The guess may be wrong: if keys are duplicated, the last one counts.
    """
    found = _LEADING_ID.match(raw)
    return None if found is None else str(found[1], "ascii")


def peek_id(raw: bytes) -> str | None:
    """Read the id of an item, which may be invalid JSON, cleaned as in the tables; return None if it has none."""
    try:
        found = _IDENTITY.decode(raw).id
    except UNREADABLE:
        found = _find_id(raw)
    return clean_text(found) if found else None


def _find_id(raw: bytes) -> str | None:
    """Return the last string value of the top-level key `id` in bytes that look like an object."""
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
            if depth == 0:
                break  # what follows is not part of the object
        value_follows = mark == b":"
    return found


def _string(token: bytes) -> str | None:
    try:
        text = json.loads(token)
    except (ValueError, UnicodeDecodeError):
        return None
    return text if isinstance(text, str) else None
