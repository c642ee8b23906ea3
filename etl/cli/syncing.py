"""Commands that load: sync, backfill, reconcile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etl.cli.invocation import Invocation, command, repeat, shared_hints
from etl.cli.options import AppOption, WorkflowOption, at_least
from etl.cli.output import flush
from etl.cli.root import app
from etl.cli.telemetry import run_watched, summary_of_error
from etl.errors import EXIT_HELD, EXIT_OK, SettingsError
from etl.text import counted

if TYPE_CHECKING:
    from etl.app import SyncSummary
    from etl.sync.stream import Mode

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Fetch and normalize, but write nothing.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")]
MetricsOption = Annotated[
    Path | None, typer.Option("--metrics-file", metavar="PATH", help="Write Prometheus metrics to this file.")
]
JoinOption = Annotated[
    str | None,
    typer.Option("--join", metavar="NAME", help="Share the work with all copies started with this name, on any hosts."),
]
_MANY = 20  # streams; if there are more, only unsuccessful ones are shown


def parse_moment(text: str) -> datetime:
    """Parse a date (its midnight) or a time, in UTC unless it has a time zone.

    Raises:
        typer.BadParameter: it is neither.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(f"expected a date such as 2026-11-01 or 2026-11-01T12:00:00Z, got {text!r}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@command(app, "sync", commits_runs=True)
def sync(
    call: Invocation,
    *,
    apps: AppOption = None,
    workflows: WorkflowOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    join: JoinOption = None,
    metrics_file: MetricsOption = None,
    every: Annotated[
        timedelta | None,
        typer.Option(
            "--every",
            parser=at_least(timedelta(seconds=1)),
            metavar="DURATION",
            help="Repeat it at this interval until stopped, with a summary per round: 30s, 10m, 1h.",
        ),
    ] = None,
) -> int:
    """Load new and changed runs; the first sync of a workflow loads its history.

    Example: `cortex-etl sync --quiet`

    Example: `cortex-etl sync --workflow wf_1 --dry-run`
    """
    return _run(
        call, "sync", apps, workflows, dry_run=dry_run, json=json, join=join, metrics_file=metrics_file, every=every
    )


@command(app, "backfill", commits_runs=True)
def backfill(
    call: Invocation,
    *,
    since: Annotated[
        datetime | None,
        typer.Option(parser=parse_moment, metavar="DATE", help="Load runs created at or after this date (UTC)."),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(parser=parse_moment, metavar="DATE", help="Load runs created before this date (UTC)."),
    ] = None,
    apps: AppOption = None,
    workflows: WorkflowOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    join: JoinOption = None,
    metrics_file: MetricsOption = None,
) -> int:
    """Load the history, all of it or between two dates; resumes where it stopped.

    Example: `cortex-etl backfill`

    Example: `cortex-etl backfill --since 2026-01-01 --until 2026-02-01`
    """
    return _run(
        call,
        "backfill",
        apps,
        workflows,
        since=since,
        until=until,
        dry_run=dry_run,
        json=json,
        join=join,
        metrics_file=metrics_file,
    )


@command(app, "reconcile", commits_runs=True)
def reconcile(
    call: Invocation,
    *,
    apps: AppOption = None,
    workflows: WorkflowOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    join: JoinOption = None,
    metrics_file: MetricsOption = None,
) -> int:
    """Compare everything the API lists with the warehouse: late changes to old runs, and runs that are gone.

    Example: `cortex-etl reconcile --workflow wf_1`
    """
    return _run(call, "reconcile", apps, workflows, dry_run=dry_run, json=json, join=join, metrics_file=metrics_file)


def _run(
    call: Invocation,
    mode: Mode,
    apps: list[str] | None,
    workflows: list[str] | None,
    *,
    dry_run: bool,
    json: bool,
    join: str | None,
    metrics_file: Path | None,
    since: datetime | None = None,
    until: datetime | None = None,
    every: timedelta | None = None,
) -> int:
    options = {
        "apps": apps or [],
        "workflows": workflows or [],
        "since": since,
        "until": until,
        "dry_run": dry_run,
        "join": join,
    }
    try:
        _check_options(since, until, join, dry_run=dry_run)
    except SettingsError as error:
        if json:
            call.out.json(summary_of_error(mode, error).as_dict())
        raise

    def run_once() -> SyncSummary:
        summary = run_watched(call, mode, options, metrics_file)
        _show(call, summary, json=json)
        return summary

    if every is not None:
        return repeat(call, every, run_once)
    summary = run_once()
    if summary.cause is not None:
        raise summary.cause
    return summary.exit_code


def _check_options(since: datetime | None, until: datetime | None, join: str | None, *, dry_run: bool) -> None:
    if since is not None and until is not None and since >= until:
        raise SettingsError("--until is not after --since", hint="Pass the earlier date as --since.")
    if join is not None and dry_run:
        raise SettingsError("--join cannot be combined with --dry-run", hint="Leave out one of them.")
    if join is not None and not join.strip():
        raise SettingsError("--join needs a name", hint="Pass a name such as nightly.")


def _show(call: Invocation, summary: SyncSummary, *, json: bool) -> None:
    """Print a summary without the error that ended the invocation."""
    if json:
        call.out.json(summary.as_dict())
    elif not call.quiet and (summary.streams or summary.cause is None):
        _show_summary(call, summary)
    if summary.cause is None and summary.exit_code != EXIT_OK and (call.quiet or json):
        _report_trouble(call, summary)


def _show_summary(call: Invocation, summary: SyncSummary) -> None:
    rows = [
        [each.app_id, each.workflow_id, each.status, each.api_count, each.warehouse_count]
        for each in summary.streams
        if len(summary.streams) <= _MANY or each.status != "succeeded"
    ]
    if rows:
        call.out.table(["app", "workflow", "status", "api", "warehouse"], rows, numeric=(3, 4), whole=(0, 1, 2))
    for line in _failures(summary):
        call.out.line(line)
    call.out.line(_in_one_line(summary))


def _failures(summary: SyncSummary) -> list[str]:
    """List the streams that did not succeed, with errors and hints, but without the error that ended the invocation."""
    streams = [each for each in summary.streams if each.status != "succeeded" and each.error != summary.error]
    by_hint: dict[str, list[str]] = {}
    for each, hint in zip(streams, shared_hints([each.hint for each in streams]), strict=True):
        line = ": ".join(filter(None, (f"{each.app_id}/{each.workflow_id}", each.status, each.error)))
        by_hint.setdefault(hint, []).append(line)
    return [line for hint, lines in by_hint.items() for line in (*lines, *([f"  hint: {hint}"] if hint else []))]


def _in_one_line(summary: SyncSummary) -> str:
    """Return the summary in one line, without counts of 0."""
    kinds = (
        ("new", summary.runs_inserted),
        ("changed", summary.runs_updated),
        ("unchanged", summary.runs_unchanged),
        ("gone", summary.runs_gone),
        ("quarantined", summary.rejects),
    )
    counts = ", ".join(f"{count:,} {name}" for name, count in kinds if count or name in ("new", "changed"))
    what = f"{summary.mode}{' (dry run: nothing written)' if summary.dry_run else ''}"
    again = f" ({summary.retries:,} of them retries)" if summary.retries else ""
    pages = f"{counted(summary.pages, 'page')} of {counted(summary.runs_seen, 'run')}"
    read = f"{counted(summary.requests, 'request')}{again} for {pages}"
    return f"{what} {summary.status}: {counts}; {read} in {summary.seconds:.1f} s"


def _report_trouble(call: Invocation, summary: SyncSummary) -> None:
    """Write the reason for an exit code other than 0 to stderr if no table is printed that shows it."""
    flush()
    if call.form == "json":
        call.logs().write("error", "sync.incomplete", status=summary.status, error=summary.error, hint=summary.hint)
        return
    if summary.exit_code == EXIT_HELD:  # other processes load the streams
        call.out.line(f"{summary.mode} {summary.status}: {summary.error}", err=True)
        return
    for line in (_in_one_line(summary), *_failures(summary)):
        call.out.line(line, err=True)
