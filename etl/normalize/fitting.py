"""Fit JSON values to columns; each kind of value has a `Fitter`.

A run is decoded in one call to the types of the fitters, and `to_column` converts each value for its row. Where that
fails, `Fitter.read` reads the fields one by one: it cleans a value, refuses it, or finds that no column can hold it.

Rows hold `jsonb` and `numeric` values in PostgreSQL's binary format (`jsonb_recv` and `numeric_recv`, unchanged since
9.4). Converting them here, with a cache because most values repeat, saves COPY a call into Python per value. The API's
dates are days or timestamps in ISO 8601 format.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property, lru_cache, partial
from struct import Struct, pack
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeAlias

import msgspec
from msgspec import Meta, Raw

from etl.decode.json_text import UNREADABLE, Json, Number, clean_json, dump, parse
from etl.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NULL: Final = Raw(b"null")
JSONB: Final = b"\x01"
"""The version byte before the JSON text of a jsonb value."""

_JSONB_NULL: Final = JSONB + b"null"

# Restrict Python's parser to ISO 8601: some versions also accept invalid times such as 10:00:102.
_MOMENT = re.compile(
    r"(?P<day>(?P<year>[+-]?\d{4,})(?P<rest>-\d\d-\d\d)|\d{8}|\d{4}-?W\d\d(?:-?\d)?)"
    r"(?P<clock>[Tt ](?P<hour>\d\d)(?:(?P<colon>:?)(?P<minute>\d\d)(?:(?P=colon)(?P<second>\d\d)(?P<part>[.,]\d+)?)?)?"
    r" ?(?P<zone>[Zz]|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)?)?",
    re.ASCII,
)
_FRACTION_LENGTH = 7  # length of a fraction with its point, because Python's times have microseconds

_USUAL_TIME_LENGTHS = frozenset(
    map(len, ("2026-09-02T17:14:49Z", "2026-09-02T17:14:49.960Z", "2026-09-02T17:14:49.960123Z"))
)
_time_from_text = datetime.fromisoformat


class Part:
    """A part of a document: `Fitter` for a single value, `Document` for an object, `Each` for several objects.

    Attributes:
        decoded: the type to which msgspec decodes the part.
        default: the value of an absent part.
    """

    decoded: Any
    default: Any = None

    @cached_property
    def decode(self) -> Callable[[bytes | Raw], Any]:
        """Decode the part in one call; raise one of `UNREADABLE` if it is not as expected."""
        return msgspec.json.Decoder(self.decoded).decode

    def read(self, raw: bytes | Raw, place: str, *, at_once: bool = False) -> Any:
        """Read the part at `place`; return `default` for null.

        Args:
            raw: the JSON text.
            place: where it is in the item, for messages.
            at_once: whether to decode in one call what can be: its values are neither cleaned nor certain to fit their
                columns. Otherwise each value is.

        Raises:
            RecordError: the part is invalid; the error names the first reason.
            OverflowError: the column cannot hold the value, which must be kept in `extra`.
        """
        if at_once:
            try:
                return self.decode(raw)
            except UNREADABLE:
                pass
        return self._read(raw, place, at_once=at_once)

    def _read(self, raw: bytes | Raw, place: str, *, at_once: bool) -> Any:
        raise NotImplementedError


def _refuse_any(_: Json) -> NoReturn:
    raise ValueError


class Fitter(Part):
    """Converts one kind of value to a column.

    Both functions raise `ValueError` to refuse the run, and `OverflowError` if the column cannot hold the value.

    Args:
        expected: the kind of value, for messages.
        decoded: the type to which msgspec decodes ordinary values.
        to_column: converts a decoded value, except null, to the value in the row; None if both are the same.
        fit: converts a parsed value that msgspec cannot decode to one that `to_column` accepts.
        clean: whether characters that PostgreSQL cannot store are replaced.
        inline: a Python expression equivalent to `to_column(value)` but faster; it may use the names in `INLINED`.
    """

    def __init__(
        self,
        expected: str,
        decoded: Any,
        to_column: Callable[[Any], Any] | None = None,
        fit: Callable[[Json], Any] = _refuse_any,
        *,
        clean: bool = True,
        inline: str = "",
    ) -> None:
        self.decoded = decoded
        self.default = NULL if decoded is Raw else None
        self.to_column = to_column
        self.inline = inline
        self._expected = expected
        self._fit = fit
        self._clean = clean

    def _read(self, raw: bytes | Raw, place: str, *, at_once: bool) -> Any:  # noqa: ARG002 - a value has no parts
        text = clean_json(bytes(raw)) if self._clean else bytes(raw)
        try:
            try:
                value = self.decode(text)
            except UNREADABLE:
                value = self._fit(parse(text))
            if value is not None and self.to_column is not None:
                self.to_column(value)
        except ValueError:
            refuse(place, self._expected, parse(text))
        return value


_KINDS: Final[dict[type, str]] = {
    type(None): "null",
    bool: "a boolean",
    str: "a string",
    Number: "a number",
    list: "an array",
    dict: "an object",
}


def refuse(place: str, expected: str, value: Json) -> NoReturn:
    """Raise RecordError for a value that cannot be converted. The message has only its type: it may be a secret.

    Args:
        place: where the value is in the item; empty for the item itself.
        expected: the expected kind of value.
        value: the parsed value.
    """
    message = f"expected {expected}, got {_KINDS[type(value)]}"
    raise RecordError("invalid_field", f"{place}: {message}") if place else RecordError("not_an_object", message)


# Numbers


def _number(value: Json) -> Number:
    if not isinstance(value, Number):
        raise ValueError  # noqa: TRY004 - see `Fitter`
    return value


def _integers(bits: int) -> Fitter:
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def fit(value: Json) -> int:
        number = _number(value)
        # Check the size first: converting 1e999999 to an int would take very long.
        if least <= number <= most and number == int(number):
            return int(number)
        raise OverflowError

    return Fitter("a number", Annotated[int, Meta(ge=least, le=most)] | None, fit=fit)


# The binary format of numeric: the number of groups of four decimal digits, the weight of the first group (a power of
# 10,000), the sign, the number of fractional digits, and the groups.
_NUMERIC_HEAD: Final = "!HhHH"
_NEGATIVE: Final = 0x4000
_WHOLE_DIGITS: Final = 15  # maximum before the decimal point; sums of larger numbers could overflow
_USUAL_LENGTH: Final = 100
_PACK: Final = tuple(Struct(f"{_NUMERIC_HEAD}{groups}H").pack for groups in range(_USUAL_LENGTH // 4 + 2))
_TO_WHOLE_GROUP: Final = (b"", b"000", b"00", b"0")  # zeros to append, by the number of digits in the last group


@lru_cache(maxsize=16_384)  # most numbers repeat, especially 0
def numeric_of(text: bytes) -> bytes | None:
    """Convert a JSON number to binary format, preserving its digits; return None for null.

    Raises:
        ValueError: the text is not a number.
        OverflowError: the number is too large.
    """
    whole, _, part = text.partition(b".")
    digits = whole + part
    if len(whole) > _WHOLE_DIGITS or len(digits) > _USUAL_LENGTH or not digits.isdigit():
        return None if text == b"null" else _unusual_numeric(str(text, "ascii"))
    scale = len(part)
    behind = (scale + 3) // 4
    left = int(digits + _TO_WHOLE_GROUP[scale % 4])
    first, second = divmod(left, 10_000)
    if 0 < first < 10_000:  # most credits
        return _PACK[2](2, 1 - behind, 0, scale, first, second)
    groups: list[int] = []
    while left:
        left, group = divmod(left, 10_000)
        groups.append(group)
    groups.reverse()
    count = len(groups)
    return _PACK[count](count, count - behind - 1, 0, scale, *groups)


def _unusual_numeric(text: str) -> bytes:
    """Convert a number with a sign, an exponent or very many digits."""
    if text[0] not in "-0123456789":
        raise ValueError
    number = Number(text)
    if not number.storable or (number and number.adjusted() >= _WHOLE_DIGITS):
        raise OverflowError
    whole, _, part = format(number.copy_abs(), "f").partition(".")
    before, behind = -(-len(whole) // 4), -(-len(part) // 4)
    digits = whole.zfill(before * 4) + part.ljust(behind * 4, "0")
    groups = [int(digits[at : at + 4]) for at in range(0, len(digits), 4)]
    sign = _NEGATIVE if number.is_signed() else 0
    return pack(f"{_NUMERIC_HEAD}{len(groups)}H", len(groups), before - 1, sign, len(part), *groups)


# Times

# Milliseconds since 1970 in the years 1 to 9999, and 1970 in microseconds since 2000, PostgreSQL's epoch.
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999
_WHOLE_MS: TypeAlias = Annotated[int, Meta(ge=_FIRST_MS, le=_LAST_MS)]
_PART_MS: TypeAlias = Annotated[float, Meta(ge=float(_FIRST_MS), lt=_LAST_MS + 1.0)]
_EPOCH_US: Final = -946_684_800_000_000


def epoch_ms_of(value: float) -> int:
    """Convert milliseconds since 1970 to microseconds since 2000, rounded half to even."""
    return round(Decimal(repr(value)) * 1000) + _EPOCH_US


def _fit_epoch_ms(value: Json) -> NoReturn:
    _number(value)
    raise OverflowError


INLINED: Final = {"numeric_of": numeric_of, "epoch_ms_of": epoch_ms_of}
_EPOCH_MS: Final = Fitter(
    "a number",
    _WHOLE_MS | _PART_MS | None,
    epoch_ms_of,
    _fit_epoch_ms,
    inline=f"value * 1000 + {_EPOCH_US} if type(value) is int else epoch_ms_of(value)",
)


# JSON


def _fit_json(value: Json) -> Raw:
    return Raw(dump(value))


def jsonb_of(raw: bytes | Raw) -> bytes | None:
    """Convert JSON text to a jsonb value; return None for null.

    Raises:
        UnicodeDecodeError: the text is not UTF-8, which msgspec does not check in raw values.
    """
    value = JSONB + raw
    if not value.isascii():
        value.decode()
    return None if value == _JSONB_NULL else value


def extra_of(extra: dict[str, Any] | None) -> bytes | None:
    """Convert extra fields to a jsonb value; return None if there are none. Raises like `jsonb_of`."""
    return jsonb_of(msgspec.json.encode(extra)) if extra else None


def time_of(text: str) -> datetime:
    """Convert an ISO 8601 day or timestamp to a UTC time.

    The default time zone is UTC. Digits beyond microseconds are dropped.

    Raises:
        ValueError: the text is neither a day nor a timestamp.
        OverflowError: the time is outside the years 1 to 9999.
    """
    # Python parses this format correctly or raises an error.
    if (
        len(text) in _USUAL_TIME_LENGTHS
        and text[-1] == "Z"
        and text[10] == "T"
        and text[16] == ":"
        and text[19] in ".Z"
    ):
        try:
            return _time_from_text(text)
        except ValueError:
            pass  # possibly a leap second
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise ValueError("not an ISO 8601 date")
    day, is_in_range = match["day"], True
    if match["year"] is not None and not 1 <= int(match["year"]) <= 9999:
        is_in_range = False
        day = f"{2000 + int(match['year']) % 400}{match['rest']}"  # a year with the same calendar, to check the date
    hour, minute, second, part = (match[name] or "" for name in ("hour", "minute", "second", "part"))
    carry = timedelta(0)
    if second == "60":  # a leap second counts as the first second of the next minute
        second, carry = "59", timedelta(seconds=1)
    elif hour == "24" and not (minute + second + part[1:]).strip("0"):  # 24:00 is 00:00 of the next day
        hour, carry = "00", timedelta(days=1)
    clock = f"{hour or '00'}:{minute or '00'}:{second or '00'}{part[:_FRACTION_LENGTH]}"
    local = _time_from_text(f"{day}T{clock}{(match['zone'] or 'Z').upper()}")
    if not is_in_range:
        raise OverflowError("beyond the calendar")
    return local.astimezone(UTC) + carry


def is_bare_day(text: str) -> bool:
    """Return whether a date that `time_of` accepts is a day without a time."""
    match = None if len(text) in _USUAL_TIME_LENGTHS else _MOMENT.fullmatch(text)
    return match is not None and match["clock"] is None


class ModelResponse(msgspec.Struct, gc=False):
    """The token counts in a provider's response to a model step."""

    usage: Any = None
    usageMetadata: Any = None  # noqa: N815 - Google's name


def _tokens(names: Iterable[str], response: ModelResponse) -> int | None:
    """Return the first non-negative integer under one of `names`."""
    for counts in (response.usage, response.usageMetadata):
        for name in names if type(counts) is dict else ():
            count = counts.get(name)
            if type(count) in {int, float, Number} and 0 <= count < 2**63 and count == int(count):
                return int(count)
    return None


def _fit_response(value: Json) -> ModelResponse | None:
    """Return the counts in a response that msgspec cannot decode, for instance because another number is too large."""
    return ModelResponse(value.get("usage"), value.get("usageMetadata")) if isinstance(value, dict) else None


def _responses(*names: str) -> Fitter:
    """Return the fitter for a token count; a response of any other form has none."""
    return Fitter("a response", ModelResponse | None, partial(_tokens, names), _fit_response)


JSON: Final = Fitter("JSON", Raw, jsonb_of, _fit_json)

FITTERS: Final = {
    "text": Fitter("a string", str | None),
    "text[]": Fitter("an array of strings", list[str] | None),
    "boolean": Fitter("a boolean", bool | None),
    "integer": _integers(32),
    "bigint": _integers(64),
    "numeric": Fitter("a number", Raw, lambda raw: numeric_of(bytes(raw)), inline="numeric_of(b'' + value)"),
    "timestamptz": Fitter("an ISO 8601 date", str | None, time_of),
    "epoch_ms": _EPOCH_MS,
    "jsonb": JSON,
    "payload": JSON,
    "input_tokens": _responses("prompt_tokens", "input_tokens", "promptTokenCount"),
    "output_tokens": _responses("completion_tokens", "output_tokens", "candidatesTokenCount"),
}
"""The fitters by their names in `etl.tables`. A payload is JSON that is stored unless the settings exclude payloads."""
