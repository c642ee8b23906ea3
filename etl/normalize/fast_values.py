"""Single values on the fast path: what is out of the ordinary is a surprise, for the careful path to judge."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from etl.models import read_moment
from etl.normalize.columns import EPOCH_US
from etl.normalize.shapes import NULL
from etl.wire import JSONB, numeric

if TYPE_CHECKING:
    from msgspec import Raw

_MAX_MS: Final = 4_000_000_000_000  # up to the year 2096 a double of seconds is exact to the microsecond
_TINY: Final = Decimal("1e-1000")
_HUGE: Final = Decimal("1e1000")
_USUAL_DIGITS: Final = 100
_REMEMBERED: Final = 16_384
_JSONB_NULL: Final = JSONB + b"null"

_USUAL_LENGTHS: Final = frozenset(
    map(len, ("2026-09-02T17:14:49Z", "2026-09-02T17:14:49.960Z", "2026-09-02T17:14:49.960123Z"))
)
_MICROSECOND_DIGITS: Final = len(".123")

_from_text = datetime.fromisoformat


class SurpriseError(Exception):
    """The fast path cannot tell what to make of a run."""


def text_of(raw: Raw) -> bytes | None:
    """JSON text as it came; None for null."""
    if raw is NULL:
        return None
    text = bytes(raw)
    return None if text == b"null" else text


def jsonb_of(raw: Raw) -> bytes | None:
    """JSON as it came, for a jsonb column; None for null."""
    if raw is NULL:
        return None
    value = JSONB + raw
    return None if value == _JSONB_NULL else value


def integer_of(value: int | None, limit: int) -> int | None:
    """`value` for an integer column of the range -limit to limit - 1."""
    if value is not None and not -limit <= value < limit:
        raise SurpriseError
    return value


class _Credits(dict[bytes, "bytes | None"]):
    """Numbers for a numeric column, with their digits as they came, by their JSON text; None for null."""

    def __missing__(self, text: bytes) -> bytes | None:
        number = str(text, "ascii")
        if number == "null":
            value = None
        elif len(text) <= _USUAL_DIGITS and (_TINY < (total := Decimal(number)) < _HUGE or not total):
            value = numeric(number)
        else:
            raise SurpriseError
        if len(self) >= _REMEMBERED:
            self.clear()
        self[text] = value
        return value


CREDITS: Final = _Credits()
"""Most numbers repeat, most of all 0: those met lately are remembered."""


def _is_usual(text: str) -> bool:
    """Whether a time in UTC is written so that Python reads it right or not at all."""
    return len(text) in _USUAL_LENGTHS and text[-1] == "Z" and text[10] == "T" and text[16] == ":" and text[19] in ".Z"


def time_of(text: str | None) -> datetime | None:
    """The time in UTC that `text` says."""
    if text is None:
        return None
    if _is_usual(text):
        return _from_text(text)
    return day_or_time(text)[0]


def day_or_time(text: str | None) -> tuple[datetime | None, bool]:
    """The time in UTC that `text` says, and whether it is a bare day."""
    if text is None:
        return None, False
    if _is_usual(text):
        return _from_text(text), False
    moment = read_moment(text)
    if moment.time is None:
        raise SurpriseError
    return moment.time, moment.on_day


def epoch_ms_of(value: float | None) -> int | None:
    """The time `value` milliseconds after 1970, in microseconds since 2000."""
    if value is None:
        return None
    if not -_MAX_MS < value < _MAX_MS:
        raise SurpriseError
    if type(value) is int:
        return value * 1000 + EPOCH_US
    text = repr(value)
    if len(text) - text.find(".") > _MICROSECOND_DIGITS:
        raise SurpriseError
    return round(value * 1000) + EPOCH_US
