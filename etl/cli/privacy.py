"""Commands about access to data: forget, grant."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from etl.cli.invocation import Invocation, command, run_async
from etl.cli.output import encode_json
from etl.cli.root import app
from etl.errors import SettingsError


@command(app, "forget")
def forget(
    call: Invocation,
    *,
    runs: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="ID", help="Erase this run and everything that belongs to it; repeatable."),
    ] = None,
    records: Annotated[
        list[str] | None,
        typer.Option("--record", metavar="ID", help="Erase all runs of this record, future ones included; repeatable."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Erase the content of a run, or of all runs of a record, for good: rows, and bytes in quarantine.

    Example: `cortex-etl forget --record rec_1 --yes`
    """
    from etl.app import forget as erase

    settings = call.settings
    if not yes:
        if not sys.stdin.isatty():
            raise SettingsError("cannot prompt: not a terminal", hint="Pass --yes. Erased content cannot be restored.")
        what = ", ".join([*(f"run {each}" for each in runs or []), *(f"record {each}" for each in records or [])])
        if not typer.confirm(f"Erase {what or 'nothing'} for good?", err=True):
            call.say("nothing was erased")
            raise typer.Exit(1)
    done = run_async(erase(settings, runs=runs or [], records=records or []))
    if json:
        typer.echo(encode_json({"runs": done.runs, "rejects": done.rejects}))
    elif not call.quiet:
        typer.echo(
            f"erased {done.runs:,} run{'' if done.runs == 1 else 's'} and {done.rejects:,} from quarantine; "
            "backups, WAL archives and exports keep their copies"
        )


@command(app, "grant")
def grant(
    call: Invocation,
    role: Annotated[str, typer.Argument(help="Role that may read.", metavar="ROLE")],
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Run the statements in one transaction.")] = False,
) -> None:
    """Print the statements that let a role read the warehouse, or apply them.

    Example: `cortex-etl grant analyst --apply`
    """
    from etl.app import reader_grants

    grants = run_async(reader_grants(call.settings, role, apply=apply))
    if apply:
        call.say(f"granted: {role} may read the tables and views of schema {call.settings.database.schema_name}")
        return
    for each in grants:
        typer.echo(f"{each};")
