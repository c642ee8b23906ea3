"""Detect changes during the report: daily amounts that rose or fell, and models that were replaced."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from etl.report.aggregates import Change

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from etl.report.aggregates import WorkflowSummary
    from etl.report.facts import Facts, VersionRuns

_DAY = timedelta(days=1)
_WEEK = timedelta(days=7)  # a part that is unused for a week at the start or end counts as new or no longer used
_LONGEST = timedelta(days=28)  # maximum length of each of two compared periods
_NEAR = timedelta(days=2)  # maximum time between the first use of a version and the replacement that it caused
_MIN_CHANGE = 0.1  # minimum relative change of a daily amount that is mentioned
_MIN_CALLS = 10  # minimum number of calls of a model by a workflow, for a model that was replaced or replaces another
_EDGE = 3  # minimum number of days with runs of the workflow before and after a replacement
_MIN_RUNS = 5  # minimum number of runs before and after a replacement, to compare their cost


@dataclass(frozen=True, slots=True)
class Shift:
    """A change of a daily amount between two periods, and the part with the largest share of the change.

    Attributes:
        days: length of each period in days.
        before: mean daily amount in the first period.
        since: mean daily amount in the second period.
        part: name of the part; None if there is only one part.
        part_before: mean daily amount of the part in the first period.
        part_since: mean daily amount of the part in the second period.
        part_first: first day on which the part was used; None if it was in use from the start.
        part_last: last day on which the part was used; None if it was in use until the end.
    """

    days: int
    before: float
    since: float
    part: str | None
    part_before: float
    part_since: float
    part_first: date | None
    part_last: date | None


def shift(amounts: Mapping[str, Mapping[date, Decimal]], days: Sequence[date]) -> Shift | None:
    """Compare the latest weeks with as many weeks before; None if the difference is small or not significant.

    Args:
        amounts: amounts by name and day; missing days count as 0.
        days: the full days of the report, oldest first.
    """
    length = min(_LONGEST.days, len(days) // 14 * 7)
    if not length or not amounts:
        return None
    halves = days[-2 * length : -length], days[-length:]
    parts = {name: [[float(each.get(day, 0)) for day in half] for half in halves] for name, each in amounts.items()}
    wholes = [[sum(day) for day in zip(*halves, strict=True)] for halves in zip(*parts.values(), strict=True)]
    before, since = map(fmean, wholes)
    # Twice the standard error of the difference. The periods are whole weeks, so each day is compared with the same
    # weekday.
    margin = 2 * stdev(late - early for early, late in zip(*wholes, strict=True)) / length**0.5
    if abs(since - before) <= max(margin, _MIN_CHANGE * max(before, since)):
        return None
    means = {name: [fmean(half) for half in halves] for name, halves in sorted(parts.items())}
    part = max(means, key=lambda name: (means[name][1] - means[name][0]) * (since - before))
    used = [day for day, amount in amounts[part].items() if amount]
    first = min(used) if min(used) - days[0] >= _WEEK else None
    last = max(used) if days[-1] - max(used) >= _WEEK else None
    name = part if len(amounts) > 1 else None
    return Shift(length, before, since, name, means[part][0], means[part][1], first, last)


@dataclass(frozen=True, slots=True)
class Replacement:
    """A replacement of models in a workflow.

    Attributes:
        summary: the workflow.
        day: day of the replacement.
        old: the models that were replaced.
        new: the models that replaced them.
        runs: totals of the runs before and after the day, without the day itself.
        version: the version that probably caused the replacement.
        is_latest: whether this is the latest replacement in the workflow.
    """

    summary: WorkflowSummary
    day: date
    old: list[str]
    new: list[str]
    runs: Change
    version: VersionRuns | None
    is_latest: bool

    @property
    def credits_per_run(self) -> tuple[float, float] | None:
        """Credits per run before and after the replacement; None if there are too few runs."""
        before, since = self.runs.before, self.runs.since
        if min(before.runs, since.runs) < _MIN_RUNS or before.credits <= 0:
            return None
        return float(before.credits / before.runs), float(since.credits / since.runs)

    @property
    def effect(self) -> float:
        """Credits that the runs since then cost more (negative: less) than they would have cost before."""
        before, since = self.credits_per_run or (0, 0)
        return (since - before) * self.runs.since.runs


def replacements(facts: Facts, found: Sequence[WorkflowSummary]) -> list[Replacement]:
    """Return the replacements of models: first the latest of each workflow, then others, each by effect."""
    calls: dict[str | None, dict[str, dict[date, int]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))
    for row in facts.models:
        if row.model and row.calls:
            calls[row.workflow_id][row.model][row.day] += row.calls
    made = []
    for summary in found:
        switches = _switches(calls[summary.workflow_id])
        days = [facts.span.first - _DAY, *switches, facts.span.last + _DAY]
        for previous, (day, models), following in zip(days, switches.items(), days[2:], strict=False):
            before = summary.between(max(previous + _DAY, day - _LONGEST), day - _DAY)
            since = summary.between(day + _DAY, min(following - _DAY, day + _LONGEST))
            is_near = (each for each in summary.versions if abs(each.first_run.date() - day) <= _NEAR)
            version, is_latest = next(is_near, None), following > facts.span.last
            first = version.first_run.date() if version else day
            made.append(Replacement(summary, first, *models, Change(before, since), version, is_latest))
    return sorted(made, key=lambda each: (not each.is_latest, -abs(each.effect), each.day, each.summary.label))


def _switches(calls: Mapping[str, Mapping[date, int]]) -> dict[date, tuple[list[str], list[str]]]:
    """Return the (old, new) models of a workflow by the day on which the new models replaced the old ones."""
    active = sorted({day for days in calls.values() for day in days})
    used = {
        model: [active.index(day) for day in _in_use(days)]
        for model, days in sorted(calls.items())
        if sum(days.values()) >= _MIN_CALLS
    }
    found: dict[date, tuple[list[str], list[str]]] = {}
    for start in sorted({start for start, _ in used.values() if start >= _EDGE}):
        old = [model for model, (_, end) in used.items() if abs(end - start) <= 1 and end < len(active) - _EDGE]
        new = [model for model, (first, _) in used.items() if first == start]
        if old:
            found[active[start]] = (old, new)
    return found


def _in_use(calls: Mapping[date, int]) -> tuple[date, date]:
    """Return the first and last day of a model's use, ignoring 2 % of its calls (at most 3) at either end."""

    def end(days: Sequence[date]) -> date:
        ignored = min(3.0, 0.02 * sum(calls.values()))
        for day in days:
            ignored -= calls[day]
            if ignored < 0:
                break
        return day

    return end(sorted(calls)), end(sorted(calls, reverse=True))
