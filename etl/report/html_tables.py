"""The tables of the page; each cell has a sort key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from etl.report import formatting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from etl.report.aggregates import WorkflowSummary
    from etl.report.changes import Replacement
    from etl.report.facts import Facts, Stream

_MAX_WORKFLOWS = 300
_MAX_STEPS = 100
_MAX_STREAMS = 500
_MAX_REPLACEMENTS = 30
_NO_TROUBLE = ("succeeded", "running", "skipped")

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: the text.
        sort: the sort key.
        look: the CSS class: `number`, `code` (an id), `time`, `long` (a message), `bad` (needs attention) or ''.
    """

    text: str
    sort: Any
    look: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A sortable table. Columns whose headings start with `-` are hidden on narrow screens; the `-` is not shown."""

    caption: str
    headings: list[str]
    rows: list[list[Cell]]

    @property
    def has_messages(self) -> bool:
        """Whether a column has long texts, which need the full width of a narrow screen."""
        return any(cell.look == "long" for row in self.rows for cell in row)


def _table(caption: str, rows: Iterable[Row], columns: dict[str, Callable[[Row], Cell]]) -> Table:
    return Table(caption, list(columns), [[cell(row) for cell in columns.values()] for row in rows])


def workflows(found: Sequence[WorkflowSummary]) -> Table:
    """Return a table with a row per workflow."""
    return _table("Workflows", found[:_MAX_WORKFLOWS], {
        "Workflow": lambda each: _text(each.label),
        "Runs": lambda each: _count(each.total.runs),
        "Failed": lambda each: _rate(each.total.failed, each.total.ended),
        "-Median": lambda each: _seconds(each.p50_s),
        "-p95": lambda each: _seconds(each.p95_s),
        "Credits": lambda each: _credit(each.total.credits),
        "-Credits per run": lambda each: _credit(each.total.credits / each.total.runs),
    })  # fmt: skip


def replacements(found: Sequence[Replacement]) -> Table:
    """Return a table of the first `_MAX_REPLACEMENTS` replacements, latest first."""
    ranked = sorted(found[:_MAX_REPLACEMENTS], key=lambda each: each.day, reverse=True)
    return _table("Replaced models", ranked, {
        "Day": lambda each: Cell(formatting.day(each.day), each.day.toordinal()),
        "Workflow": lambda each: _text(each.summary.label),
        "-Version": lambda each: _text(f"v{each.version.version}" if each.version else None),
        "-Credits per run before": lambda each: _credit(each.credits_per_run and each.credits_per_run[0]),
        "-Per run since": lambda each: _credit(each.credits_per_run and each.credits_per_run[1]),
        "Credits saved": lambda each: _credit(-each.effect if each.credits_per_run else None, sign=True),
        "Models": lambda each: _text(f"{', '.join(each.old)} → {', '.join(each.new)}", "long"),
    })  # fmt: skip


def steps(facts: Facts) -> Table:
    """Return a table of the slowest steps and of the steps with most failures."""
    by_time = sorted(facts.steps, key=lambda each: -(each.p95_s or 0.0))[: _MAX_STEPS // 2]
    by_failures = sorted((each for each in facts.steps if each.failed), key=lambda each: -each.failed)
    return _table("Steps", dict.fromkeys([*by_time, *by_failures[: _MAX_STEPS // 2]]), {
        "Step": lambda each: _text(each.step_key, "code"),
        "Workflow": lambda each: _text(facts.label(each.workflow_id)),
        "-Type": lambda each: _text(each.type),
        "-Runs": lambda each: _count(each.runs),
        "-Failed": lambda each: _rate(each.failed, each.ended),
        "-Median": lambda each: _seconds(each.p50_s),
        "p95": lambda each: _seconds(each.p95_s),
        "-Credits": lambda each: _credit(each.credits),
    })  # fmt: skip


def failures(facts: Facts) -> Table:
    """Return a table of the causes of failures, most frequent first."""
    return _table("Causes of failures", facts.failures, {
        "Runs": lambda each: _count(each.runs),
        "Workflow": lambda each: _text(facts.label(each.workflow_id)),
        "Step": lambda each: _text(each.step_key, "code"),
        "Message": lambda each: _text(each.message, "long"),
        "-First": lambda each: _time(each.first_seen),
        "Latest": lambda each: _time(each.last_seen),
        "-Versions": lambda each: _text(", ".join(f"v{version}" for version in each.versions or ()) or None),
        "-Latest run": lambda each: _text(each.last_run_id, "code"),
    })  # fmt: skip


def open_runs(facts: Facts) -> Table:
    """Return a table of open runs, oldest first."""
    return _table("Open runs", facts.open_runs, {
        "Open for": lambda each: _seconds(each.age_s),
        "Workflow": lambda each: _text(facts.label(each.workflow_id)),
        "Status": lambda each: _text(each.status),
        "-Created": lambda each: _time(each.created_at),
        "-Last updated": lambda each: _time(each.last_synced_at),
        "-Run": lambda each: _text(each.run_id, "code"),
    })  # fmt: skip


def streams(facts: Facts) -> Table:
    """Return a table of streams, incomplete ones first."""
    ranked = sorted(facts.streams, key=lambda each: (each.state == "complete", facts.label(each.workflow_id)))
    return _table("Sync health", ranked[:_MAX_STREAMS], {
        "Workflow": lambda each: _text(facts.label(each.workflow_id)),
        "State": lambda each: _text(_state(each), "" if each.state == "complete" else "bad"),
        "-API count": lambda each: _count(each.api_count),
        "Warehouse": lambda each: _count(each.warehouse_count),
        "-Quarantined": lambda each: _count(each.quarantined),
        "Last read": lambda each: _ago(each.last_synced_at, facts.span.now),
        "-Reconciled": lambda each: _ago(each.last_reconciled_at, facts.span.now),
        "-App": lambda each: _text(each.app_id, "code"),
    })  # fmt: skip


def _state(stream: Stream) -> str:
    if stream.state == "failing" and stream.last_error is not None:
        return f"failing: {formatting.shortened(stream.last_error, 120)}"
    return stream.state


def syncs(facts: Facts) -> Table:
    """Return a table of syncs, latest first."""
    return _table("Recent syncs", facts.syncs, {
        "Started": lambda each: _time(each.started_at),
        "Mode": lambda each: _text(each.mode),
        "Status": lambda each: _text(each.status, "" if each.status in _NO_TROUBLE else "bad"),
        "-Duration": lambda each: _seconds(each.duration_s),
        "-Requests": lambda each: _count(each.requests),
        "New": lambda each: _count(each.runs_inserted),
        "-Changed": lambda each: _count(each.runs_updated),
        "-Gone": lambda each: _count(each.runs_gone),
        "-Quarantined": lambda each: _count(each.rejects),
    })  # fmt: skip


def _text(value: str | None, look: str = "") -> Cell:
    text = formatting.NOTHING if value is None else value
    return Cell(text, (value or "").casefold()[:80], look)


def _count(value: int | None) -> Cell:
    return Cell(formatting.count(value), _number(value), "number")


def _rate(failed: int, ended: int) -> Cell:
    rate = failed / ended if ended else None
    return Cell(formatting.percent(rate) + (f" ({failed:,})" if failed else ""), _number(rate), "number")


def _seconds(value: float | None) -> Cell:
    return Cell(formatting.seconds(value), _number(value), "number")


def _credit(value: Any, *, sign: bool = False) -> Cell:
    text = formatting.NOTHING if value is None else formatting.credit(value)
    return Cell("+" * (sign and value is not None and value > 0) + text, _number(value), "number")


def _time(value: datetime | None) -> Cell:
    return Cell(formatting.minute(value), _stamp(value), "time")


def _ago(value: datetime | None, now: datetime) -> Cell:
    return Cell(formatting.ago(value, now), _stamp(value))


def _stamp(value: datetime | None) -> float:
    return value.timestamp() if value is not None else -1e18


def _number(value: Any) -> float:
    # JavaScript cannot parse `inf`.
    return -1e300 if value is None else min(1e300, max(-1e300, float(value)))
