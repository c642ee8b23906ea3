"""Commands that load: sync, backfill, reconcile; and those that say how it stands: status, plan."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etl.cli.invocation import Invocation, command
from etl.cli.output import encode_json, show_table
from etl.cli.root import app
from etl.cli.telemetry import run_watched
from etl.errors import EtlError, SettingsError

if TYPE_CHECKING:
    from etl.app import SyncSummary
    from etl.sync.stream import Mode

AppOption = Annotated[list[str] | None, typer.Option("--app", metavar="ID", help="Only this app; repeatable.")]
WorkflowOption = Annotated[
    list[str] | None, typer.Option("--workflow", metavar="ID", help="Only this workflow; repeatable.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Fetch and normalize, write nothing.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one summary object on stdout.")]
MetricsOption = Annotated[
    Path | None, typer.Option("--metrics-file", metavar="PATH", help="Write metrics for Prometheus there.")
]
_HELD = 75  # the exit code where others hold all that was asked for; they do the work, so --quiet keeps quiet
_MANY = 20  # streams; more than a screen takes are shown only where something is wrong with them


def parse_moment(text: str) -> datetime:
    """Read a day (its midnight) or a time, UTC where it says no zone.

    Raises:
        typer.BadParameter: it is neither.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date; write 2026-11-01 or 2026-11-01T12:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@command(app, "sync")
def sync(
    call: Invocation,
    *,
    apps: AppOption = None,
    workflows: WorkflowOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    metrics_file: MetricsOption = None,
) -> int:
    """Load what is new or has changed; the first sync of a workflow loads its history.

    Example: `cortex-etl sync --quiet`
    """
    return _run(call, "sync", apps, workflows, dry_run=dry_run, json=json, metrics_file=metrics_file)


@command(app, "backfill")
def backfill(
    call: Invocation,
    *,
    since: Annotated[
        datetime | None, typer.Option(parser=parse_moment, metavar="DATE", help="Runs created at or after it (UTC).")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(parser=parse_moment, metavar="DATE", help="Runs created before it (UTC).")
    ] = None,
    apps: AppOption = None,
    workflows: WorkflowOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    metrics_file: MetricsOption = None,
) -> int:
    """Load the history, whole or between two dates; resumes where it stopped.

    Example: `cortex-etl backfill --since 2026-01-01`
    """
    if since is not None and until is not None and since >= until:
        raise SettingsError("--until is not after --since", hint="Exchange them: --since is the earlier one.")
    return _run(
        call,
        "backfill",
        apps,
        workflows,
        since=since,
        until=until,
        dry_run=dry_run,
        json=json,
        metrics_file=metrics_file,
    )


@command(app, "reconcile")
def reconcile(
    call: Invocation,
    *,
    apps: AppOption = None,
    workflows: WorkflowOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    metrics_file: MetricsOption = None,
) -> int:
    """Compare all that the API lists with the warehouse: late changes of old runs, and runs that are gone.

    Example: `cortex-etl reconcile --workflow wf_1`
    """
    return _run(call, "reconcile", apps, workflows, dry_run=dry_run, json=json, metrics_file=metrics_file)


def _run(
    call: Invocation,
    mode: Mode,
    apps: list[str] | None,
    workflows: list[str] | None,
    *,
    dry_run: bool,
    json: bool,
    metrics_file: Path | None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> int:
    options = {
        "apps": apps or [],
        "workflows": workflows or [],
        "since": since,
        "until": until,
        "dry_run": dry_run,
    }
    try:
        summary = run_watched(call, mode, options, metrics_file)
    except EtlError as error:
        if json:
            typer.echo(call.mask(encode_json(_ended_by(error, mode, dry_run=dry_run))))
        raise
    if json:
        typer.echo(call.mask(encode_json(summary.as_dict())))
    elif not call.quiet:
        _show_summary(call, summary)
    if summary.exit_code not in (0, _HELD) and (call.quiet or json):
        _say_what_is_wrong(call, summary)
    return summary.exit_code


def _ended_by(error: EtlError, mode: Mode, *, dry_run: bool) -> dict[str, Any]:
    """The summary of an invocation that an error ended, before it began or in the middle."""
    if error.summary is not None:
        return error.summary.as_dict()
    from etl.app import SyncSummary

    summary = SyncSummary(mode, dry_run=dry_run, status="failed", exit_code=error.exit_code)
    summary.error, summary.hint = error.message, error.hint
    return summary.as_dict()


def _show_summary(call: Invocation, summary: SyncSummary) -> None:
    rows = [
        [each.app_id, each.workflow_id, each.outcome, each.api_count, each.warehouse_count]
        for each in summary.streams
        if len(summary.streams) <= _MANY or each.outcome != "succeeded"
    ]
    if rows:
        show_table(["app", "workflow", "outcome", "api", "warehouse"], rows, numeric=(3, 4), whole=(2,))
    for line in _troubles(summary):
        typer.echo(call.mask(line))
    typer.echo(call.mask(_in_one_line(summary)))


def _troubles(summary: SyncSummary) -> list[str]:
    """Name the streams that did not succeed, each with its error and hint."""
    lines = []
    for each in summary.streams:
        if each.outcome != "succeeded":
            lines.append(f"{each.app_id}/{each.workflow_id}: {each.outcome}: {each.error}")
            if each.hint:
                lines.append(f"  hint: {each.hint}")
    return lines


def _in_one_line(summary: SyncSummary) -> str:
    """The end in one line, with every count that is not 0."""
    kinds = (
        ("new", summary.runs_inserted),
        ("changed", summary.runs_updated),
        ("unchanged", summary.runs_unchanged),
        ("gone", summary.runs_gone),
        ("quarantined", summary.rejects),
    )
    counts = ", ".join(f"{count:,} {name}" for name, count in kinds if count or name in ("new", "changed"))
    what = f"{summary.mode}{' (dry run: nothing written)' if summary.dry_run else ''}"
    again = f" ({summary.retries:,} of them again)" if summary.retries else ""
    read = f"{summary.requests:,} requests{again} for {summary.pages:,} pages of {summary.runs_seen:,} runs"
    line = f"{what} {summary.status}: {counts}; {read} in {summary.seconds:.1f} s"
    return f"{line}; {summary.error}" if summary.error and not _troubles(summary) else line


def _say_what_is_wrong(call: Invocation, summary: SyncSummary) -> None:
    """Tell stderr why the exit code is not 0, where the table that says so is not shown."""
    sys.stdout.flush()
    if call.log_format == "json":
        call.logs().write("error", "sync.troubled", status=summary.status, error=summary.error, hint=summary.hint)
        return
    for line in (_in_one_line(summary), *_troubles(summary)):
        typer.echo(call.mask(line), err=True)
