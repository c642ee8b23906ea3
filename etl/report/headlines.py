"""The titles of the report's sections: each states a finding in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.report import formatting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from etl.report.aggregates import Change, Labels, Tally, WorkflowSummary
    from etl.report.facts import Failure, OpenRun, Span, StepFacts, Stream

_MIN_RUNS = 20  # ended runs on both sides before two failure rates are compared
_MIN_DIFFERENCE = 0.02  # smallest difference of two rates that is mentioned
_MIN_STEP_RUNS = 5  # runs of a step before it can be named the slowest


def runs(total: Tally, days: int, week: Change | None) -> str:
    """State the number of runs and whether the failure rate changed."""
    if not total.runs:
        return f"No runs in {formatting.count(days, 'day')}"
    if total.runs >= 2 * days > 2:
        found = f"{formatting.count(round(total.runs / days))} runs per day"
    else:
        found = formatting.count(total.runs, "run") + (f" in {formatting.count(days, 'day')}" if days > 1 else "")
    if total.failure_rate is not None:
        found += f", {_rate_of(total, 'them', 'those that ended')} failed"
    changed = rate_change(week)
    return f"{found}; {changed} in the last week" if changed else found


def _rate_of(total: Tally, everything: str, ended: str) -> str:
    """Format the failure rate; name the ended runs as its base if the rate of all runs differs."""
    rate = formatting.percent(total.failure_rate)
    return f"{rate} of {everything if rate == formatting.percent(total.failed / total.runs) else ended}"


def rate_change(change: Change | None) -> str:
    """Describe a significant change of the failure rate; '' if there is none or there are too few runs."""
    if change is None or min(change.before.ended, change.since.ended) < _MIN_RUNS:
        return ""
    before, since = change.before.failure_rate or 0.0, change.since.failure_rate or 0.0
    # Twice the standard error of the difference: rarely exceeded by chance.
    pooled = (change.before.failed + change.since.failed) / (change.before.ended + change.since.ended)
    chance = 2 * (pooled * (1 - pooled) * (1 / change.before.ended + 1 / change.since.ended)) ** 0.5
    if abs(since - before) < max(_MIN_DIFFERENCE, chance):
        return ""
    word = "up" if since > before else "down"
    return f"{word} from {formatting.percent(before)} to {formatting.percent(since)}"


def spending(amounts: dict[str, Decimal], unit: str = "credits") -> str:
    """Name the largest consumer of credits.

    Args:
        amounts: credits by name.
        unit: what is counted: `credits` or `model credits`.
    """
    total = sum(amounts.values())
    if not total:
        return f"No {unit} were used"
    top = max(amounts, key=lambda name: (amounts[name], name))
    return f"{top} used {formatting.percent(float(amounts[top] / total))} of {formatting.credit(total)} {unit}"


def workflows(found: Sequence[WorkflowSummary]) -> str:
    """Name the workflow with the highest failure rate."""
    rated = [each for each in found if each.total.ended >= _MIN_RUNS] or [each for each in found if each.total.ended]
    if not rated:
        return "No runs have ended"
    worst = max(rated, key=lambda each: (each.total.failure_rate or 0.0, each.label))
    if not worst.total.failed:
        return "No runs failed"
    return f"{worst.label} fails most often: {_rate_of(worst.total, 'its runs', 'its ended runs')}"


def workflow(summary: WorkflowSummary) -> str:
    """State the failure rate and median duration of a workflow, and whether its latest version changed the rate."""
    if summary.total.failure_rate is None:
        return "no runs have ended"
    found = f"{formatting.percent(summary.total.failure_rate)} failed"
    if summary.p50_s is not None:
        found += f", median duration {formatting.seconds(summary.p50_s)}"
    changed = rate_change(summary.since_last_version)
    return f"{found}; {changed} since v{summary.versions[-1].version}" if changed else found


def slowest(steps: Sequence[StepFacts], labels: Labels) -> str:
    """Name the slowest step."""
    timed = [each for each in steps if each.p95_s is not None]
    if not timed:
        return "No step durations"
    frequent = [each for each in timed if each.runs >= _MIN_STEP_RUNS] or timed
    top = max(frequent, key=lambda each: each.p95_s or 0.0)
    return f"{top.step_key} of {labels(top.workflow_id)} is slowest (p95 {formatting.seconds(top.p95_s)})"


def most_failing(steps: Sequence[StepFacts], labels: Labels) -> str:
    """Name the step with the most failures."""
    if not any(each.failed for each in steps):
        return "no steps failed"
    top = max(steps, key=lambda each: (each.failed, each.step_key))
    return f"{top.step_key} of {labels(top.workflow_id)} fails most often ({formatting.count(top.failed, 'time')})"


def failures(found: Sequence[Failure], labels: Labels, span: Span) -> str:
    """Describe the latest failure."""
    if not found:
        return "No runs have failed"
    last = found[0]
    step = f", step {last.step_key}" if last.step_key else ""
    return f"The latest failure was {formatting.ago(last.failed_at, span.now)}: {labels(last.workflow_id)}{step}"


def open_runs(found: Sequence[OpenRun]) -> str:
    """State the number of open runs and the age of the oldest."""
    if not found:
        return "No open runs"
    number = found[0].open_in_all
    ages = [each.age_s for each in found if each.age_s is not None]
    since = f", the oldest for {formatting.seconds(max(ages))}" if ages else ""
    return f"{formatting.count(number, 'open run')}{since}"


def streams(found: Sequence[Stream], span: Span) -> str:
    """State whether all streams are complete and when they were last read."""
    if not found:
        return "Nothing has been synced yet"
    incomplete = sum(each.state != "complete" for each in found)
    read = [each.last_synced_at for each in found if each.last_synced_at]
    when = f"last read {formatting.ago(min(read), span.now)}" if len(read) == len(found) else "some never fully read"
    if incomplete:
        return f"{incomplete} of {formatting.count(len(found), 'workflow')} not complete; {when}"
    everything = "The workflow is" if len(found) == 1 else f"All {formatting.count(len(found))} workflows are"
    return f"{everything} complete; {when}"
