"""The report: what the warehouse has to say, on one HTML page that asks nothing of anybody.

`facts` are asked of the database; `summary` and `findings` say what they come to, in numbers and in words; `plots` and
`tables` show them; `sections` and `page` put all of it together as HTML.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from etl.db.reading import reading
from etl.errors import SettingsError
from etl.files import write_atomically
from etl.report.facts import ask
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
    """Write the report as one self-contained HTML file; it replaces an older one in one go.

    Args:
        url: the database.
        schema: the warehouse's schema.
        output: the file to write.
        days: how many UTC days it looks back, 1 to `LONGEST_DAYS`.
        mask: takes secrets out of the page, should a run hold them.

    Raises:
        SettingsError: the file cannot be written.
        DatabaseError: the warehouse cannot be reached, or is not there.
    """
    html = await asyncio.to_thread(render, await _facts(url, schema, days))
    try:
        write_atomically(output, mask(html).encode())
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SettingsError(
            f"cannot write {output}: {error.strerror}", hint="Name a file that can be written with --output PATH."
        ) from None


async def _facts(url: str, schema: str, days: int) -> Facts:
    # One snapshot, so that the numbers of one section agree with those of the next.
    async with (
        reading(url, schema, purpose="report") as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        return await ask(connection, days)
