"""The API's dates: days and timestamps as text."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple

_TIME = re.compile(
    r"(?P<year>[+-]?\d{4,})-(?P<month>\d\d)-(?P<day>\d\d)"
    r"(?P<clock>[Tt ](?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?"
    r" ?(?P<zone>[Zz]|[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII,
)
# Restrict Python's parser to ISO 8601: some versions also accept invalid times such as 10:00:102.
_UNUSUAL = re.compile(
    r"(?:\d{8}|\d{4}-\d\d-\d\d|\d{4}-?W\d\d(?:-?\d)?)"
    r"(?P<clock>[Tt ]\d\d(?::?\d\d(?::?\d\d(?:[.,]\d+)?)?)?(?:[Zz]|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)?)?",
    re.ASCII,
)


class Moment(NamedTuple):
    """A date of the API: its UTC time (None outside the years 1 to 9999), whether it is a bare day, and its text."""

    time: datetime | None
    on_day: bool
    text: str


def read_moment(text: str) -> Moment:
    """Parse an ISO 8601 day or timestamp; the default zone is UTC; digits beyond microseconds are dropped.

    Raises:
        ValueError: the text is neither.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        return _read_unusual(text)
    on_day = match["clock"] is None
    part = {name: int(match[name] or 0) for name in ("month", "day", "hour", "minute", "second")}
    leap = timedelta(0)
    if part["second"] == 60:  # a leap second is the first of the next minute
        part["second"], leap = 59, timedelta(seconds=1)
    microsecond = int((match["fraction"] or "")[:6].ljust(6, "0"))
    if (part["hour"], part["minute"], part["second"], microsecond, leap) == (24, 0, 0, 0, timedelta(0)):
        part["hour"], leap = 0, timedelta(days=1)  # the end of a day is the beginning of the next
    year = int(match["year"])
    zone = _zone(match["zone"])
    if not 1 <= year <= 9999:
        datetime(2000 + year % 400, **part, microsecond=microsecond, tzinfo=zone)  # still has to be a date
        return Moment(None, on_day, text)
    local = datetime(year, **part, microsecond=microsecond, tzinfo=zone)
    return Moment(_in_utc(local, leap), on_day, text)


def _zone(text: str | None) -> timezone:
    if text is None or text in "Zz":
        return UTC
    digits = text[1:].replace(":", "")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:] or 0))
    return timezone(-offset if text[0] == "-" else offset)


def _read_unusual(text: str) -> Moment:
    """Parse rare forms of ISO 8601 (`20231225T101500Z`, `2023-W52-1`), as far as Python supports them."""
    match = _UNUSUAL.fullmatch(text)
    if match is None:
        raise ValueError(f"no date: {text[:40]!r}")
    read = datetime.fromisoformat(text.upper())
    zoned = read if read.tzinfo is not None else read.replace(tzinfo=UTC)
    return Moment(_in_utc(zoned), match["clock"] is None, text)


def _in_utc(local: datetime, leap: timedelta = timedelta(0)) -> datetime | None:
    """Convert to UTC and add `leap`; return None if the result is outside the range of `datetime`."""
    try:
        return local.astimezone(UTC) + leap
    except OverflowError:
        return None
