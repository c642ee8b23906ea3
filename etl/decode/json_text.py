"""Exact JSON parsing and writing at any depth, and replacement of characters that PostgreSQL cannot store."""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeAlias

import msgspec

from etl.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Iterator

Json: TypeAlias = Any
"""A parsed JSON value: dict, list, str, `Number`, bool or None."""

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Exceptions that msgspec raises if a document is not as expected, is not JSON, or is nested too deeply."""

# Limits of PostgreSQL's numeric: digits before and after the decimal point.
_NUMERIC_WHOLE: Final = 131072
_NUMERIC_SCALE: Final = 16383


class Number(Decimal):
    """A JSON number that preserves its digits: `literal` is the text as received.

    The value is infinite if the exponent is too large for Decimal.
    """

    __slots__ = ("literal",)
    literal: str

    def __new__(cls, literal: str) -> Self:
        """Create the number from its JSON text."""
        try:
            number = super().__new__(cls, literal)
        except InvalidOperation:
            number = super().__new__(cls, "-Infinity" if literal.startswith("-") else "Infinity")
        number.literal = literal
        return number

    @property
    def storable(self) -> bool:
        """Whether PostgreSQL's numeric can hold the number."""
        exponent = self.as_tuple().exponent
        if not isinstance(exponent, int):
            return False
        return -exponent <= _NUMERIC_SCALE and (not self or self.adjusted() < _NUMERIC_WHOLE)


# Reading


def parse(raw: bytes) -> Json:
    """Parse one JSON text of any depth; numbers become `Number`.

    If a key is duplicated, the last value counts, at the position of the first one.

    Raises:
        RecordError: `invalid_json`: the text is not JSON (NaN and Infinity are not JSON), or not UTF-8.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise RecordError("invalid_json", "not UTF-8") from None
    try:
        try:
            return _SHALLOW.decode(text)
        except RecursionError:
            return _parse_deep(text)
    except json.JSONDecodeError as error:
        raise RecordError("invalid_json", f"{error.msg.removesuffix(' at')} at character {error.pos}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise RecordError("invalid_json", f"{name} is not JSON")


_SHALLOW = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=_refuse_constant)
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|(?P<mark>[\[\]{}]|NaN|Infinity)', re.DOTALL)


def _parse_deep(text: str) -> Json:
    """Parse a text that is nested too deeply for recursion: each container by itself, the inner ones first.

    In the text of a container, NaN stands for each container in it, because JSON has no such value.
    """
    inner: list[Json] = []
    decoder = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=lambda _: inner.pop())
    texts: list[list[str]] = [[]]  # of each open container, its text so far, in pieces
    parsed: list[list[Json]] = [[]]  # of each open container, the containers in it
    position = 0
    for token in _TOKEN.finditer(text):
        mark = token["mark"]
        if mark in {"NaN", "Infinity"}:
            _refuse_constant(mark)
        elif mark in {"[", "{"}:
            texts[-1].append(text[position : token.start()])
            texts.append([])
            parsed.append([])
            position = token.start()
        elif mark and len(texts) > 1:
            whole = "".join((*texts.pop(), text[position : token.end()]))
            inner[:] = reversed(parsed.pop())
            texts[-1].append("NaN")
            parsed[-1].append(decoder.decode(whole))
            position = token.end()
    inner[:] = parsed[-1]
    return decoder.decode("".join((*texts[-1], text[position:])))


# Writing


def dump(value: Json) -> bytes:
    """Write a value of any depth as compact JSON, numbers as received; the inverse of `parse`."""
    return _text(value, _PLAIN, sort=False)


def canonical(value: Json) -> bytes:
    """Write a value as canonical JSON: keys sorted by code point, no white space, UTF-8, numbers as received."""
    return _text(value, _SORTED, sort=True)


def _literal(number: Number) -> msgspec.Raw:
    return msgspec.Raw(number.literal.encode())


_PLAIN = msgspec.json.Encoder(enc_hook=_literal)
_SORTED = msgspec.json.Encoder(enc_hook=_literal, order="sorted")


def _text(value: Json, encoder: msgspec.json.Encoder, *, sort: bool) -> bytes:
    try:
        return encoder.encode(value)
    except (UnicodeEncodeError, RecursionError):
        # Write lone surrogates, which UTF-8 cannot encode, as escapes.
        return "".join(_pieces(value, sort=sort)).encode("utf-8", "backslashreplace")


class _Mark(str):
    """A piece of JSON text."""

    __slots__ = ()


def _pieces(value: Json, *, sort: bool) -> Iterator[str]:
    """Yield the text of a value without recursion, with a stack of the values still to be written."""
    stack: list[Json] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, _Mark):
            yield item
        elif isinstance(item, Number):
            yield item.literal
        elif isinstance(item, dict):
            members = [_Mark("{")]
            for key in sorted(item) if sort else item:
                members += (_Mark(f"{encode_basestring(key)}:"), item[key], _Mark(","))
            members[-1 if item else 1 :] = [_Mark("}")]
            stack += reversed(members)
        elif isinstance(item, list):
            elements = [_Mark("[")]
            for each in item:
                elements += (each, _Mark(","))
            elements[-1 if item else 1 :] = [_Mark("]")]
            stack += reversed(elements)
        else:
            yield json.dumps(item, ensure_ascii=False)


# Cleaning

REPLACEMENT: Final = "\ufffd"
_REPLACEMENT_UTF8: Final = REPLACEMENT.encode()

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# Match one escape at a time, so that the second backslash of an escaped backslash is never mistaken for the start of
# `\u`.
_ESCAPE = re.compile(
    rb"\\(?:u(?:[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>[dD][89a-fA-F][0-9a-fA-F]{2}|0000)|)|[^u])",
    re.DOTALL,
)


def clean_text(text: str) -> str:
    """Replace each NUL and lone surrogate by U+FFFD."""
    return _UNSTORABLE.sub(REPLACEMENT, text)


def clean_json(raw: bytes) -> bytes:
    r"""Replace each escaped NUL (`\u0000`) and lone surrogate in a JSON text by U+FFFD, in strings and keys."""
    if b"\\u0000" not in raw and b"\\ud" not in raw and b"\\uD" not in raw:
        return raw
    return _ESCAPE.sub(lambda escape: escape[0] if escape["lone"] is None else _REPLACEMENT_UTF8, raw)


_STRING_OR_NUMBER = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|-?[0-9]++(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?', re.DOTALL)
_QUOTE: Final = ord('"')


def quote_huge_numbers(raw: bytes) -> bytes:
    """Convert the numbers in a JSON text that PostgreSQL's numeric cannot hold to strings of the same digits."""
    return _STRING_OR_NUMBER.sub(_quoted, raw)


def _quoted(token: re.Match[bytes]) -> bytes:
    text = token[0]
    return text if text[0] == _QUOTE or Number(str(text, "ascii")).storable else b'"%b"' % text
