"""Commands for the quarantine: rejects list, rejects retry."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from etl.cli.help import Group
from etl.cli.invocation import Invocation, command, run_async
from etl.cli.options import DemoOption, readable_settings
from etl.cli.root import app
from etl.errors import EXIT_HELD, EXIT_INCOMPLETE, EXIT_OK

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

rejects_group = typer.Typer(cls=Group, no_args_is_help=True, help="Show and retry quarantined runs.")
app.add_typer(rejects_group, name="rejects")


@command(rejects_group, "list")
def list_(
    call: Invocation,
    *,
    resolved: Annotated[bool, typer.Option("--all", help="Include resolved items.")] = False,
    json: JsonOption = False,
    demo: DemoOption = False,
) -> None:
    """List quarantined items, with a summary by reason; their bytes are in `etl_rejects.payload`.

    Example: `cortex-etl rejects list`
    """
    from etl.app import list_rejects

    rows = run_async(list_rejects(readable_settings(call, demo=demo), resolved=resolved))
    if json:
        call.out.json(rows)
        return
    if not rows:
        call.out.line("the quarantine is empty")
        return
    names = ["id", "workflow_id", "run_id", "reason", "error", "bytes", "created_at"]
    if resolved:
        names.append("resolved_at")
    call.out.table(names, [[row[name] for name in names] for row in rows])
    reasons = Counter(row["reason"] for row in rows if row["resolved_at"] is None)
    call.out.line(
        "In quarantine: " + (", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "0")
    )
    call.out.line("Once the cause is fixed, run: cortex-etl rejects retry")


@command(rejects_group, "retry", commits_runs=True)
def retry(
    call: Invocation,
    ids: Annotated[
        list[int] | None, typer.Argument(min=1, max=2**63 - 1, help="Ids of items; all if none is given.")
    ] = None,
    *,
    json: JsonOption = False,
) -> int:
    """Load quarantined items again: first as stored, then as the API returns them now.

    Exits with 1 if any item is still rejected, else with 75 if another invocation holds the stream of one.

    Example: `cortex-etl rejects retry`
    """
    from etl.app import retry_rejects

    with call.listening(call.settings.api.requests_per_minute, level="warning") as listener:
        report = run_async(retry_rejects(call.settings, ids=ids or [], listener=listener))
    if json:
        call.out.json(report.as_dict())
    elif not call.quiet:
        call.out.line(
            f"{report.loaded} loaded, {report.gone} gone from the API, {len(report.still_bad)} still rejected"
            + (f", {report.held} held by another invocation" if report.held else "")
        )
    for number, reason, error in report.still_bad:
        if call.form == "json":
            call.logs().write("error", "reject.retried", id=number, reason=reason, error=error)
        else:
            call.out.line(f"  {number}: {reason}: {error}", err=True)
    if report.still_bad:
        return EXIT_INCOMPLETE
    return EXIT_HELD if report.held else EXIT_OK
