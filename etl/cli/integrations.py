"""Commands for other tools that read the warehouse: dbt, mcp."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etl.cli.invocation import Invocation, command, run_async
from etl.cli.options import DemoOption, readable_settings, time_limit
from etl.cli.root import app
from etl.errors import SettingsError, cannot_write, install_extra

if TYPE_CHECKING:
    from etl.config import Settings


@command(app, "dbt")
def dbt(
    call: Invocation,
    *,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write it to a new file instead of stdout.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="With --output: replace the file if it exists.")] = False,
    demo: DemoOption = False,
) -> None:
    """Print a `sources.yml` for dbt: the tables and views with descriptions, tests and freshness.

    Example: `cortex-etl dbt --output models/sources.yml`
    """
    if force and output is None:
        raise SettingsError("--force needs a file to replace", hint="Name it with --output FILE.")
    text = run_async(_sources(readable_settings(call, demo=demo)))
    if output is None:
        call.out.raw(text)
        return
    from etl.files import write_atomically

    if output.is_file() and not output.is_relative_to("/dev") and not force:
        raise SettingsError(f"{output} already exists; nothing was changed", hint="Pass --force to replace it.")
    try:
        write_atomically(output, text.encode())
    except OSError as error:
        raise cannot_write(output, error, hint="Name a writable file with --output FILE.") from None
    call.say(f"Wrote {output}")


async def _sources(settings: Settings) -> str:
    from etl.db.reading import reading_url
    from etl.dictionary import read_dictionary
    from etl.dictionary.dbt import sources

    return sources(await read_dictionary(await reading_url(settings), settings.database.schema_name))


@command(app, "mcp")
def mcp(
    call: Invocation,
    *,
    rows: Annotated[
        int, typer.Option("--rows", min=1, metavar="N", help="Largest number of rows in one answer.")
    ] = 200,
    timeout: Annotated[timedelta, time_limit("Time limit of one query", default="30s")] = timedelta(seconds=30),
    demo: DemoOption = False,
) -> None:
    """Serve the warehouse to assistants, read-only, on stdin and stdout (Model Context Protocol).

    Its tools: `query` runs SQL, `describe` explains tables and columns, `examples` finds questions with their SQL.

    Example: `cortex-etl mcp --rows 50`

    Example: `claude mcp add cortex -- cortex-etl --config ~/cortex/config.yaml mcp`
    """
    try:
        from etl.assistant.tools import Limits, serve
    except ImportError:
        raise SettingsError(
            "the server for assistants needs packages that are not installed",
            hint=f"Run: {install_extra('mcp')}",
        ) from None
    limits = Limits(rows, timeout.total_seconds())
    run_async(serve(readable_settings(call, demo=demo), limits, call.mask))
