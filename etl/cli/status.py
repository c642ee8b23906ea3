"""Commands about the streams: status, plan."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from etl.cli.invocation import Invocation, command, run_async, shared_hints
from etl.cli.options import AppOption, DemoOption, WorkflowOption, readable_settings
from etl.cli.root import app
from etl.errors import EXIT_INCOMPLETE, EXIT_OK
from etl.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from etl.app import Plan, StatusReport

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@command(app, "status")
def status(
    call: Invocation,
    *,
    explain: Annotated[bool, typer.Option("--explain", help="Say what blocks each watermark.")] = False,
    json: JsonOption = False,
    demo: DemoOption = False,
) -> int:
    """Show each stream: its state, counts, watermark and lag, who holds it, and what to do about it.

    Exits with 1 before the first sync, and then unless every stream is complete, retired or being loaded.

    Example: `cortex-etl status --explain`
    """
    from etl.app import status_report

    report = run_async(status_report(readable_settings(call, demo=demo), explain=explain))
    if json:
        call.out.json(report.as_dict())
    else:
        _show_status(call, report, explain=explain)
    return EXIT_OK if report.is_healthy else EXIT_INCOMPLETE


def _show_status(call: Invocation, report: StatusReport, *, explain: bool) -> None:
    if report.streams:
        _show_streams(call, report, explain=explain)
    else:
        call.out.line("no stream has been read yet; run: cortex-etl sync")
    if report.last_sync is not None:
        call.out.line(_last_sync(report.last_sync, report.now))
    if report.paused_until is not None:
        wait = (report.paused_until - report.now).total_seconds()
        call.out.line(f"paused: no requests for {span(wait)}, as the API asked")


def _show_streams(call: Invocation, report: StatusReport, *, explain: bool) -> None:
    rows = [
        [
            name,
            each["state"],
            span(each["lag_s"]),
            age(each["watermark"], report.now),
            age(each["last_reconciled_at"], report.now),
            each["api_count"],
            each["warehouse_count"],
            each["quarantined"],
            each["open_runs"],
        ]
        for each, name in zip(report.streams, _names(report.streams), strict=True)
    ]
    counts = ["api", "ware\u00adhouse", "quaran\u00adtined", "open"]
    headings = ["workflow", "state", "lag", "water\u00admark", "recon\u00adciled", *counts]
    call.out.table(headings, rows, numeric=range(5, 9), whole=range(1, 5))
    remarks: dict[str, dict[tuple[str, ...], list[str]]] = {}  # a remark about several streams is printed once
    hints = shared_hints([each["hint"] or "" for each in report.streams])
    for each, hint in zip(report.streams, hints, strict=True):
        lines = tuple(_remarks(each, report, explain=explain))
        if lines or hint:
            remarks.setdefault(hint, {}).setdefault(lines, []).append(f"{each['app_id']}/{each['workflow_id']}")
    for hint, by_lines in remarks.items():
        for lines, streams in by_lines.items():
            for line in (*streams, *lines):
                call.out.line(line)
        if hint:
            call.out.line(f"  hint{'' if len(by_lines) == 1 else ' for all of these'}: {hint}")
    if all(each["state"] == "retired" for each in report.streams):
        call.out.line("the settings ask for none of these streams, or the API no longer lists their workflows")
        call.out.line("  hint: Check the ids under `apps:` in the settings: cortex-etl doctor")


def _names(streams: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a name for each stream: its workflow, after its app where two workflows have the same name."""
    names = [each["workflow_name"] or each["workflow_id"] for each in streams]
    times = Counter(names)
    return [
        f"{each['app_id']}/{name}" if times[name] > 1 or name == "*" else name
        for each, name in zip(streams, names, strict=True)
    ]


def _remarks(stream: Mapping[str, Any], report: StatusReport, *, explain: bool) -> list[str]:
    """Return the lines about a stream that needs attention or is held, or that `--explain` requests."""
    lines = []
    if stream["held_by"]:
        lines.append(f"  held by {stream['held_by']}")
    if explain and stream["workflow_id"] != "*":
        moment = stream["watermark"].isoformat(sep=" ") if stream["watermark"] else "none yet"
        lines.append(f"  watermark: {moment}")
        lines += [f"  blocked by: {each}" for each in stream["explanation"]]
    elif stream["blocker"]:
        lines.append(f"  {stream['state']}: {stream['blocker']}")
    if stream["last_error"] and stream["state"] not in {"failing", "retired"}:
        lines.append(f"  last error, {age(stream['last_error_at'], report.now)} ago: {stream['last_error']}")
    if (
        stream["listing_order"] == "none"
        and stream["state"] != "retired"
        and (stream["api_count"] or 0) > report.page_size
    ):
        lines.append("  not cheap: its listing is not sorted by time, so every sync reads all of it")
    return lines


def _last_sync(row: Mapping[str, Any], now: datetime) -> str:
    took = (row["ended_at"] - row["started_at"]).total_seconds() if row["ended_at"] else None
    line = f"last: {row['mode']} {row['status']} {age(row['started_at'], now)} ago"
    if took is not None:
        line += f", took {span(took)}"
    if row["requests"] or row["status"] not in {"running", "interrupted"}:  # recorded at the end, unless it was killed
        line += f", {counted(row['requests'], 'request')}"
    return f"{line}; {row['error']}" if row["error"] and row["status"] != "interrupted" else line


def age(moment: datetime | None, now: datetime) -> str:
    """Format the time since a timestamp, such as `5m`; '' for None."""
    return span((now - moment).total_seconds()) if moment is not None else ""


def span(seconds: float | None) -> str:
    """Format a span of time in its largest unit: `40s`, `5m`, `3h`, `12d`; '' for None."""
    if seconds is None:
        return ""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if abs(seconds) >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"


@command(app, "plan")
def plan(
    call: Invocation,
    mode: Annotated[Literal["sync", "backfill"], typer.Argument(help="Command to estimate.")] = "sync",
    *,
    apps: AppOption = None,
    workflows: WorkflowOption = None,
    json: JsonOption = False,
) -> None:
    """Estimate a sync or a backfill from one count probe per workflow: requests, rows, minutes.

    Example: `cortex-etl plan backfill`
    """
    from etl.app import make_plan

    settings = call.settings
    with call.listening(settings.api.requests_per_minute, level="warning") as listener:
        made = run_async(make_plan(settings, mode, apps=apps or [], workflows=workflows or [], listener=listener))
    if json:
        call.out.json(made.as_dict())
        return
    _show_plan(call, made, settings.api.requests_per_minute)


def _show_plan(call: Invocation, made: Plan, requests_per_minute: int) -> None:
    rows = [
        [
            each.app_id,
            each.workflow_id,
            each.work,
            each.api_count,
            each.warehouse_count,
            each.requests,
            each.runs,
            each.rows,
        ]
        for each in made.streams
    ]
    headings = ["app", "workflow", "work", "api", "ware\u00adhouse", "re\u00adquests", "runs", "rows"]
    call.out.table(headings, rows, numeric=range(3, 8))
    for each in made.streams:
        if each.reconcile_left is not None:
            rest = f"about {counted(each.reconcile_left, 'request')}, of which this sync sends {each.requests:,}"
            call.out.line(f"{each.app_id}/{each.workflow_id}: its reconcile takes {rest}")
    duration = f"{made.minutes:.1f} minutes" if made.minutes >= 1 else "less than a minute"
    call.out.line(
        f"{made.mode}: about {counted(made.requests, 'request')} for {counted(made.runs, 'run')}"
        f" ({counted(made.rows, 'row')}), "
        f"{duration} at {counted(requests_per_minute, 'request')} per minute"
    )
    for limit in made.limits:
        call.out.line(f"limit: {limit}")
