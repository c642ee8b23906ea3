"""Commands about access to data: forget, grant."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from etl.cli.invocation import Invocation, command, run_async
from etl.cli.root import app
from etl.errors import SettingsError
from etl.text import counted

if TYPE_CHECKING:
    from etl.config import Settings


@command(app, "forget", commits_runs=True)
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

    Says how many runs it will erase, and asks. An id that is not in the warehouse is remembered for later loads.

    Example: `cortex-etl forget --record rec_1 --yes`
    """
    from etl.app import forget as erase

    runs, records = runs or [], records or []
    if not (runs or records) or not all(each.strip() for each in (*runs, *records)):
        raise SettingsError("no run or record to forget", hint="Pass --run ID or --record ID.")
    settings = call.settings
    if not yes and not _confirmed(call, settings, runs, records):
        call.say("nothing was erased")
        raise typer.Exit(1)
    done = run_async(erase(settings, runs=runs, records=records))
    if json:
        call.out.json({"runs": done.runs, "rejects": done.rejects})
    elif not call.quiet:
        call.out.line(
            f"erased {counted(done.runs, 'run')} and {counted(done.rejects, 'quarantined item')}; "
            "backups, WAL archives and exports keep their copies"
        )


def _confirmed(call: Invocation, settings: Settings, runs: list[str], records: list[str]) -> bool:
    """Say how many runs will be erased, and ask."""
    from etl.app import count_to_forget

    if not sys.stdin.isatty() or call.form == "json":
        raise SettingsError("cannot prompt: not a terminal", hint="Pass --yes. Erased content cannot be restored.")
    count = run_async(count_to_forget(settings, runs=runs, records=records))
    named = ", ".join([*(f"run {each}" for each in runs), *(f"record {each}" for each in records)])
    return call.out.ask(f"Erase {counted(count, 'run')} for good ({named})?")


@command(app, "grant")
def grant(
    call: Invocation,
    role: Annotated[str, typer.Argument(help="Role that may read.", metavar="ROLE")],
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Run the statements in one transaction.")] = False,
) -> None:
    """Print the statements that let a role read the entities, the views and the state of the syncs, or apply them.

    They also set the role's search_path, so that its queries need no schema.

    Example: `cortex-etl grant analyst --apply`
    """
    from etl.app import reader_grants

    left = run_async(reader_grants(call.settings, role, apply=apply))
    if apply:
        call.say(f"granted: {role} may read the tables and views of schema {call.settings.database.schema_name}")
        for each in left:
            call.say(f"An administrator may also run, for queries without the schema: {each};")
        return
    for each in left:
        call.out.raw(f"{each};\n")
