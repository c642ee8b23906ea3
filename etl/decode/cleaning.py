"""Replacing what PostgreSQL cannot store in text: NUL and lone surrogates."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from etl.decode.numbers import Json

REPLACEMENT: Final = "\ufffd"
_REPLACEMENT_UTF8: Final = REPLACEMENT.encode()

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# One escape a match, so that an escaped backslash never lends its second half to a `\u` behind it.
_ESCAPE = re.compile(
    rb"\\(?:u(?:[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>[dD][89a-fA-F][0-9a-fA-F]{2}|0000)|)|[^u])",
    re.DOTALL,
)

_SPELLING = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.", re.DOTALL)


def needs_cleaning(raw: bytes) -> bool:
    r"""Whether a JSON text holds an escaped NUL or lone surrogate (`\u0000`, `\ud83d` without its second half)."""
    if b"\\u0000" not in raw and b"\\ud" not in raw and b"\\uD" not in raw:
        return False
    return any(match["lone"] is not None for match in _ESCAPE.finditer(raw))


def clean_text(text: str) -> str:
    """The text with each NUL and each lone surrogate replaced by U+FFFD."""
    return _UNSTORABLE.sub(REPLACEMENT, text)


def spelled_plainly(raw: bytes) -> bytes:
    r"""JSON text, valid or not, with each character of its strings spelled in one way, and cleaned.

    Escapes become the characters that they stand for, but for quotes and backslashes, which stay escaped (`\"`, `\\`):
    so that a string which is part of another text is found however either was written.
    """
    return _SPELLING.sub(_plain, raw)


def _plain(escape: re.Match[bytes]) -> bytes:
    try:
        character = clean_text(str(json.loads(b'"%b"' % escape[0])))
    except ValueError:
        return escape[0]  # no escape that JSON knows
    return b"\\" + character.encode() if character in '"\\' else character.encode()


def clean(value: Json) -> Json:
    """A copy of a value in which PostgreSQL can store every string and key; where keys become equal, the last wins."""
    root: list[Json] = []
    pending: list[tuple[Json, Json]] = [([value], root)]
    while pending:
        source, target = pending.pop()
        entries = source.items() if type(source) is dict else enumerate(source)
        for key, item in entries:
            cleaned: Json = item
            if type(item) is str:
                cleaned = clean_text(item)
            elif type(item) is dict or type(item) is list:
                cleaned = type(item)()
                pending.append((item, cleaned))
            if type(key) is str:
                target[clean_text(key)] = cleaned
            else:
                target.append(cleaned)
    return root[0]


def clean_json(raw: bytes) -> bytes:
    r"""JSON text with each escaped NUL and each escaped lone surrogate replaced by U+FFFD, in strings and keys."""
    return _ESCAPE.sub(lambda escape: escape[0] if escape["lone"] is None else _REPLACEMENT_UTF8, raw)
