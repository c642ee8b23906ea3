"""Durations as options: 45s, 10m, 1h, 7d or a number of seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from etl.config import format_duration, parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta


def at_least(shortest: timedelta) -> Callable[[str], timedelta]:
    """Return a parser of durations that are at least so long."""

    def parse(text: str) -> timedelta:
        try:
            found = parse_duration(text)
        except ValueError as expected:
            raise typer.BadParameter(f"expected {expected}") from None
        if found < shortest:
            raise typer.BadParameter(f"expected at least {format_duration(shortest)}")
        return found

    return parse
