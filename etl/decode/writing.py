"""Values to JSON text: the inverse of reading, at any depth, with the digits of numbers as they came."""

from __future__ import annotations

from json.encoder import encode_basestring
from typing import TYPE_CHECKING

import msgspec

from etl.decode.numbers import Json, Number
from etl.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def dump(value: Json) -> bytes:
    """Write a value as compact JSON, numbers with their literal digits; the inverse of `parse`, at any depth."""
    return _text(value, _AS_IT_IS, _scalar, sort=False)


def dump_storable(value: Json) -> bytes:
    """As `dump`, for a jsonb column.

    Raises:
        RecordError: `number_out_of_range` where PostgreSQL cannot hold a number.
    """
    return _text(value, _STORABLE, _storable_scalar, sort=False)


def canonical(value: Json) -> bytes:
    """Write a value as canonical JSON: keys sorted by code point, no white space, UTF-8, numbers as received."""
    return _text(value, _SORTED, _scalar, sort=True)


def _literal(number: object) -> msgspec.Raw:
    return msgspec.Raw(_scalar(number).encode())


def _storable_literal(number: object) -> msgspec.Raw:
    return msgspec.Raw(_storable_scalar(number).encode())


_AS_IT_IS = msgspec.json.Encoder(enc_hook=_literal)
_STORABLE = msgspec.json.Encoder(enc_hook=_storable_literal)
_SORTED = msgspec.json.Encoder(enc_hook=_literal, order="sorted")


def _text(value: Json, encoder: msgspec.json.Encoder, scalar: Callable[[Json], str], *, sort: bool) -> bytes:
    try:
        return encoder.encode(value)
    except (UnicodeEncodeError, RecursionError):
        # Lone surrogates, which UTF-8 has no bytes for, are written as the escapes that they came as.
        return "".join(_pieces(value, scalar, sort=sort)).encode("utf-8", "backslashreplace")


def _pieces(value: Json, scalar: Callable[[Json], str], *, sort: bool) -> Iterator[str]:
    """The text of a value, without recursion: what is still to be written of open containers stands on a stack."""
    stack: list[tuple[Iterator[tuple[str, Json]], str]] = [(iter([("", value)]), "")]
    first = True
    while stack:
        entries, closing = stack[-1]
        for prefix, item in entries:
            yield prefix if first else f",{prefix}"
            first = type(item) is dict or type(item) is list
            if type(item) is dict:
                yield "{"
                stack.append((_members(item, sort=sort), "}"))
                break
            if type(item) is list:
                yield "["
                stack.append((_elements(item), "]"))
                break
            yield scalar(item)
        else:
            yield closing
            stack.pop()
            first = False


def _members(item: dict[str, Json], *, sort: bool) -> Iterator[tuple[str, Json]]:
    pairs: Iterable[tuple[str, Json]] = item.items()
    if sort:
        pairs = sorted(pairs, key=lambda pair: pair[0])
    return ((f"{encode_basestring(key)}:", value) for key, value in pairs)


def _elements(item: list[Json]) -> Iterator[tuple[str, Json]]:
    return (("", value) for value in item)


def _scalar(item: Json) -> str:
    if isinstance(item, str):
        return encode_basestring(item)
    if item is None:
        return "null"
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, Number):
        return item.literal
    return str(item)


def _storable_scalar(item: Json) -> str:
    if isinstance(item, Number) and not item.storable:
        raise RecordError("number_out_of_range", f"no column can hold the number {item.literal[:40]}")
    return _scalar(item)
