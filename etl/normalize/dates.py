"""The API's dates: days and timestamps as text."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

# Restrict Python's parser to ISO 8601: some versions also accept invalid times such as 10:00:102.
_MOMENT = re.compile(
    r"(?P<day>(?P<year>[+-]?\d{4,})(?P<rest>-\d\d-\d\d)|\d{8}|\d{4}-?W\d\d(?:-?\d)?)"
    r"(?P<clock>[Tt ](?P<hour>\d\d)(?:(?P<colon>:?)(?P<minute>\d\d)(?:(?P=colon)(?P<second>\d\d)(?P<part>[.,]\d+)?)?)?"
    r" ?(?P<zone>[Zz]|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)?)?",
    re.ASCII,
)
_DIGITS = 7  # of a fraction, with its point: Python's times have microseconds


class Moment(NamedTuple):
    """A date of the API: its UTC time (None outside the years 1 to 9999), and whether it is a bare day."""

    time: datetime | None
    on_day: bool


def read_moment(text: str) -> Moment:
    """Parse an ISO 8601 day or timestamp; the default zone is UTC; digits beyond microseconds are dropped.

    Raises:
        ValueError: the text is neither.
    """
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise ValueError("not an ISO 8601 date")
    day, on_day, is_in_range = match["day"], match["clock"] is None, True
    if match["year"] is not None and not 1 <= int(match["year"]) <= 9999:
        is_in_range = False
        day = f"{2000 + int(match['year']) % 400}{match['rest']}"  # still has to be a date
    hour, minute, second, part = (match[name] or "" for name in ("hour", "minute", "second", "part"))
    later = timedelta(0)
    if second == "60":  # a leap second is the first of the next minute
        second, later = "59", timedelta(seconds=1)
    elif hour == "24" and not (minute + second + part[1:]).strip("0"):  # the end of a day is the beginning of the next
        hour, later = "00", timedelta(days=1)
    clock = f"{hour or '00'}:{minute or '00'}:{second or '00'}{part[:_DIGITS]}"
    local = datetime.fromisoformat(f"{day}T{clock}{(match['zone'] or 'Z').upper()}")
    if not is_in_range:
        return Moment(None, on_day)
    try:
        return Moment(local.astimezone(UTC) + later, on_day)
    except OverflowError:
        return Moment(None, on_day)
