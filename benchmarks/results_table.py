"""The table of results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.measures import Line

_MARKS = {True: "met", False: "MISSED", None: ""}


def show(title: str, lines: Sequence[Line]) -> None:
    """Print the lines as a table, at least 200 characters wide."""
    table = Table(title=title, title_justify="left")
    table.add_column("what")
    for name in ("runs/s", "s", "CPU s", "server CPU s", "peak MB", "requests"):
        table.add_column(name, justify="right")
    for name in ("note", "goal", ""):
        table.add_column(name)
    for line in lines:
        table.add_row(
            line.what,
            _number(line.rate),
            _number(line.seconds, 2),
            _number(line.cpu_s, 2),
            _number(line.server_cpu_s, 2),
            _number(line.peak_mb),
            _number(line.requests),
            line.note,
            line.goal,
            _MARKS[line.met],
        )
    console = Console()
    Console(width=max(console.width, 200)).print(table)


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
