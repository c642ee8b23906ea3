"""Headlines, aggregates and number formats of the report."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from etl.report import formatting, headlines
from etl.report.aggregates import Change, Labels, Tally, last_week, split_into_periods, tally, workflows
from etl.report.facts import DailyRuns, Durations, Facts, Failure, OpenRun, Span, StepFacts, Stream
from etl.report.facts import _detail_first as detail_first

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TODAY = NOW.date()
NAMES = Labels({"a": "Invoices", "b": "Digest", "c": "Digest"})


def said(text: str) -> str:
    """Replace no-break spaces."""
    return text.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (None, "–"),
        (0, "0 %"),
        (0.0001, "<0.1 %"),
        (0.0345, "3.5 %"),
        (0.123, "12 %"),
        (0.9999, ">99.9 %"),
        (1, "100 %"),
    ],
)
def test_percent(rate, text) -> None:
    assert said(formatting.percent(rate)) == text


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (None, "–"), (0, "0 s"), (0.0004, "<1 ms"), (0.123, "0.12 s"), (9.94, "9.9 s"), (48.4, "48 s"), (61, "1 min 1 s"),
        (7200, "2 h"), (7500, "2 h 5 min"), (200_000, "2 d 7 h"), (400 * 86_400, "400 d"), (-75, "−1 min 15 s"),
    ],
)  # fmt: skip
def test_seconds(length, text) -> None:
    assert said(formatting.seconds(length)) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "0"), ("1234.56", "1,235"), ("12.345", "12.3"), ("0.00123456", "0.00123"), ("1e-9", "<0.000001"), ("1e-500", "<0.000001"),
        ("3e20", "3.00e+20"), ("-0.5", "-0.500"),
    ],
)  # fmt: skip
def test_credit(amount, text) -> None:
    assert formatting.credit(Decimal(amount)) == text


def test_ago() -> None:
    def before(**length: float) -> str:
        return said(formatting.ago(NOW - timedelta(**length), NOW))

    assert [before(seconds=5), before(minutes=90), before(days=3), before(minutes=-9)] == [
        "just now", "1 h ago", "3 d ago", "in the future",
    ]  # fmt: skip
    assert formatting.ago(None, NOW) == "never"


def test_shared_names_are_labelled_with_the_id() -> None:
    assert [NAMES("a"), NAMES("b"), NAMES("unknown"), NAMES(None)] == [
        "Invoices",
        "Digest (b)",
        "unknown",
        "(no workflow)",
    ]
    assert len(Labels({"a": "x" * 5000})("a")) == 80


def change(before: tuple[int, int], since: tuple[int, int]) -> Change:
    (failed_before, ended_before), (failed_since, ended_since) = before, since
    return Change(Tally(ended_before, ended_before, failed_before), Tally(ended_since, ended_since, failed_since))


@pytest.mark.parametrize(
    ("before", "since", "text"),
    [
        ((10, 200), (40, 200), "up from 5.0 % to 20 %"),
        ((40, 200), (10, 200), "down from 20 % to 5.0 %"),
        ((10, 200), (11, 200), ""),  # nearly the same
        ((1, 20), (4, 20), ""),  # may well be chance
        ((0, 5), (5, 5), ""),  # too few runs
        ((1000, 100_000), (1900, 100_000), ""),  # significant, but too small
    ],
)
def test_only_significant_changes_are_mentioned(before, since, text) -> None:
    assert said(headlines.rate_change(change(before, since))) == text


def test_runs_headline() -> None:
    assert headlines.runs(Tally(), 30, None) == "No runs in 30 days"
    assert headlines.runs(Tally(1, 1, 0), 1, None).startswith("1 run, 0")
    assert said(headlines.runs(Tally(10, 10, 1), 82, None)) == "10 runs in 82 days, 10 % of them failed"
    assert said(headlines.runs(Tally(200, 50, 10), 10, None)) == "20 runs per day, 20 % of those that ended failed"
    total = Tally(1500, 1500, 75)
    assert said(headlines.runs(total, 30, change((10, 200), (40, 200)))) == (
        "50 runs per day, 5.0 % of them failed; up from 5.0 % to 20 % in the last week"
    )


def test_credits_headline() -> None:
    assert headlines.spending({}) == "No credits were used"
    assert headlines.spending({}, "model credits") == "No model credits were used"
    amounts = {"x": Decimal("1.5"), "y": Decimal("4.5")}
    assert said(headlines.spending(amounts, "model credits")) == "y used 75 % of 6.00 model credits"


def step(key: str, *, runs: int = 100, failed: int = 0, p95_s: float | None = 1.0) -> StepFacts:
    return StepFacts("a", key, "code", runs, runs, failed, p95_s, p95_s, Decimal(0))


def test_steps_headlines() -> None:
    steps = [step("fast"), step("slow", p95_s=90), step("once", runs=1, p95_s=500), step("bad", failed=7, p95_s=None)]
    assert said(headlines.slowest(steps, NAMES)) == "slow of Invoices is slowest (p95 1 min 30 s)"
    assert headlines.most_failing(steps, NAMES) == "bad of Invoices fails most often (7 times)"
    assert headlines.slowest([step("x", p95_s=None)], NAMES) == "No step durations"
    assert headlines.most_failing(steps[:3], NAMES) == "no steps failed"


def test_failures_and_open_runs_headlines() -> None:
    span = Span(NOW, TODAY, TODAY, TODAY, 1, 0)
    failure = Failure("r", "a", NOW - timedelta(hours=3), "ocr", "code", "no", "TEST", 1)
    assert said(headlines.failures([failure], NAMES, span)) == "The latest failure was 3 h ago: Invoices, step ocr"
    assert headlines.failures([], NAMES, span) == "No runs have failed"
    waiting = [OpenRun(f"r{age}", "a", "RUNNING", None, age, NOW, 250) for age in (7200, None, 60)]
    assert said(headlines.open_runs(waiting)) == "250 open runs, the oldest for 2 h"
    assert headlines.open_runs([]) == "No open runs"


def stream(state: str = "complete") -> Stream:
    return Stream("a", "w", state, NOW - timedelta(minutes=5), None, 10, 10, 0, None)


def test_sync_health_headline() -> None:
    span = Span(NOW, TODAY, TODAY, TODAY, 1, 0)
    assert said(headlines.streams([stream(), stream()], span)) == "All 2 workflows are complete; last read 5 min ago"
    behind = [stream("incomplete"), stream("loading"), stream("failing"), stream()]
    assert said(headlines.streams(behind, span)) == "3 of 4 workflows not complete; last read 5 min ago"
    assert headlines.streams([], span) == "Nothing has been synced yet"


def daily(days_ago: int, status: str = "COMPLETED", runs: int = 10, workflow: str = "a") -> DailyRuns:
    return DailyRuns(TODAY - timedelta(days=days_ago), workflow, status, runs, Decimal(runs) / 4)


def facts(days: int, rows: list[DailyRuns], durations: list[Durations] | None = None) -> Facts:
    first = TODAY - timedelta(days=days - 1)
    return Facts(
        Span(NOW, first, TODAY, first, 1, 0), {"a": "Invoices"}, rows, durations or [], [], [], [], [], [], [], []
    )


def test_last_week_is_compared_with_the_week_before() -> None:
    rows = [daily(each) for each in range(20)]
    assert last_week(facts(13, rows)) is None
    week = last_week(facts(14, rows))
    assert week is not None
    assert (week.before.runs, week.since.runs) == (70, 70)


def test_workflow_summary() -> None:
    rows = [daily(0), daily(1), daily(1, "FAILED", 5), daily(1, "RUNNING", 3), daily(0, workflow="b", runs=1)]
    durations = [Durations("a", 1, 2.0, 3.0), Durations("a", None, 4.0, 5.0), Durations("a", 0, 6.0, 7.0)]
    first, second = workflows(facts(5, rows, durations))
    assert (first.label, first.total.runs, first.total.failure_rate) == ("Invoices", 28, 5 / 25)
    assert first.total.credits == Decimal(7)
    assert (first.p50_s, first.p95_s) == (4.0, 5.0)
    assert [each.period for each in first.periods] == [0, 1]
    assert (second.label, second.p50_s) == ("b", None)
    assert tally(rows).runs == 29


def test_periods_end_with_the_last_day() -> None:
    assert split_into_periods(date(2026, 11, 1), date(2026, 11, 7), 3) == [
        (date(2026, 11, 5), date(2026, 11, 7)),
        (date(2026, 11, 2), date(2026, 11, 4)),
        (date(2026, 11, 1), date(2026, 11, 1)),
    ]


def test_details_cover_a_bounded_number_of_runs() -> None:
    span = facts(30, []).span
    assert detail_first(span, [daily(each) for each in range(30)]) == span.first
    heavy = [daily(each, runs=15_000) for each in range(30)]
    assert detail_first(span, heavy) == TODAY - timedelta(days=1)
    assert detail_first(span, [daily(0, runs=10**9)]) == TODAY
