"""Durations as people write them: `45s`, `10m`, `1h`, `7d` or a number of seconds."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_FORM = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_S = 36500 * 86400  # a century: what is counted back by it must stay a date
ALLOWED = "a duration: 45s, 10m, 1h, 7d, or a number of seconds"


def parse_duration(value: object) -> timedelta:
    """Read a duration.

    Args:
        value: text such as `10m`, a number of seconds, or a timedelta already.

    Returns:
        The duration, never negative.

    Raises:
        ValueError: the value is no duration.
    """
    if isinstance(value, timedelta) and value >= timedelta(0):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(ALLOWED)  # noqa: TRY004 -- pydantic reports ValueErrors only
    match = _FORM.fullmatch(str(value).strip().lower())
    if match is None:
        raise ValueError(ALLOWED)
    seconds = float(match["number"]) * _SECONDS[match["unit"]]
    if seconds > _LONGEST_S:
        raise ValueError(f"{ALLOWED}, at most 36500d")
    return timedelta(seconds=seconds)


def format_duration(value: timedelta) -> str:
    """Write a duration in its largest whole unit: `1h`, `90s`, `0s`."""
    seconds = value.total_seconds()
    for unit in ("d", "h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{int(seconds // _SECONDS[unit])}{unit}"
    return f"{seconds:g}s"


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, when_used="json")]
"""A timedelta that is read and written in the notation of `config.yaml`."""
