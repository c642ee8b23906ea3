"""The titles of the report's sections, each of which states the main finding in one sentence."""

from __future__ import annotations

from decimal import Decimal
from statistics import fmean, median
from typing import TYPE_CHECKING

from etl.report import formatting
from etl.report.aggregates import Change, Tally, totals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import date

    from etl.report.aggregates import WorkflowSummary
    from etl.report.changes import Replacement, Shift
    from etl.report.facts import Facts, OpenRun, Span, StepFacts, Stream

MIN_RUNS = 20  # minimum number of ended runs for a rate or a 95th percentile, on both sides of a comparison
_MIN_DIFFERENCE = 0.02  # minimum difference of two rates that is mentioned
_MIN_STEP_RUNS = 5  # minimum number of runs of a step that is called the slowest
_MOSTLY = 0.5  # minimum share of a part in a change that is "mostly" because of the part
_FAR = 5  # minimum factor by which a 95th percentile is "far above" the usual one
_PEAK = 3  # minimum ratio of a peak to the usual amount of a day
_MIN_DAYS = 5  # minimum number of full days for stating a usual amount
_BAD_DAY = 0.2  # minimum failure rate of a day that is mentioned, if it is also three times that of all days


def runs(by_day: Mapping[date, Tally], span: Span, change: Shift | None, week: Change | None) -> str:
    """State whether the number of runs and the failure rate changed; `by_day` has all days."""
    total = sum(by_day.values(), Tally())
    amounts = {day: float(by_day[day].runs) for day in span.full_days}
    found = _shifted("Runs", change, _number) if change else _steady("Runs", amounts, _number)
    if not found:
        found = formatting.count(total.runs, "run") + f" in {formatting.count(len(span.days), 'day')}"
    if (changed := rate_change(week, weekly=True)) and week:
        word = "rose" if (week.since.failure_rate or 0) > (week.before.failure_rate or 0) else "fell"
        found += f"; the failure rate {word} {changed}"
    elif total.failure_rate is not None:
        found += f"; {_rate_of(total, 'them')} failed"
    bad = {day: each for day, each in by_day.items() if each.ended >= MIN_RUNS}
    worst = max(bad, key=lambda day: (bad[day].failure_rate or 0, day), default=None)
    if worst is None or (bad[worst].failure_rate or 0) < max(_BAD_DAY, 3 * (total.failure_rate or 0)):
        return found
    return f"{found}; on {formatting.day_month(worst)}, {formatting.percent(bad[worst].failure_rate)} failed"


def _number(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 10 else f"{amount:.2g}"


def _steady(what: str, amounts: Mapping[date, float], form: Callable[[float], str]) -> str:
    """Describe amounts of full days without a change, by their peak or mean; '' if there are too few days."""
    if len(amounts) < _MIN_DAYS:
        return ""
    usual, peak = median(amounts.values()), max(amounts, key=lambda day: amounts[day])
    if 0 < usual * _PEAK <= amounts[peak]:
        found = f"{what} peaked at {form(amounts[peak])} on {formatting.day_month(peak)}, "
        return f"{found}{formatting.change(amounts[peak] / usual)} the usual {form(usual)} a day"
    return f"{what} stayed at about {form(fmean(amounts.values()))} a day"


def _shifted(what: str, change: Shift, form: Callable[[float], str]) -> str:
    found = f"{what} {'rose' if change.since > change.before else 'fell'} from {form(change.before)} to "
    found += f"{form(change.since)} a day"
    if change.part is None:
        return found
    share = (change.part_since - change.part_before) / (change.since - change.before)
    found += f", {'mostly' if share >= _MOSTLY else 'most of all'} because of {change.part}"
    if change.part_first:
        return f"{found}, in use since {formatting.day_month(change.part_first)}"
    if change.part_last:
        return f"{found}, last used on {formatting.day_month(change.part_last)}"
    return f"{found} ({form(change.part_before)} to {form(change.part_since)})"


def _rate_of(total: Tally, everything: str) -> str:
    """Format the failure rate, with "those that ended" as its base if the rate of all runs differs."""
    rate = formatting.percent(total.failure_rate)
    return f"{rate} of {everything if rate == formatting.percent(total.failed / total.runs) else 'those that ended'}"


def rate_change(change: Change | None, *, weekly: bool = False) -> str:
    """Describe a significant change of the failure rate; '' if there is none or there are too few runs."""
    if change is None or min(change.before.ended, change.since.ended) < MIN_RUNS:
        return ""
    before, since = change.before.failure_rate or 0.0, change.since.failure_rate or 0.0
    # A random difference rarely exceeds twice the standard error.
    pooled = (change.before.failed + change.since.failed) / (change.before.ended + change.since.ended)
    chance = 2 * (pooled * (1 - pooled) * (1 / change.before.ended + 1 / change.since.ended)) ** 0.5
    if abs(since - before) < max(_MIN_DIFFERENCE, chance):
        return ""
    when = (" in the 7 days before", " in the last 7") if weekly else ("", "")
    return f"from {formatting.percent(before)}{when[0]} to {formatting.percent(since)}{when[1]}"


def spending(
    spent: Mapping[str, Mapping[date, Decimal]], span: Span, change: Shift | None, unit: str = "credits"
) -> str:
    """State whether the credits per day changed and why, or else which name used most credits.

    Args:
        spent: credits by name and day.
        span: the days of the report.
        change: the change of the credits per day; None if they did not change.
        unit: the noun for the title: `credits` or `model credits`.
    """
    amounts = totals(spent)
    total = sum(amounts.values())
    if total <= 0:
        return f"No {unit} were used"
    if change:
        return _shifted(unit.capitalize(), change, formatting.credit)
    top = next(iter(amounts))
    share = formatting.percent(float(amounts[top] / sum(max(each, Decimal(0)) for each in amounts.values())))
    by_day = {day: float(sum(each.get(day, 0) for each in spent.values())) for day in span.full_days}
    steady = _steady(unit.capitalize(), by_day, formatting.credit)
    return f"{steady}; {top} used {share}" if steady else f"{top} used {share} of {formatting.credit(total)} {unit}"


def replacement(change: Replacement) -> str:
    """State which models replaced others, and how the credits per run changed."""
    found = f"{' and '.join(change.new)} replaced {' and '.join(change.old)} in {change.summary.label} "
    found += f"with v{change.version.version} on " if change.version else "on "
    found += formatting.day_month(change.day)
    if change.credits_per_run is None:
        return found
    before, since = change.credits_per_run
    numbers = f"from {formatting.credit(before)} to {formatting.credit(since)}"
    ratio = since / before
    if abs(ratio - 1) < 0.05:
        return f"{found}: credits per run stayed about the same ({numbers})"
    return f"{found}: credits per run {'rose' if ratio > 1 else 'fell'} {numbers} ({formatting.change(ratio)})"


def durations(found: Sequence[WorkflowSummary], period_days: int) -> str:
    """Name the workflow that a version made slower, or else faster, and workflows with much longer runs lately."""
    changed = sorted(
        (each for each in found if each.slowdown), key=lambda each: each.slowdown[2] if each.slowdown else 0
    )
    if changed:
        slower = [each for each in changed if each.slowdown and each.slowdown[2] > 1]
        top = slower[-1] if slower else changed[0]
        title = f"{top.label} got {slowdown(top)}"
    elif any(len(each.versions) > 1 for each in found):
        title = "No version changed the median duration of a workflow much"
    else:
        timed = [each for each in found if each.p50_s is not None]
        if not timed:
            return "No runs have ended"
        top = max(timed, key=lambda each: each.p50_s or 0)
        title = f"{top.label} takes longest: median {formatting.seconds(top.p50_s)}"
    late = [each for each in found if _has_late_tail(each)]
    if not late:
        return title
    when = "on the last day" if period_days == 1 else f"in the last {period_days} days"
    longest = max(each.periods[0].p95_s for each in late)
    whose = f"{late[0].label}" if len(late) == 1 else f"{formatting.count(len(late))} workflows"
    number = formatting.count(sum(each.periods[0].runs for each in late), "run")
    return (
        f"{title}; {when}, the 95th percentile of {whose} ({number}) rose far above the usual, "
        f"up to {formatting.seconds(longest)}"
    )


def slowdown(summary: WorkflowSummary) -> str:
    """Describe the version that changed the median duration of a workflow most; '' if no version changed it."""
    if summary.slowdown is None:
        return ""
    before, since, ratio = summary.slowdown
    medians = " to ".join(formatting.seconds((each.quartiles_s or [0, 0])[1]) for each in (before, since))
    when = formatting.day_month(since.first_run)
    return f"{'slower' if ratio > 1 else 'faster'} with v{since.version} on {when}: median {medians}"


def _has_late_tail(summary: WorkflowSummary) -> bool:
    """Return whether the 95th percentile of the newest period is far above the usual one; False if it has few runs."""
    usual = [each.p95_s for period, each in summary.periods.items() if period]
    latest = summary.periods.get(0)
    if latest is None or latest.runs < MIN_RUNS or len(usual) < 3:
        return False
    return latest.p95_s > _FAR * median(usual) > 0


def workflow(summary: WorkflowSummary) -> str:
    """State the failure rate and durations of a workflow, and the changes by its versions."""
    total = summary.total
    if total.failure_rate is None:
        return "No runs have ended."
    found = f"{formatting.rate_with_numbers(total.failed, total.ended)} failed"
    if summary.p50_s is not None:
        found += f"; median {formatting.seconds(summary.p50_s)}, p95 {formatting.seconds(summary.p95_s)}"
    changes = [f"Got {slowdown(summary)}"] if summary.slowdown else []
    for before, since in zip(summary.versions, summary.versions[1:], strict=False):
        rates = rate_change(Change(*(Tally(ended=each.ended, failed=each.failed) for each in (before, since))))
        changes += [f"Failure rate {rates} with v{since.version}"] if rates else []
    return ". ".join([found, *changes]) + "."


def failures(ranked: Sequence[WorkflowSummary], failing: Sequence[StepFacts]) -> str:
    """Name the workflow with the highest failure rate, its most often failing step, and the one with most failures."""
    if not ranked:
        return "No runs failed"
    worst, most = ranked[0], max(ranked, key=lambda each: each.total.failed)
    rate = formatting.rate_with_numbers(worst.total.failed, worst.total.ended)
    found = f"{worst.label} has the highest share of failed runs: {rate}"
    step = next((each.step_key for each in failing if each.workflow_id == worst.workflow_id), None)
    found += f", most often in {step}" if step else ""
    if most is worst:
        return found
    return f"{found}; {most.label} has the largest number: {most.total.failed:,} of {most.total.ended:,}"


def slowest(facts: Facts) -> str:
    """Name the slowest step."""
    timed = [each for each in facts.steps if each.p95_s is not None]
    if not timed:
        return "No step durations"
    frequent = [each for each in timed if each.runs >= _MIN_STEP_RUNS] or timed
    top = max(frequent, key=lambda each: each.p95_s or 0.0)
    return f"{top.step_key} of {facts.label(top.workflow_id)} is slowest: p95 {formatting.seconds(top.p95_s)}"


def open_runs(found: Sequence[OpenRun]) -> str:
    """State the number of open runs and the age of the oldest."""
    if not found:
        return "No open runs"
    number = found[0].open_in_all
    ages = [each.age_s for each in found if each.age_s is not None]
    since = f", the oldest for {formatting.seconds(max(ages))}" if ages else ""
    return f"{formatting.count(number, 'open run')}{since}"


def streams(found: Sequence[Stream], span: Span) -> str:
    """State whether all streams are complete, and when they were last synced."""
    if not found:
        return "Nothing has been synced yet"
    incomplete = sum(each.state != "complete" for each in found)
    read = [each.last_synced_at for each in found if each.last_synced_at]
    when = f"last read {formatting.ago(min(read), span.now)}" if len(read) == len(found) else "some never fully read"
    if incomplete:
        return f"{incomplete} of {formatting.count(len(found), 'workflow')} not complete; {when}"
    everything = "The workflow is" if len(found) == 1 else f"All {formatting.count(len(found))} workflows are"
    return f"{everything} complete; {when}"
