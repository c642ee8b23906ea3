"""The API's dates, which are days or timestamps in ISO 8601 format."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

# Restrict Python's parser to ISO 8601: some versions also accept invalid times such as 10:00:102.
_MOMENT = re.compile(
    r"(?P<day>(?P<year>[+-]?\d{4,})(?P<rest>-\d\d-\d\d)|\d{8}|\d{4}-?W\d\d(?:-?\d)?)"
    r"(?P<clock>[Tt ](?P<hour>\d\d)(?:(?P<colon>:?)(?P<minute>\d\d)(?:(?P=colon)(?P<second>\d\d)(?P<part>[.,]\d+)?)?)?"
    r" ?(?P<zone>[Zz]|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)?)?",
    re.ASCII,
)
_DIGITS = 7  # length of a fraction with its point, because Python's times have microseconds


_USUAL_LENGTHS = frozenset(
    map(len, ("2026-09-02T17:14:49Z", "2026-09-02T17:14:49.960Z", "2026-09-02T17:14:49.960123Z"))
)
_from_text = datetime.fromisoformat


def time_of(text: str) -> datetime:
    """Convert an ISO 8601 day or timestamp to a UTC time.

    The default time zone is UTC. Digits beyond microseconds are dropped.

    Raises:
        ValueError: the text is neither a day nor a timestamp.
        OverflowError: the time is outside the years 1 to 9999.
    """
    # Python parses this format correctly or raises an error.
    if len(text) in _USUAL_LENGTHS and text[-1] == "Z" and text[10] == "T" and text[16] == ":" and text[19] in ".Z":
        try:
            return _from_text(text)
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
    clock = f"{hour or '00'}:{minute or '00'}:{second or '00'}{part[:_DIGITS]}"
    local = _from_text(f"{day}T{clock}{(match['zone'] or 'Z').upper()}")
    if not is_in_range:
        raise OverflowError("beyond the calendar")
    return local.astimezone(UTC) + carry


def is_bare_day(text: str) -> bool:
    """Return whether a date that `time_of` accepts is a day without a time."""
    match = None if len(text) in _USUAL_LENGTHS else _MOMENT.fullmatch(text)
    return match is not None and match["clock"] is None
