"""Titles, aggregates, changes and number formats of the report."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from etl.report import formatting, headlines
from etl.report.aggregates import Change, Tally, by_label, last_week, split_into_periods, tally, totals, workflows
from etl.report.changes import replacements, shift
from etl.report.facts import (
    DailyModel,
    DailyRuns,
    Durations,
    Facts,
    OpenRun,
    Span,
    StepFacts,
    Stream,
    VersionRuns,
)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TODAY = NOW.date()


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


def test_rates_are_shown_with_their_numbers() -> None:
    assert said(formatting.rate_with_numbers(38, 1463)) == "2.6 % (38 of 1,463)"
    assert said(formatting.rate_with_numbers(0, 0)) == "– (0 of 0)"


@pytest.mark.parametrize(
    ("ratio", "text"), [(1.5, "+50 %"), (0.17, "−83 %"), (3.14, "3.1 times"), (1234, "1,234 times")]
)
def test_change(ratio, text) -> None:
    assert said(formatting.change(ratio)) == text


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
        ("3e20", "3.00e+20"), ("-0.5", "−0.500"), ("-1234", "−1,234"),
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


def test_labels() -> None:
    found = facts(1, labels={"a": "Invoices\n of \t May", "b": "", "c": "x" * 5000})
    assert [found.label(each) for each in ("a", "b", "unknown", None)] == [
        "Invoices of May", "b", "unknown", "(no workflow)",
    ]  # fmt: skip
    assert len(found.label("c")) == 80


def change(before: tuple[int, int], since: tuple[int, int]) -> Change:
    (failed_before, ended_before), (failed_since, ended_since) = before, since
    return Change(Tally(ended_before, ended_before, failed_before), Tally(ended_since, ended_since, failed_since))


@pytest.mark.parametrize(
    ("before", "since", "text"),
    [
        ((10, 200), (40, 200), "from 5.0 % to 20 %"),
        ((40, 200), (10, 200), "from 20 % to 5.0 %"),
        ((10, 200), (11, 200), ""),  # nearly the same
        ((1, 20), (4, 20), ""),  # not significant
        ((0, 5), (5, 5), ""),  # too few runs
        ((1000, 100_000), (1900, 100_000), ""),  # significant, but too small
    ],
)
def test_only_significant_changes_of_rates_are_mentioned(before, since, text) -> None:
    assert said(headlines.rate_change(change(before, since))) == text


def runs_title(*by_day: Tally, **found) -> str:
    """The title of consecutive days that end today, which is partial."""
    span = facts(len(by_day)).span
    return said(headlines.runs(dict(zip(span.days, by_day, strict=True)), span, found.get("change"), found.get("week")))


def test_runs_title() -> None:
    assert runs_title(*[Tally()] * 3) == "0 runs in 3 days"
    assert runs_title(Tally(1, 1, 0)) == "1 run in 1 day; 0 % of them failed"
    assert runs_title(Tally(10, 10, 1), *[Tally()] * 3) == "10 runs in 4 days; 10 % of them failed"
    days = [Tally(20, 5, 1)] * 10
    assert runs_title(*days) == "Runs stayed at about 20 a day; 20 % of those that ended failed"
    assert runs_title(*days, week=change((10, 200), (40, 200))) == (
        "Runs stayed at about 20 a day; the failure rate rose from 5.0 % in the 7 days before to 20 % in the last 7"
    )
    assert runs_title(*days, week=change((40, 200), (10, 200))).endswith(
        "fell from 20 % in the 7 days before to 5.0 % in the last 7"
    )


def test_a_day_with_unusual_runs_or_failures_is_named() -> None:
    days = [Tally(50, 50, 1)] * 10
    days[4] = Tally(200, 200, 4)
    assert runs_title(*days) == "Runs peaked at 200 on 18 Nov, 4.0 times the usual 50 a day; 2.0 % of them failed"
    days[4] = Tally(50, 50, 20)
    assert runs_title(*days) == "Runs stayed at about 50 a day; 5.8 % of them failed; on 18 Nov, 40 % failed"
    days[4] = Tally(5, 5, 5)  # too few runs
    assert runs_title(*days).endswith("3.1 % of them failed")
    days = [Tally(50, 50, 10)] * 9 + [Tally(50, 50, 20)]  # not unusual
    assert runs_title(*days).endswith("22 % of them failed")
    days = [Tally(50, 50, 1)] * 9 + [Tally(50, 50, 9)]  # too few
    assert runs_title(*days).endswith("3.6 % of them failed")


def by_day(*amounts: float) -> dict[date, Decimal]:
    """Amounts of consecutive days that end yesterday."""
    return {TODAY - timedelta(days=len(amounts) - index): Decimal(each) for index, each in enumerate(amounts)}


def full_days(number: int) -> list[date]:
    return [TODAY - timedelta(days=each) for each in range(number, 0, -1)]


def test_a_new_workflow_that_raised_the_credits_is_named() -> None:
    spent = {"old": by_day(*[10, 11] * 14), "new": by_day(*[0] * 12, *[8] * 16)}
    found = shift(spent, full_days(28))
    assert said(headlines.spending(spent, facts(29).span, found)) == (
        "Credits rose from 11.6 to 18.5 a day, mostly because of new, in use since 7 Nov"
    )


def test_a_workflow_that_is_no_longer_used_is_named() -> None:
    spent = {"old": by_day(*[10, 11] * 14), "gone": by_day(*[8] * 12, *[0] * 16)}
    assert said(headlines.spending(spent, facts(29).span, shift(spent, full_days(28)))).endswith(
        "because of gone, last used on 6 Nov"
    )


def test_changes_of_daily_amounts_need_two_weeks_and_more_than_chance() -> None:
    assert shift({"a": by_day(*[1] * 6, *[9] * 7)}, full_days(13)) is None
    assert shift({"a": by_day(*[10, 30, 50, 20, 40, 1, 1] * 4)}, full_days(28)) is None  # the same weeks
    assert shift({"a": by_day(*[1, 50, 2, 80, 3, 1, 9], *[9, 1, 60, 4, 99, 2, 1])}, full_days(14)) is None
    assert shift({"a": by_day(*[100.0, 101] * 7, *[105.0, 106] * 7)}, full_days(28)) is None  # significant, but small
    weekdays = [50, 50, 50, 50, 50, 1, 1]
    assert shift({"a": by_day(*weekdays, *weekdays, *[each * 1.2 for each in [*weekdays, *weekdays]])}, full_days(28))
    found = shift({"a": by_day(*[10, 11] * 7, *[20, 21] * 7)}, full_days(28))
    assert found is not None
    assert (found.days, found.before, found.since, found.part) == (14, 10.5, 20.5, None)  # there is only one part
    days = [*[Tally(10, 10)] * 7, *[Tally(20, 20)] * 8]
    assert runs_title(*days, change=found) == "Runs rose from 10 to 20 a day; 0 % of them failed"


def test_the_share_of_a_change_is_stated() -> None:
    parts = {f"part {index}": by_day(*[1, 1.1] * 7, *[2 + index / 10, 2] * 7) for index in range(4)}
    found = shift(parts, full_days(28))
    assert said(headlines.spending(parts, facts(29).span, found)) == (
        "Credits rose from 4.20 to 8.30 a day, most of all because of part 3 (1.05 to 2.15)"
    )


def test_credits_title_without_a_change() -> None:
    span = facts(3).span
    assert headlines.spending({}, span, None) == "No credits were used"
    assert headlines.spending({}, span, None, "model credits") == "No model credits were used"
    spent = {"x": by_day(1.5), "y": by_day(4, 0.5), "z": by_day(0)}
    assert said(headlines.spending(spent, span, None, "model credits")) == "y used 75 % of 6.00 model credits"
    assert list(totals(spent)) == ["y", "x"]
    steady = {"x": by_day(*[3, 4] * 5), "y": by_day(*[1] * 10)}
    assert said(headlines.spending(steady, facts(11).span, None)) == "Credits stayed at about 4.50 a day; x used 78 %"
    assert said(headlines.spending({"x": by_day(4), "y": by_day(-1)}, span, None)) == "x used 100 % of 3.00 credits"
    peak = {"x": by_day(*[1] * 10), "y": by_day(*[1] * 6, 7, *[1] * 3)}
    assert said(headlines.spending(peak, facts(11).span, None)) == (
        "Credits peaked at 8.00 on 19 Nov, 4.0 times the usual 2.00 a day; y used 62 %"
    )


def daily(
    days_ago: int, status: str = "COMPLETED", runs: int = 10, workflow: str = "a", each: float = 0.25
) -> DailyRuns:
    return DailyRuns(TODAY - timedelta(days=days_ago), workflow, status, runs, Decimal(runs) * Decimal(each))


def facts(days: int, rows: list[DailyRuns] | None = None, **found) -> Facts:
    first = TODAY - timedelta(days=days - 1)
    span = Span(NOW, first, TODAY, None, NOW, 0)
    names = ("labels", "daily", "durations", "versions", "models", "steps", "failures", "open_runs", "streams", "syncs")
    return Facts(span, **({name: [] for name in names} | {"labels": {"a": "Invoices"}, "daily": rows or []} | found))


def calls(model: str, days_ago: range, number: int = 5, workflow: str = "a") -> list[DailyModel]:
    return [DailyModel(TODAY - timedelta(each), workflow, "maker", model, number, Decimal(1)) for each in days_ago]


def version(number: int, days_ago: int = 30, *, ended: int = 100, failed: int = 0, median_s: float = 10) -> VersionRuns:
    first = NOW - timedelta(days=days_ago)
    return VersionRuns("a", number, first, ended, failed, ended, [median_s * 0.7, median_s, median_s * 1.4])


def replaced(found: Facts) -> list[str]:
    return [said(headlines.replacement(each)) for each in replacements(found, workflows(found))]


def test_replaced_model_is_named_with_the_change_of_credits() -> None:
    rows = [daily(each, each=0.08 if each < 20 else 0.02) for each in range(40)]
    models = [*calls("small", range(20, 40)), *calls("large", range(20)), *calls("other", range(40))]
    assert replaced(facts(40, rows, models=models)) == [
        "large replaced small in Invoices on 4 Nov: credits per run rose from 0.0200 to 0.0800 (4.0 times)"
    ]
    # A few calls before and after, such as those of drafts and replays, change nothing; the version gives the exact day.
    trials = [*calls("large", range(30, 32), 1), *calls("small", range(5, 7), 1)]
    with_version = facts(40, rows, models=[*models, *trials], versions=[version(3, 90), version(4, 20)])
    assert replaced(with_version) == [
        "large replaced small in Invoices with v4 on 3 Nov: credits per run rose from 0.0200 to 0.0800 (4.0 times)"
    ]


def test_models_that_are_used_side_by_side_or_once_replace_nothing() -> None:
    rows = [daily(each) for each in range(40)]
    assert replaced(facts(40, rows, models=[*calls("one", range(40)), *calls("two", range(20))])) == []
    assert replaced(facts(40, rows, models=[*calls("one", range(10, 40)), *calls("two", range(25))])) == []
    assert replaced(facts(40, rows, models=[*calls("one", range(2, 40)), *calls("two", range(2))])) == []
    assert replaced(facts(40, rows, models=[*calls("one", range(38, 40)), *calls("two", range(38))])) == []
    assert (
        replaced(facts(40, rows, models=[*calls("one", range(20, 40)), *calls("two", range(20), workflow="b")])) == []
    )
    assert replaced(facts(40)) == []


def test_the_latest_replacement_of_a_workflow_comes_first() -> None:
    prices = {"a": 0.9, "b": 0.1, "c": 0.1}
    models = [*calls("a", range(30, 45)), *calls("b", range(15, 30)), *calls("c", range(15))]
    rows = [daily(each, each=prices["abc"[2 - each // 15]]) for each in range(45)]
    titles = replaced(facts(45, rows, models=models))
    assert titles[0].startswith("c replaced b in Invoices on 9 Nov: credits per run stayed about the same")
    assert titles[1].startswith("b replaced a in Invoices on 25 Oct: credits per run fell from 0.900 to 0.100 (−89 %)")


def test_credits_of_few_runs_are_not_compared() -> None:
    models = [*calls("one", range(20, 40)), *calls("two", range(20))]
    rows = [daily(each, runs=1) for each in range(17, 25)]
    assert replaced(facts(40, rows, models=models)) == ["two replaced one in Invoices on 4 Nov"]


def durations_title(*versions: VersionRuns, timed: list[Durations] | None = None) -> str:
    found = workflows(facts(30, [daily(each) for each in range(30)], versions=list(versions), durations=timed or []))
    return said(headlines.durations(found, 3))


def test_the_workflow_that_a_version_made_slower_is_named() -> None:
    slower = durations_title(version(1), version(2, 12, median_s=30), version(3, 5, median_s=31))
    assert slower == "Invoices got slower with v2 on 11 Nov: median 10 s to 30 s"
    faster = durations_title(version(1), version(2, 12, median_s=4))
    assert faster == "Invoices got faster with v2 on 11 Nov: median 10 s to 4 s"


def test_the_workflow_with_the_largest_change_of_durations_is_named() -> None:
    rows = [daily(each, workflow=workflow) for each in range(30) for workflow in ("a", "b")]

    def title(*medians: float) -> str:
        versions = [
            replace(version(number, 40 - 20 * number, median_s=median_s), workflow_id=workflow)
            for workflow, last in zip("ab", medians, strict=True)
            for number, median_s in ((1, 10), (2, last))
        ]
        return said(headlines.durations(workflows(facts(30, rows, versions=versions)), 1))

    assert title(30, 20).startswith("Invoices got slower")
    assert title(20, 30).startswith("b got slower")
    assert title(5, 2).startswith("b got faster")
    assert title(2, 5).startswith("Invoices got faster")
    assert title(2, 15).startswith("b got slower")


@pytest.mark.parametrize(
    "later",
    [
        version(2, 12, median_s=11, ended=10**6),  # significant, but hardly slower
        version(2, 12, median_s=30, ended=19),  # too few runs
        replace(version(2, 12, median_s=13, ended=20), quartiles_s=[1, 13, 200]),  # not significant
        replace(version(2, 12), quartiles_s=[0, 30, 40]),  # no ratio
    ],
)
def test_only_significant_changes_of_durations_are_mentioned(later) -> None:
    assert (
        durations_title(version(1, ended=10**6), later) == "No version changed the median duration of a workflow much"
    )


def test_titles_of_durations_without_versions() -> None:
    assert durations_title() == "No runs have ended"
    steady = [Durations("a", period, 30, 10.0, 20.0) for period in (None, *range(10))]
    assert durations_title(timed=steady) == "Invoices takes longest: median 10 s"
    late = [replace(each, p95_s=40_000.0) if each.period == 0 else each for each in steady]
    backwards = [replace(each, p95_s=-5.0) for each in steady]
    assert durations_title(timed=backwards) == "Invoices takes longest: median 10 s"
    assert durations_title(timed=late) == (
        "Invoices takes longest: median 10 s; in the last 3 days, the 95th percentile of Invoices (30 runs) rose far "
        "above the usual, up to 11 h 6 min"
    )
    few = [replace(each, runs=19) for each in late]
    assert durations_title(timed=few) == "Invoices takes longest: median 10 s"


def test_card_of_a_workflow_names_the_changes_by_its_versions() -> None:
    found = facts(
        30,
        [daily(0), daily(1, "FAILED", 5)],
        durations=[Durations("a", None, 15, 4.0, 9.0)],
        versions=[version(1, failed=5), version(2, 12, failed=20), version(3, 3, failed=20, median_s=30)],
    )
    assert said(headlines.workflow(workflows(found)[0])) == (
        "33 % (5 of 15) failed; median 4 s, p95 9 s. Got slower with v3 on 20 Nov: median 10 s to 30 s. "
        "Failure rate from 5.0 % to 20 % with v2."
    )
    assert headlines.workflow(workflows(facts(1, [daily(0, "RUNNING")]))[0]) == "No runs have ended."


def step(key: str, *, runs: int = 100, failed: int = 0, p95_s: float | None = 1.0) -> StepFacts:
    return StepFacts("a", key, "code", runs, runs, failed, p95_s, p95_s, Decimal(0))


def test_steps_title() -> None:
    steps = [step("fast"), step("slow", p95_s=90), step("once", runs=1, p95_s=500), step("bad", failed=7, p95_s=None)]
    assert said(headlines.slowest(facts(1, steps=steps))) == "slow of Invoices is slowest: p95 1 min 30 s"
    assert headlines.slowest(facts(1, steps=[step("x", p95_s=None)])) == "No step durations"


def test_failures_title() -> None:
    rows = [daily(0), daily(1, "FAILED", 5), daily(0, workflow="b", runs=100), daily(1, "FAILED", 6, "b")]
    invoices, b = sorted(workflows(facts(5, rows)), key=lambda each: each.label)
    share = "Invoices has the highest share of failed runs: 33 % (5 of 15)"
    failing = [replace(step("x", failed=4), workflow_id="b"), step("ocr", failed=3), step("y", failed=2)]
    assert headlines.failures([], []) == "No runs failed"
    assert said(headlines.failures([invoices], [])) == share
    assert said(headlines.failures([invoices], failing)) == f"{share}, most often in ocr"
    assert said(headlines.failures([invoices, b], failing)) == (
        f"{share}, most often in ocr; b has the largest number: 6 of 106"
    )


def test_open_runs_title() -> None:
    waiting = [OpenRun(f"r{age}", "a", "RUNNING", None, age, NOW, 250) for age in (7200, None, 60)]
    assert said(headlines.open_runs(waiting)) == "250 open runs, the oldest for 2 h"
    assert headlines.open_runs([]) == "No open runs"


def stream(state: str = "complete") -> Stream:
    return Stream("a", "w", state, NOW - timedelta(minutes=5), None, 10, 10, 0, None)


def test_sync_health_title() -> None:
    span = facts(1).span
    assert said(headlines.streams([stream(), stream()], span)) == "All 2 workflows are complete; last read 5 min ago"
    behind = [stream("incomplete"), stream("loading"), stream("failing"), stream()]
    assert said(headlines.streams(behind, span)) == "3 of 4 workflows not complete; last read 5 min ago"
    assert headlines.streams([], span) == "Nothing has been synced yet"


def test_last_week_is_compared_with_the_week_before() -> None:
    rows = [daily(each) for each in range(20)]
    assert last_week(facts(13, rows)) is None
    week = last_week(facts(14, rows))
    assert week is not None
    assert (week.before.runs, week.since.runs) == (70, 70)


def test_workflows_with_the_same_label_are_added_up() -> None:
    long = "x" * 100
    found = facts(1, [daily(0), daily(0, workflow="b")], labels={"a": f"{long} 1", "b": f"{long} 2"})
    assert list(by_label(found, lambda row: row.credits).values()) == [{TODAY: Decimal(5)}]


def test_workflow_summary() -> None:
    rows = [daily(0), daily(1), daily(1, "FAILED", 5), daily(1, "RUNNING", 3), daily(0, workflow="b", runs=1)]
    durations = [Durations("a", 1, 9, 2.0, 3.0), Durations("a", None, 18, 4.0, 5.0), Durations("a", 0, 9, 6.0, 7.0)]
    first, second = workflows(facts(5, rows, durations=durations))
    assert (first.label, first.total.runs, first.total.failure_rate) == ("Invoices", 28, 5 / 25)
    assert first.total.credits == Decimal(7)
    assert (first.p50_s, first.p95_s) == (4.0, 5.0)
    assert (first.periods[0].p50_s, first.periods[1].p50_s) == (6.0, 2.0)
    assert (second.label, second.p50_s) == ("b", None)
    assert tally(rows).runs == 29


def test_periods_end_with_the_last_day() -> None:
    span = replace(facts(1).span, first=date(2026, 11, 1), last=date(2026, 11, 7))
    assert split_into_periods(span, 3) == [
        (date(2026, 11, 5), date(2026, 11, 7)),
        (date(2026, 11, 2), date(2026, 11, 4)),
        (date(2026, 11, 1), date(2026, 11, 1)),
    ]


def test_partial_days_are_not_full() -> None:
    span = facts(5).span
    assert span.full_days == span.days[:-1]
    assert replace(span, first_run=datetime.combine(span.first, NOW.time(), UTC)).full_days == span.days[1:-1]
    assert replace(span, read_until=NOW - timedelta(days=2)).full_days == span.days[:-3]
    assert replace(span, read_until=NOW + timedelta(days=1)).full_days == span.days
