"""Split a page of a listing into its items, and read the ids of items."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Final, Self

import msgspec

from etl.decode.json_text import UNREADABLE, clean_text
from etl.errors import TransientError

_SPACE: Final = b" \t\n\r"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_CLOSING: Final[dict[bytes | None, bytes]] = {b"[": b"]", b"{": b"}"}
_LEADING_ID = re.compile(rb'\{"id":"([0-9A-Za-z_.:-]{1,200})"')
_GAP = re.compile(rb",[ \t\n\r]*+(?=\{)")
_PIECE = re.compile(rb'(?P<string>"[^"\\]*+(?:\\.[^"\\]*+)*+")|(?P<mark>[\[\]{},:"])', re.DOTALL)

_IN_LIST = re.compile(rb'[^"\[\]{},]*+')
_IN_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_IN_CONTAINER = re.compile(rb'[^"\[\]{}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"\[\]{}]*+)*+', re.DOTALL)

BEGINNING_BYTES: Final = 64 * 1024
"""The number of bytes kept of an item that is too large, from which its id is read."""


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


class LargeItem(bytes):
    """The first bytes of an item that is too large to keep; `size` and `sha256` describe the whole item."""

    size: int
    sha256: bytes

    def __new__(cls, beginning: bytes, size: int, sha256: bytes) -> Self:
        """Create it from the first bytes of the item."""
        item = super().__new__(cls, beginning)
        item.size, item.sha256 = size, sha256
        return item


def digest(raw: bytes) -> bytes:
    """Return the content hash of an item, SHA-256, for which CPUs have instructions."""
    return raw.sha256 if isinstance(raw, LargeItem) else hashlib.sha256(raw).digest()


def size_of(raw: bytes) -> int:
    """Return the size of an item as received, in bytes."""
    return raw.size if isinstance(raw, LargeItem) else len(raw)


class ItemReader:
    """Splits a JSON array incrementally, for bodies that are too large to keep in memory.

    Args:
        longest: maximum size of an item in bytes. Only the first bytes of a larger item are kept, as a `LargeItem`.

    Attributes:
        items: the items that are complete.
        is_complete: whether the array has ended.
    """

    def __init__(self, longest: int) -> None:
        self.items: list[bytes] = []
        self.is_complete = False
        self._longest = longest
        self._depth = 0
        self._in_string = False
        self._carried = b""  # a backslash at the end of the last piece
        self._start()

    def _start(self) -> None:
        self._kept, self._size, self._hash = bytearray(), 0, hashlib.sha256()

    def feed(self, piece: bytes) -> None:
        """Process the next bytes of the body."""
        piece, at = self._carried + piece, 0
        self._carried = b""
        while at < len(piece) and not self.is_complete:
            pattern = _IN_STRING if self._in_string else _IN_CONTAINER if self._depth > 1 else _IN_LIST
            end = pattern.match(piece, at).end()  # type: ignore[union-attr]  # each pattern matches ''
            if self._in_string and piece[end:] == b"\\":
                self._carried = b"\\"
                self._add(piece[at:end])
                return
            self._add(piece[at:end])
            if end < len(piece):
                self._mark(piece[end : end + 1])
            at = end + 1

    def _mark(self, mark: bytes) -> None:
        """Process a quotation mark, a bracket, or a comma between items."""
        if mark == b'"':
            self._in_string = not self._in_string
        elif mark in _CLOSING:
            self._depth += 1
        elif mark in {b"]", b"}"}:
            self._depth -= 1
        if (mark == b"," or self._depth == 0) and not self._in_string:
            self.is_complete = self._depth == 0
            self._end()
        elif self._depth > 1 or mark != b"[" or self._size:
            self._add(mark)

    def _add(self, part: bytes) -> None:
        """Append to the current item, without the white space around items."""
        if self._depth <= 1 and not self._in_string:
            part = part.strip(_SPACE)
        self._size += len(part)
        self._hash.update(part)
        if self._size <= self._longest:
            self._kept += part
        elif len(self._kept) > BEGINNING_BYTES:
            del self._kept[BEGINNING_BYTES:]

    def _end(self) -> None:
        if self._size > self._longest:
            self.items.append(LargeItem(bytes(self._kept[:BEGINNING_BYTES]), self._size, self._hash.digest()))
        elif self._kept:
            self.items.append(bytes(self._kept))
        self._start()


def split_page(body: bytes) -> list[bytes]:
    """Split a JSON array into the bytes of its elements, without surrounding white space.

    Elements that are not valid JSON are returned unchanged, so that only these elements are quarantined.

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
        found = _describe(text)
        hint = "Check api.base_url: something other than the API answers there." if found == "HTML or XML" else ""
        raise TransientError(f"not a JSON list: {found}", hint=hint)
    if not text[1:-1].strip(_SPACE) and text.endswith(b"]"):
        return []
    items: list[bytes] = []
    start = 1
    while True:
        end = _end_of_item(text, start)
        if end is None:
            end = _end_of_truncated_item(text, start)
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


def _end_of_truncated_item(text: bytes, start: int) -> int:
    """Find the comma after the truncated item at `start`, before the next valid item.

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


def _describe(text: bytes) -> str:
    if not text:
        return "the body is empty"
    if text.startswith(b"<"):
        return "HTML or XML"
    if text.startswith(b"{"):
        return "an object"
    return "not JSON" if text[:1] not in b'"-0123456789tfn' else "a single value"


def guess_id(raw: bytes) -> str | None:
    """Guess the id of an item from its first bytes, which is fast.

    The guess is wrong if the item has another key `id` later, because the last duplicate key counts.
    """
    found = _LEADING_ID.match(raw)
    return None if found is None else str(found[1], "ascii")


def peek_id(raw: bytes) -> str | None:
    """Read the id of an item, which may be invalid JSON, cleaned as in the tables; return None if there is no id."""
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
