"""Totals of all runs and of each workflow."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from functools import cached_property
from itertools import pairwise
from math import log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from etl.report.facts import DailyRuns, Durations, Facts, Span, VersionRuns

ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "SKIPPED"})
_WEEK = timedelta(days=7)
_MIN_TIMED = 20  # minimum number of runs with a duration in each version, to compare their medians
_MIN_RATIO = 1.2  # minimum ratio of two medians that is mentioned
_CERTAINTY = 3  # minimum difference of two medians in standard errors; high, because many pairs are compared


@dataclass(frozen=True, slots=True)
class Tally:
    """Totals of a group of runs."""

    runs: int = 0
    ended: int = 0
    failed: int = 0
    credits: Decimal = Decimal(0)

    def __add__(self, other: Tally) -> Tally:
        """Return the totals of both groups."""
        return Tally(
            self.runs + other.runs, self.ended + other.ended, self.failed + other.failed, self.credits + other.credits
        )

    @property
    def failure_rate(self) -> float | None:
        """Failed runs divided by ended runs; None if no run has ended."""
        return self.failed / self.ended if self.ended else None


def tally(rows: Iterable[DailyRuns]) -> Tally:
    """Return the totals of rows."""
    found = (
        Tally(each.runs, each.runs * (each.status in ENDED), each.runs * (each.status == "FAILED"), each.credits)
        for each in rows
    )
    return sum(found, Tally())


@dataclass(frozen=True, slots=True)
class Change:
    """Totals before and after a point in time."""

    before: Tally
    since: Tally


@dataclass(frozen=True)
class WorkflowSummary:
    """Totals, durations and versions of one workflow. In `periods`, the key None stands for the whole report."""

    workflow_id: str | None
    label: str
    by_day: dict[date, Tally]
    periods: dict[int | None, Durations] = field(default_factory=dict)
    versions: list[VersionRuns] = field(default_factory=list)

    @cached_property
    def total(self) -> Tally:
        """Totals of all days."""
        return sum(self.by_day.values(), Tally())

    @property
    def p50_s(self) -> float | None:
        """Median duration in seconds; None if no run has a duration."""
        return self.periods[None].p50_s if self.periods else None

    @property
    def p95_s(self) -> float | None:
        """95th percentile of the durations in seconds; None if no run has a duration."""
        return self.periods[None].p95_s if self.periods else None

    def between(self, first: date, last: date) -> Tally:
        """Return the totals of the days `first` to `last`."""
        return sum((each for day, each in self.by_day.items() if first <= day <= last), Tally())

    @cached_property
    def slowdown(self) -> tuple[VersionRuns, VersionRuns, float] | None:
        """The consecutive versions whose median durations differ most, and the ratio; None if none differ."""
        found = [(*pair, median_ratio(*pair)) for pair in pairwise(self.versions)]
        return max((each for each in found if each[2] != 1), key=lambda each: abs(log(each[2])), default=None)


def median_ratio(before: VersionRuns, since: VersionRuns) -> float:
    """Return the ratio of the median durations of two versions; 1 if the difference is small or not significant."""
    medians, error = [], 0.0
    for each in (before, since):
        if each.timed < _MIN_TIMED or each.quartiles_s is None or min(each.quartiles_s) <= 0:
            return 1
        low, middle, high = each.quartiles_s
        medians.append(middle)
        # The standard error of the median on a log scale. The deviation is estimated from the quartiles, which outliers
        # do not affect.
        error += (1.253 * log(high / low) / 1.349) ** 2 / each.timed
    ratio = medians[1] / medians[0]
    return ratio if abs(log(ratio)) > max(log(_MIN_RATIO), _CERTAINTY * error**0.5) else 1


def workflows(facts: Facts) -> list[WorkflowSummary]:
    """Return a summary of each workflow with runs, ordered by number of runs."""
    rows: dict[str | None, dict[date, list[DailyRuns]]] = defaultdict(lambda: defaultdict(list))
    for row in facts.daily:
        rows[row.workflow_id][row.day].append(row)
    found = {
        workflow_id: WorkflowSummary(
            workflow_id, facts.label(workflow_id), {day: tally(each) for day, each in days.items()}
        )
        for workflow_id, days in rows.items()
    }
    for measured in facts.durations:
        found[measured.workflow_id].periods[measured.period] = measured
    for version in facts.versions:
        found[version.workflow_id].versions.append(version)
    return sorted(found.values(), key=lambda each: (-each.total.runs, each.label))


def last_week(facts: Facts) -> Change | None:
    """Return the totals of the last 7 days and of the 7 days before; None if the report covers fewer than 14 days."""
    first, last = facts.span.first, facts.span.last
    if last - first < 2 * _WEEK - timedelta(days=1):
        return None
    return Change(
        tally(row for row in facts.daily if last - 2 * _WEEK < row.day <= last - _WEEK),
        tally(row for row in facts.daily if row.day > last - _WEEK),
    )


def by_label(facts: Facts, amount: Callable[[DailyRuns], Decimal]) -> dict[str, dict[date, Decimal]]:
    """Return the sums of an amount by label of workflow and day; workflows with the same label count as one."""
    found: dict[str, dict[date, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for row in facts.daily:
        found[facts.label(row.workflow_id)][row.day] += amount(row)
    return found


def totals(amounts: Mapping[str, Mapping[date, Decimal]]) -> dict[str, Decimal]:
    """Return the nonzero totals by name, largest first."""
    found = {name: sum(days.values(), Decimal(0)) for name, days in amounts.items()}
    return dict(sorted(((name, each) for name, each in found.items() if each), key=lambda pair: (-pair[1], pair[0])))


def split_into_periods(span: Span, length: int) -> list[tuple[date, date]]:
    """Return the first and last day of each period of `length` days, newest first; the oldest may be shorter."""
    ends = [span.last - timedelta(days=each) for each in range(0, len(span.days), length)]
    return [(max(span.first, end - timedelta(days=length - 1)), end) for end in ends]
