"""Write the result of a query while it is received, so that its size is not limited."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from etl.cli.output import stream, table_text, write_pieces
from etl.errors import SettingsError
from etl.files import replacing
from etl.text import counted, visible_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from etl.db.querying import Query

    Write = Callable[[str], Awaitable[None]]

Form = Literal["table", "csv", "json", "jsonl"]

_NUMBERS = ("int2", "int4", "int8", "numeric", "float4", "float8", "money", "oid")


async def write_result(query: Query, form: Form, output: Path | None) -> None:
    """Write the result of a query.

    Args:
        query: the query, not read yet.
        form: `table`; `csv`, as PostgreSQL writes it; `json`, a list of row objects; or `jsonl`, an object per line.
        output: the file to replace when the result is complete; None for stdout.

    Raises:
        SettingsError: the file cannot be written, or the query fails.
        DatabaseError: the connection is lost.
    """
    if output is None:
        await _write(query, form, partial(stream, is_escaped=form == "table"))
        return
    try:
        with replacing(output) as file:

            async def write(text: str) -> None:
                await write_pieces(file.fileno(), text.encode())

            await _write(query, form, write, to_file=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SettingsError(
            f"cannot write {output}: {error.strerror}", hint="Name a writable file with --output FILE."
        ) from None


async def _write(query: Query, form: Form, write: Write, *, to_file: bool = False) -> None:
    if form == "csv":
        await query.copy("csv", write)
    elif form == "table":
        await _write_table(query, write, to_file=to_file)
    elif form == "jsonl":
        await query.copy("jsonl", partial(_write_json, write))
    else:
        await _write_list(query, partial(_write_json, write))


async def _write_json(write: Write, text: str) -> None:
    await write(visible_json(text))


async def _write_list(query: Query, write: Write) -> None:
    line_end = ""

    async def write_items(lines: str) -> None:
        nonlocal line_end
        text = line_end + lines
        line_end = "\n" if text.endswith("\n") else ""  # a comma follows only if another line does
        await write(text.removesuffix("\n").replace("\n", ",\n "))

    await write("[")
    await query.copy("jsonl", write_items)
    await write("]\n")


async def _write_table(query: Query, write: Write, *, to_file: bool) -> None:
    """Write a table; a long result is written as several tables, one per block of rows."""
    numeric = [place for place, kind in enumerate(query.types) if kind in _NUMBERS]
    count = 0
    async for rows in query.blocks():
        await write(table_text(query.columns, rows, numeric=numeric, to_file=to_file))
        count += len(rows)
    await write(f"({counted(count, 'row')})\n")
