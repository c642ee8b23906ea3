"""The tables of the page: headings, and cells with what they are sorted by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etl.report import wording
from etl.report.findings import is_complete

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from etl.report.facts import Facts, StepFacts, Stream
    from etl.report.summary import Labels, WorkflowSummary

MOST_WORKFLOWS = 300
MOST_STEPS = 100
_MOST_STREAMS = 500


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: its text, the number or text that it is sorted by, and how it looks.

    `look` is a CSS class: `number`, `code` (an id), `long` (a message) or `bad` (wants attention), or ''.
    """

    text: str
    sort: Any
    look: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A sortable table. A heading that begins with `-` is left out on narrow screens (without its dash)."""

    caption: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]

    @property
    def has_messages(self) -> bool:
        """Whether a column holds long texts, which want the whole width of a narrow screen."""
        return any(cell.look == "long" for row in self.rows for cell in row)


def workflows(found: Sequence[WorkflowSummary]) -> Table:
    """One row a workflow that ran."""
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
        for each in found[:MOST_WORKFLOWS]
    ]
    headings = ("Workflow", "Runs", "Failed", "-Median", "-p95", "Credits", "-Credits a run")
    return Table("Workflows", headings, rows)


def steps(found: Sequence[StepFacts], labels: Labels) -> Table:
    """One row a step: those that take longest and those that fail most."""
    by_time = sorted(found, key=lambda each: -(each.p95_s or 0.0))[: MOST_STEPS // 2]
    by_failures = sorted((each for each in found if each.failed), key=lambda each: -each.failed)[: MOST_STEPS // 2]
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
    """One row a failed run, the last first."""
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
    """One row an open run, the oldest first."""
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
    return Table("Open runs", ("Open for", "Workflow", "Status", "-Created", "-Last changed here", "-Run"), rows)


def streams(facts: Facts, labels: Labels) -> Table:
    """One row a workflow that is synced; those that want attention first."""
    ranked = sorted(facts.streams, key=lambda each: (is_complete(each), labels(each.workflow_id)))
    rows = [
        (
            _text(labels(each.workflow_id)),
            _text(_state(each), "" if is_complete(each) else "bad"),
            _count(each.api_count),
            _count(each.warehouse_count),
            _count(each.quarantined),
            Cell(wording.ago(each.last_synced_at, facts.span.now), _stamp(each.last_synced_at)),
            Cell(wording.ago(each.last_reconciled_at, facts.span.now), _stamp(each.last_reconciled_at)),
            _text(each.app_id, "code"),
        )
        for each in ranked[:_MOST_STREAMS]
    ]
    headings = ("Workflow", "State", "API counts", "Here", "-Quarantined", "Read", "-Compared", "-App")
    return Table("Sync health", headings, rows)


def _state(stream: Stream) -> str:
    if stream.last_error is not None:
        return f"failed: {wording.shortened(stream.last_error, 120)}"
    if not stream.backfill_done:
        return "first read not finished"
    return "complete" if is_complete(stream) else "counts differ"


def syncs(facts: Facts) -> Table:
    """One row a sync, the last first."""
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
    headings = ("Started", "Mode", "Status", "-Took", "-Requests", "New", "Changed", "-Gone", "-Quarantined")
    return Table("Last syncs", headings, rows)


def _text(value: str | None, look: str = "") -> Cell:
    text = wording.NOTHING if value is None else value
    return Cell(text, (value or "").casefold()[:80], look)


def _count(value: int | None) -> Cell:
    return Cell(wording.count(value), _number(value), "number")


def _rate(rate: float | None, number: int) -> Cell:
    text = wording.percent(rate) + (f" ({number:,})" if number else "")
    return Cell(text, _number(rate), "number")


def _seconds(value: float | None) -> Cell:
    return Cell(wording.seconds(value), _number(value), "number")


def _credit(value: Any) -> Cell:
    return Cell(wording.credit(value), _number(value), "number")


def _time(value: datetime | None) -> Cell:
    return Cell(wording.minute(value), _stamp(value))


def _stamp(value: datetime | None) -> float:
    return value.timestamp() if value is not None else -1e18


def _number(value: Any) -> float:
    # JavaScript knows no `inf`.
    return -1e300 if value is None else min(1e300, max(-1e300, float(value)))
