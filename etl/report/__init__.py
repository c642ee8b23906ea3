"""The report: one self-contained HTML page about the runs in the warehouse.

`facts` reads the data, `aggregates` and `changes` analyse it, `headlines` writes the titles of sections, `plots` and
`html_tables` present the numbers, and `page` renders the page.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from etl.db.reading import reading
from etl.errors import cannot_write
from etl.files import write_atomically
from etl.report.facts import read_facts
from etl.report.page import render

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from etl.report.facts import Facts

DEFAULT_DAYS = 90
LONGEST_DAYS = 366

__all__ = ["DEFAULT_DAYS", "LONGEST_DAYS", "write_report"]


async def write_report(
    url: str, schema: str, output: Path, *, days: int = DEFAULT_DAYS, mask: Callable[[str], str] = str
) -> None:
    """Write the report as one self-contained HTML file, replacing an existing file atomically.

    Args:
        url: URL of the database.
        schema: schema of the warehouse.
        output: the file to write.
        days: number of UTC days to cover, 1 to `LONGEST_DAYS`.
        mask: masks secrets in the page, in case a run contains them.

    Raises:
        SettingsError: the file cannot be written.
        DatabaseError: the warehouse is unreachable or does not exist.
    """
    html = await asyncio.to_thread(render, await _read(url, schema, days))
    try:
        write_atomically(output, mask(html).encode())
    except BrokenPipeError:
        raise
    except OSError as error:
        raise cannot_write(output, error, hint="Name a writable file with --output PATH.") from None


async def _read(url: str, schema: str, days: int) -> Facts:
    # Read from one snapshot, so that the sections are consistent.
    async with (
        reading(url, schema, purpose="report") as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        return await read_facts(connection, days)
