"""The titles of the report: each says what was found, in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.report import wording

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from etl.report.facts import Failure, OpenRun, Span, StepFacts, Stream
    from etl.report.summary import Change, Labels, Tally, WorkflowSummary

_ENOUGH_RUNS = 20  # ended runs on both sides before two failure rates are compared
_NOTABLE = 0.02  # difference of two rates that is worth a word, where it is beyond chance
_FEWEST_STEPS = 5  # runs of a step before it is named as the slowest or the one that fails most


def runs(total: Tally, days: int, week: Change | None) -> str:
    """Say how many runs there were and whether failures have become more."""
    if not total.runs:
        return f"No run in {wording.count(days, 'day')}"
    if total.runs >= 2 * days > 2:
        found = f"{wording.count(round(total.runs / days))} runs a day"
    else:
        found = wording.count(total.runs, "run") + (f" in {wording.count(days, 'day')}" if days > 1 else "")
    if total.failure_rate is not None:
        found += f", {_failed_of(total, 'them', 'those that ended')} failed"
    moved = movement(week)
    return f"{found}; {moved} in the last week" if moved else found


def _failed_of(total: Tally, everything: str, ended: str) -> str:
    """Write the failure rate, and of what it is wherever it is not the same of all runs."""
    rate = wording.percent(total.failure_rate)
    return f"{rate} of {everything if rate == wording.percent(total.failed / total.runs) else ended}"


def movement(change: Change | None) -> str:
    """Say how the failure rate moved; '' where it did not, or too few runs tell."""
    if change is None or min(change.before.ended, change.since.ended) < _ENOUGH_RUNS:
        return ""
    before, since = change.before.failure_rate or 0.0, change.since.failure_rate or 0.0
    # Twice the standard error of the difference: what chance alone seldom makes.
    pooled = (change.before.failed + change.since.failed) / (change.before.ended + change.since.ended)
    chance = 2 * (pooled * (1 - pooled) * (1 / change.before.ended + 1 / change.since.ended)) ** 0.5
    if abs(since - before) < max(_NOTABLE, chance):
        return ""
    word = "up" if since > before else "down"
    return f"{word} from {wording.percent(before)} to {wording.percent(since)}"


def spending(amounts: dict[str, Decimal], whose: str, *, nothing: str = "No credits were used") -> str:
    """Say who takes the largest part of the credits.

    Args:
        amounts: credits by name.
        whose: what stands before their sum: `all`, or whose they are.
        nothing: what is said where there are none.
    """
    total = sum(amounts.values())
    if not total:
        return nothing
    top = max(amounts, key=lambda name: (amounts[name], name))
    return f"{top} took {wording.percent(float(amounts[top] / total))} of {whose} {wording.credit(total)} credits"


def workflows(found: Sequence[WorkflowSummary]) -> str:
    """Say which workflow fails most."""
    judged = [each for each in found if each.total.ended >= _ENOUGH_RUNS] or [
        each for each in found if each.total.ended
    ]
    if not judged:
        return "No run has ended"
    worst = max(judged, key=lambda each: (each.total.failure_rate or 0.0, each.label))
    if not worst.total.failed:
        return "No workflow failed"
    return f"{worst.label} fails most: {_failed_of(worst.total, 'its runs', 'its runs that ended')}"


def workflow(summary: WorkflowSummary) -> str:
    """Say how one workflow does, and whether its last version made that worse or better."""
    if summary.total.failure_rate is None:
        return "no run has ended"
    found = f"{wording.percent(summary.total.failure_rate)} failed"
    if summary.p50_s is not None:
        found += f", half take under {wording.seconds(summary.p50_s)}"
    moved = movement(summary.since_last_version)
    return f"{found}; {moved} with v{summary.versions[-1].version}" if moved else found


def slowest(steps: Sequence[StepFacts], labels: Labels) -> str:
    """Say which step takes longest."""
    timed = [each for each in steps if each.p95_s is not None]
    if not timed:
        return "No step has a duration"
    top = max(_frequent(timed), key=lambda each: each.p95_s or 0.0)
    return f"{top.step_key} of {labels(top.workflow_id)} takes longest: {wording.seconds(top.p95_s)} at p95"


def most_failing(steps: Sequence[StepFacts], labels: Labels) -> str:
    """Say which step fails most often."""
    if not any(each.failed for each in steps):
        return "No step failed"
    top = max(steps, key=lambda each: (each.failed, each.step_key))
    return f"{top.step_key} of {labels(top.workflow_id)} fails most: {wording.count(top.failed, 'time')}"


def _frequent(steps: Sequence[StepFacts]) -> Sequence[StepFacts]:
    return [each for each in steps if each.runs >= _FEWEST_STEPS] or steps


def failures(found: Sequence[Failure], labels: Labels, span: Span) -> str:
    """Say what failed last."""
    if not found:
        return "No run has failed"
    last = found[0]
    where = f" at {last.step_key}" if last.step_key else ""
    return f"The last failure was {wording.ago(last.failed_at, span.now)}: {labels(last.workflow_id)}{where}"


def open_runs(found: Sequence[OpenRun]) -> str:
    """Say how many runs are open and how old the oldest is."""
    if not found:
        return "No run is open"
    number = found[0].open_in_all
    ages = [each.age_s for each in found if each.age_s is not None]
    since = f", the oldest for {wording.seconds(max(ages))}" if ages else ""
    return f"{wording.count(number, 'run')} {'is' if number == 1 else 'are'} open{since}"


def is_complete(stream: Stream) -> bool:
    """Whether all that the API counted is here or in quarantine, and the last sync of the stream did not fail."""
    return (
        stream.backfill_done
        and stream.last_error is None
        and (stream.api_count is None or stream.api_count == stream.accounted_for)
    )


def streams(found: Sequence[Stream], span: Span) -> str:
    """Say whether the warehouse is complete and fresh."""
    if not found:
        return "Nothing has been synced yet"
    behind = sum(not is_complete(each) for each in found)
    read = [each.last_synced_at for each in found if each.last_synced_at]
    when = f"last read {wording.ago(min(read), span.now)}" if len(read) == len(found) else "some never read to the end"
    if behind:
        return f"{behind} of {wording.count(len(found), 'workflow')} not complete; {when}"
    everything = "The workflow is" if len(found) == 1 else f"All {wording.count(len(found))} workflows are"
    return f"{everything} complete; {when}"
