"""The command `export`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from etl.cli.invocation import Invocation, command, run_async
from etl.cli.root import app
from etl.cli.warehouse import DemoOption, database_url, readable_settings
from etl.errors import SettingsError


@command(app, "export")
def export(
    call: Invocation,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the files; created if missing.")],
    *,
    form: Annotated[Literal["parquet"], typer.Option("--format", help="File format.")] = "parquet",
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d", "%Y-%m"], metavar="DATE", help="Skip months before this date."),
    ] = None,
    demo: DemoOption = False,
) -> None:
    """Write Parquet files, one per table and month, for the months that changed since the last export.

    Example: `cortex-etl export --format parquet /data/cortex`
    """
    del form  # there is only one
    try:
        from etl.export import export_parquet
    except ImportError:
        raise SettingsError(
            "the export needs packages that are not installed", hint='Run: pip install "cortex-etl[parquet]"'
        ) from None
    settings = readable_settings(call, demo=demo)
    schema, first = settings.database.schema_name, since.date() if since else None
    written = run_async(export_parquet(database_url(settings), schema, directory, since=first))
    for path in written:
        typer.echo(path)
    if inexact := sum(written.values()):
        call.say(
            f"{inexact:,} credits have more digits than Parquet can store: rounded to 22 places, null from 10^16; "
            "see decimals_not_exact in manifest.json"
        )
    call.say(f"Wrote {len(written)} files." if written else "Nothing has changed since the last export.")
