"""Totals, and a summary of each workflow."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING

from etl.report.formatting import shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from etl.report.facts import DailyRuns, Durations, Facts, VersionChange

ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "SKIPPED"})
_WEEK = timedelta(days=7)


@dataclass(slots=True)
class Tally:
    """Totals of a group of runs."""

    runs: int = 0
    ended: int = 0
    failed: int = 0
    credits: Decimal = Decimal(0)

    def add(self, row: DailyRuns) -> None:
        """Add a row."""
        self.runs += row.runs
        self.ended += row.runs if row.status in ENDED else 0
        self.failed += row.runs if row.status == "FAILED" else 0
        self.credits += row.credits

    @property
    def failure_rate(self) -> float | None:
        """Failed runs divided by ended runs; None if no run has ended."""
        return self.failed / self.ended if self.ended else None


def tally(rows: Iterable[DailyRuns]) -> Tally:
    """Add up rows."""
    total = Tally()
    for row in rows:
        total.add(row)
    return total


@dataclass(frozen=True, slots=True)
class Change:
    """Totals before and since a point in time."""

    before: Tally
    since: Tally


@dataclass(frozen=True)
class WorkflowSummary:
    """Totals, durations and versions of one workflow."""

    workflow_id: str | None
    label: str
    total: Tally
    by_day: dict[date, Tally] = field(repr=False)
    in_all: Durations | None
    periods: list[Durations] = field(repr=False)
    versions: list[VersionChange]

    @property
    def p50_s(self) -> float | None:
        """Median duration in seconds; None if no run has ended."""
        return self.in_all.p50_s if self.in_all else None

    @property
    def p95_s(self) -> float | None:
        """95th percentile of the durations in seconds; None if no run has ended."""
        return self.in_all.p95_s if self.in_all else None

    @cached_property
    def since_last_version(self) -> Change | None:
        """Totals before and since the latest version; None if no version was published."""
        if not self.versions:
            return None
        changed_on = self.versions[-1].created_at.date()
        return split_by(self.by_day, lambda day: day >= changed_on)


class Labels:
    """Labels of workflows: the name, with the id added if two share it, or else the id."""

    def __init__(self, names: dict[str, str]) -> None:
        taken: dict[str, int] = defaultdict(int)
        for name in names.values():
            taken[name] += 1
        self._names = {
            each: name if taken[name] == 1 else f"{shortened(name, 40)} ({each})" for each, name in names.items()
        }

    def __call__(self, workflow_id: str | None) -> str:
        """Return the label of a workflow, on one line of at most 80 characters."""
        if workflow_id is None:
            return "(no workflow)"
        return shortened(self._names.get(workflow_id) or workflow_id, 80) or "(no name)"


def split_by(by_day: dict[date, Tally], is_since: Callable[[date], bool]) -> Change:
    """Add up the days before and since a point in time."""
    change = Change(Tally(), Tally())
    for each, counted in by_day.items():
        side = change.since if is_since(each) else change.before
        side.runs += counted.runs
        side.ended += counted.ended
        side.failed += counted.failed
        side.credits += counted.credits
    return change


def last_week(facts: Facts) -> Change | None:
    """Compare the last seven days with the seven before; None if the report covers fewer than fourteen."""
    span = facts.span
    if span.last - span.first < 2 * _WEEK - timedelta(days=1):
        return None
    since = span.last - _WEEK
    before = since - _WEEK
    return Change(
        tally(row for row in facts.daily if before < row.day <= since),
        tally(row for row in facts.daily if row.day > since),
    )


def workflows(facts: Facts) -> list[WorkflowSummary]:
    """Summarize each workflow that has runs, most runs first."""
    labels = Labels(facts.names)
    by_day: dict[str | None, dict[date, Tally]] = defaultdict(lambda: defaultdict(Tally))
    for row in facts.daily:
        by_day[row.workflow_id][row.day].add(row)
    durations: dict[str | None, list[Durations]] = defaultdict(list)
    for each in facts.durations:
        durations[each.workflow_id].append(each)
    versions: dict[str | None, list[VersionChange]] = defaultdict(list)
    for version in facts.versions:
        versions[version.workflow_id].append(version)
    found = []
    for workflow_id, days in by_day.items():
        measured = durations[workflow_id]
        found.append(
            WorkflowSummary(
                workflow_id,
                labels(workflow_id),
                split_by(days, lambda _: True).since,
                dict(days),
                next((each for each in measured if each.period is None), None),
                sorted((each for each in measured if each.period is not None), key=lambda each: each.period or 0),
                versions[workflow_id],
            )
        )
    return sorted(found, key=lambda each: (-each.total.runs, each.label))


def largest(amounts: dict[str, Decimal], most: int) -> list[str]:
    """Return up to `most` names with the largest nonzero amounts, largest first."""
    ranked = sorted((name for name, amount in amounts.items() if amount), key=lambda name: (-amounts[name], name))
    return ranked[:most]


def split_into_periods(first: date, last: date, length: int) -> list[tuple[date, date]]:
    """Return the first and last day of each period of `length` days, newest first; the oldest starts at `first`."""
    found = []
    end = last
    while end >= first:
        start = max(first, end - timedelta(days=length - 1))
        found.append((start, end))
        end = start - timedelta(days=1)
    return found
