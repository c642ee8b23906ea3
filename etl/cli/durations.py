"""Durations as options: 45s, 10m, 1h, 7d or a number of seconds."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import typer

from etl.config import format_duration, parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable


def at_least(shortest: timedelta) -> Callable[[str], timedelta]:
    """Return a parser of durations that rejects durations shorter than `shortest`."""

    def parse(text: str) -> timedelta:
        try:
            found = parse_duration(text)
        except ValueError as expected:
            raise typer.BadParameter(f"expected {expected}") from None
        if found < shortest:
            raise typer.BadParameter(f"expected at least {format_duration(shortest)}")
        return found

    return parse


def time_limit(what: str, *, default: str) -> Any:
    """Return the option `--timeout`, a time limit; `default` is a text such as `30s`."""
    return typer.Option(
        parser=at_least(timedelta(milliseconds=1)),
        show_default=default,
        metavar="DURATION",
        help=f"{what}: 30s, 5m, or a number of seconds.",
    )
