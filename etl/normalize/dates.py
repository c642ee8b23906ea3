"""Parse the API's dates, which are days or timestamps in ISO 8601 format."""

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
_DIGITS = 7  # length of a fraction with its point, because Python's times have microseconds


class Moment(NamedTuple):
    """A parsed date: its UTC time (None outside the years 1 to 9999), and whether it is a day without a time."""

    time: datetime | None
    on_day: bool


def read_moment(text: str) -> Moment:
    """Parse an ISO 8601 day or timestamp.

    The default time zone is UTC. Digits beyond microseconds are dropped.

    Raises:
        ValueError: the text is neither a day nor a timestamp.
    """
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise ValueError("not an ISO 8601 date")
    day, on_day, is_in_range = match["day"], match["clock"] is None, True
    if match["year"] is not None and not 1 <= int(match["year"]) <= 9999:
        is_in_range = False
        day = f"{2000 + int(match['year']) % 400}{match['rest']}"  # a year with the same calendar, to check the date
    hour, minute, second, part = (match[name] or "" for name in ("hour", "minute", "second", "part"))
    carry = timedelta(0)
    if second == "60":  # a leap second counts as the first second of the next minute
        second, carry = "59", timedelta(seconds=1)
    elif hour == "24" and not (minute + second + part[1:]).strip("0"):  # 24:00 is 00:00 of the next day
        hour, carry = "00", timedelta(days=1)
    clock = f"{hour or '00'}:{minute or '00'}:{second or '00'}{part[:_DIGITS]}"
    local = datetime.fromisoformat(f"{day}T{clock}{(match['zone'] or 'Z').upper()}")
    if not is_in_range:
        return Moment(None, on_day)
    try:
        return Moment(local.astimezone(UTC) + carry, on_day)
    except OverflowError:
        return Moment(None, on_day)
