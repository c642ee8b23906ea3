"""forget: erase for good. grant: let others read."""

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
        list[str] | None, typer.Option("--run", metavar="ID", help="This run, with all that belongs to it; repeatable.")
    ] = None,
    records: Annotated[
        list[str] | None,
        typer.Option("--record", metavar="ID", help="All runs of this record, those to come as well; repeatable."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Erase the content of a run, or of all runs of a record, for good: rows, and bytes in quarantine.

    Example: `cortex-etl forget --record rec_1 --yes`
    """
    from etl.app import forget as erase

    settings = call.settings
    if not yes:
        if not sys.stdin.isatty():
            raise SettingsError("nobody is there to be asked", hint="Say --yes: what is forgotten is gone for good.")
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
    role: Annotated[str, typer.Argument(help="The role of whoever is to read.", metavar="ROLE")],
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Run the statements, all or none.")] = False,
) -> None:
    """Print what lets a role read the warehouse and write nothing, or apply it.

    Example: `cortex-etl grant analyst --apply`
    """
    from etl.app import reader_grants

    grants = run_async(reader_grants(call.settings, role, apply=apply))
    if apply:
        call.say(f"granted: {role} may read the tables and views of schema {call.settings.database.schema_name}")
        return
    for each in grants:
        typer.echo(f"{each};")
