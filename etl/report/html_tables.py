"""The tables of the page, with the values that they are sorted by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etl.report import formatting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from etl.report.aggregates import Labels, WorkflowSummary
    from etl.report.facts import Facts, StepFacts, Stream

MAX_WORKFLOWS = 300
MAX_STEPS = 100
_MAX_STREAMS = 500


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: its text, the value it is sorted by, and its CSS class.

    `look` is `number`, `code` (an id), `long` (a message), `bad` (needs attention) or ''.
    """

    text: str
    sort: Any
    look: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A sortable table. Columns whose heading starts with `-` are hidden on narrow screens; the `-` is not shown."""

    caption: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]

    @property
    def has_messages(self) -> bool:
        """Whether a column holds long texts, which need the full width of a narrow screen."""
        return any(cell.look == "long" for row in self.rows for cell in row)


def workflows(found: Sequence[WorkflowSummary]) -> Table:
    """One row per workflow that has runs."""
    rows = [
        (
            _text(each.label),
            _count(each.total.runs),
            _rate(each.total.failure_rate, each.total.failed),
            _seconds(each.p50_s),
            _seconds(each.p95_s),
            _credit(each.total.credits),
            _credit(each.total.credits / each.total.runs),
        )
        for each in found[:MAX_WORKFLOWS]
    ]
    headings = ("Workflow", "Runs", "Failed", "-Median", "-p95", "Credits", "-Credits per run")
    return Table("Workflows", headings, rows)


def steps(found: Sequence[StepFacts], labels: Labels) -> Table:
    """One row per step: the slowest ones and those with the most failures."""
    by_time = sorted(found, key=lambda each: -(each.p95_s or 0.0))[: MAX_STEPS // 2]
    by_failures = sorted((each for each in found if each.failed), key=lambda each: -each.failed)[: MAX_STEPS // 2]
    rows = [
        (
            _text(each.step_key, "code"),
            _text(labels(each.workflow_id)),
            _text(each.type),
            _count(each.runs),
            _rate(each.failed / each.ended if each.ended else None, each.failed),
            _seconds(each.p50_s),
            _seconds(each.p95_s),
            _credit(each.credits),
        )
        for each in dict.fromkeys([*by_time, *by_failures])
    ]
    return Table("Steps", ("Step", "Workflow", "-Type", "-Runs", "Failed", "-Median", "p95", "-Credits"), rows)


def failures(facts: Facts, labels: Labels) -> Table:
    """One row per failed run, latest first."""
    rows = [
        (
            _time(each.failed_at),
            _text(labels(each.workflow_id)),
            _text(f"v{each.version}" if each.version is not None else None),
            _text(each.step_key, "code"),
            _text(each.error, "long"),
            _text(each.origin),
            _text(each.run_id, "code"),
        )
        for each in facts.failures
    ]
    return Table("Failures", ("Failed at", "Workflow", "-Version", "Step", "Error", "-Origin", "-Run"), rows)


def open_runs(facts: Facts, labels: Labels) -> Table:
    """One row per open run, oldest first."""
    rows = [
        (
            _seconds(each.age_s),
            _text(labels(each.workflow_id)),
            _text(each.status),
            _time(each.created_at),
            _time(each.last_synced_at),
            _text(each.run_id, "code"),
        )
        for each in facts.open_runs
    ]
    return Table("Open runs", ("Open for", "Workflow", "Status", "-Created", "-Last updated", "-Run"), rows)


def streams(facts: Facts, labels: Labels) -> Table:
    """One row per stream, those that need attention first."""
    ranked = sorted(facts.streams, key=lambda each: (each.state == "complete", labels(each.workflow_id)))
    rows = [
        (
            _text(labels(each.workflow_id)),
            _text(_state(each), "" if each.state == "complete" else "bad"),
            _count(each.api_count),
            _count(each.warehouse_count),
            _count(each.quarantined),
            Cell(formatting.ago(each.last_synced_at, facts.span.now), _stamp(each.last_synced_at)),
            Cell(formatting.ago(each.last_reconciled_at, facts.span.now), _stamp(each.last_reconciled_at)),
            _text(each.app_id, "code"),
        )
        for each in ranked[:_MAX_STREAMS]
    ]
    headings = ("Workflow", "State", "API count", "Warehouse", "-Quarantined", "Last read", "-Reconciled", "-App")
    return Table("Sync health", headings, rows)


def _state(stream: Stream) -> str:
    if stream.state == "failing" and stream.last_error is not None:
        return f"failing: {formatting.shortened(stream.last_error, 120)}"
    return stream.state


def syncs(facts: Facts) -> Table:
    """One row per sync, latest first."""
    rows = [
        (
            _time(each.started_at),
            _text(each.mode),
            _text(each.status, "" if each.status in ("succeeded", "running", "skipped") else "bad"),
            _seconds((each.ended_at - each.started_at).total_seconds() if each.ended_at else None),
            _count(each.requests),
            _count(each.runs_inserted),
            _count(each.runs_updated),
            _count(each.runs_gone),
            _count(each.rejects),
        )
        for each in facts.syncs
    ]
    headings = ("Started", "Mode", "Status", "-Duration", "-Requests", "New", "Changed", "-Gone", "-Quarantined")
    return Table("Recent syncs", headings, rows)


def _text(value: str | None, look: str = "") -> Cell:
    text = formatting.NOTHING if value is None else value
    return Cell(text, (value or "").casefold()[:80], look)


def _count(value: int | None) -> Cell:
    return Cell(formatting.count(value), _number(value), "number")


def _rate(rate: float | None, number: int) -> Cell:
    text = formatting.percent(rate) + (f" ({number:,})" if number else "")
    return Cell(text, _number(rate), "number")


def _seconds(value: float | None) -> Cell:
    return Cell(formatting.seconds(value), _number(value), "number")


def _credit(value: Any) -> Cell:
    return Cell(formatting.credit(value), _number(value), "number")


def _time(value: datetime | None) -> Cell:
    return Cell(formatting.minute(value), _stamp(value))


def _stamp(value: datetime | None) -> float:
    return value.timestamp() if value is not None else -1e18


def _number(value: Any) -> float:
    # JavaScript cannot parse `inf`.
    return -1e300 if value is None else min(1e300, max(-1e300, float(value)))
