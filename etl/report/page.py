"""Render the HTML page: sections with headlines, plots and tables. All text from data is escaped."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from importlib.resources import files
from math import log, log10
from typing import TYPE_CHECKING

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from etl import __version__
from etl.report import aggregates, changes, formatting, headlines, html_tables, plots
from etl.report.aggregates import Tally
from etl.report.facts import MAX_FAILURES, MIN_TIMED
from etl.text import visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    from etl.report.aggregates import WorkflowSummary
    from etl.report.changes import Shift
    from etl.report.facts import Facts, Span, StepFacts
    from etl.report.html_tables import Table
    from etl.report.plots import Plot

_MAX_COLOURS = 8  # if there are more series, the remaining ones share the last colour
_MAX_CARDS = 12
_MAX_BARS = 10

_STATUSES = {
    "COMPLETED": "var(--completed)",
    "FAILED": "var(--failed)",
    "CANCELLED": "var(--cancelled)",
    "SKIPPED": "var(--skipped)",
    "PENDING": "var(--open)",
    "RUNNING": "var(--running)",
}
_OTHER_STATUSES = ("var(--c4)", "var(--c7)", "var(--rest)")  # the API may add values


@dataclass(frozen=True, slots=True)
class Tile:
    """A number at the top of the page."""

    label: str
    value: str
    note: str
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """A horizontal bar from `low` to `high` (0 to 100), with its label and the amount as text."""

    label: str
    amount: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Card:
    """A small plot or bars, with a heading and a finding."""

    heading: str
    finding: str
    plot: Plot | None = None
    bars: list[Bar] = field(default_factory=list)
    colour: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page; `title` states the main finding."""

    key: str
    name: str
    title: str
    notes: list[str] = field(default_factory=list)
    plot: Plot | None = None
    cards: list[Card] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def render(facts: Facts) -> str:
    """Render the page as one HTML document."""
    folder = files("etl.report").joinpath("assets")
    style, script, template = (
        folder.joinpath(name).read_text(encoding="utf-8") for name in ("style.css", "script.js", "page.html")
    )
    # All values passed to the template are escaped, except for drawings, which are marked as safe.
    environment = Environment(
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=DictLoader({}),
    )
    span = facts.span
    return environment.from_string(template).render(
        style=Markup(style),  # noqa: S704 -- a file of our own
        script=Markup(script),  # noqa: S704 -- a file of our own
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
        generated=formatting.minute(span.now),
        span=" to ".join(dict.fromkeys([formatting.day(span.first), formatting.day(span.last)])),
        notices=_notices(span),
        is_empty=not (facts.daily or facts.failures or facts.open_runs or facts.streams),
        tiles=_tiles(facts),
        sections=sections(facts),
    )


def _visible(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _notices(span: Span) -> list[str]:
    found = []
    if span.last < span.read_until.date():
        found.append(f"The last run is {formatting.count((span.now.date() - span.last).days, 'day')} old.")
    if (span.now - span.read_until).days:
        found.append(f"The last sync was {formatting.ago(span.read_until, span.now)}; later runs are missing.")
    if span.undated:
        found.append(f"Totals and daily plots leave out {formatting.count(span.undated, 'run')} without created_at.")
    return found


def _tiles(facts: Facts) -> list[Tile]:
    total, week = aggregates.tally(facts.daily), aggregates.last_week(facts)
    runs_note = credits_note = f"in {formatting.count(len(facts.span.days), 'day')}"
    failed_note = formatting.count(total.failed, "run")
    if week is not None:
        runs_note = f"{week.since.runs:,} in the last 7 days, {week.before.runs:,} in the 7 before"
        since, before = formatting.credit(week.since.credits), formatting.credit(week.before.credits)
        credits_note = f"{since} in the last 7 days, {before} in the 7 before"
    if changed := headlines.rate_change(week, weekly=True):
        failed_note += f"; {changed}"
    number_open = facts.open_runs[0].open_in_all if facts.open_runs else 0
    oldest = headlines.open_runs(facts.open_runs).partition(", ")[2] or "none"
    complete = sum(each.state == "complete" for each in facts.streams)
    number = len(facts.streams)
    return [
        Tile("Runs", f"{total.runs:,}", runs_note),
        Tile("Failed", formatting.percent(total.failure_rate), failed_note),
        Tile("Credits", formatting.credit(total.credits), credits_note),
        Tile("Open runs", f"{number_open:,}", oldest),
        Tile("Workflows in sync", f"{complete} of {number}", "match the API's count", bad=complete < number),
    ]


def sections(facts: Facts) -> list[Section]:
    """Return the sections that have data, in the order of the page."""
    found = aggregates.workflows(facts)
    made = []
    if facts.daily:
        made += [_runs(facts, found), _credits(facts), _models(facts, found), _workflows(facts, found)]
    if facts.daily or facts.failures:
        made.append(_failures(facts, found))
    if facts.steps:
        made.append(_steps(facts))
    if facts.daily or facts.open_runs:
        notes = ["The 100 oldest."] if len(facts.open_runs) == 100 else []
        title = headlines.open_runs(facts.open_runs)
        made.append(Section("open", "Open runs", title, notes, tables=[html_tables.open_runs(facts)]))
    if facts.streams:
        title = headlines.streams(facts.streams, facts.span)
        tables = [html_tables.streams(facts), html_tables.syncs(facts)]
        notes = ["The counts are of the runs that the API lists now, of all days, also those without created_at."]
        made.append(Section("health", "Sync health", title, notes, tables=tables))
    return made


def _runs(facts: Facts, found: Sequence[WorkflowSummary]) -> Section:
    by_status: dict[str, dict[date, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for row in facts.daily:
        by_status[row.status or "(no status)"][row.day] += row.runs
    order = [*_STATUSES, *sorted(by_status.keys() - _STATUSES.keys())]
    others = itertools.cycle(_OTHER_STATUSES)
    colours = {each: _STATUSES.get(each) or next(others) for each in order if each in by_status}
    series = [plots.Series(each.capitalize(), colour, by_status[each]) for each, colour in colours.items()]
    counts = aggregates.by_label(facts, lambda row: Decimal(row.runs))
    by_day = {day: sum((each.by_day.get(day, Tally()) for each in found), Tally()) for day in facts.span.days}
    change, week = changes.shift(counts, facts.span.full_days), aggregates.last_week(facts)
    title = headlines.runs(by_day, facts.span, change, week)
    name, plot = f"Runs per {plots.slot(facts.span)}, by status", plots.stacked(facts.span, series, "runs")
    return Section("runs", name, title, _notes(facts.span, change), plot)


def _credits(facts: Facts) -> Section:
    spent = aggregates.by_label(facts, lambda row: row.credits)
    change, plot = changes.shift(spent, facts.span.full_days), _spending(facts.span, spent)
    name, title = f"Credits per {plots.slot(facts.span)}, by workflow", headlines.spending(spent, facts.span, change)
    return Section("credits", name, title, _notes(facts.span, change) if plot else [], plot)


def _models(facts: Facts, found: Sequence[WorkflowSummary]) -> Section:
    spent: dict[str, dict[date, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for row in facts.models:
        name = "/".join(each for each in (row.provider, row.model) if each) or "(unknown model)"
        spent[formatting.shortened(name, 80)][row.day] += row.credits
    replaced, change = changes.replacements(facts, found), None
    if replaced:
        title = headlines.replacement(replaced[0])
    else:
        change = changes.shift(spent, facts.span.full_days)
        title = headlines.spending(spent, facts.span, change, "model credits")
    plot = _spending(facts.span, spent, replaced[0].day if replaced else None)
    notes = _notes(facts.span, change) if plot else []
    notes.append("Steps that loop over several models are left out: the API does not split their credits.")
    if any(each.credits_per_run for each in replaced):
        notes.append("Credits saved: by the runs of the 28 days since then, or up to the next replacement.")
    name, tables = f"Credits per {plots.slot(facts.span)}, by model", [html_tables.replacements(replaced)]
    return Section("models", name, title, notes, plot, tables=tables)


def _notes(span: Span, change: Shift | None) -> list[str]:
    """Return notes on the periods that the title compares, and on partial days."""
    notes, partial = [], {}
    if change:
        notes.append(f"The title compares the last {change.days} full days with the {change.days} before.")
    if span.starts_late and span.first_run:
        partial[span.first] = f"{formatting.day_month(span.first)} begins with the first run, at {span.first_run:%H:%M}"
    if span.last >= span.read_until.date():
        partial[span.last] = f"{formatting.day_month(span.read_until)} was read until {span.read_until:%H:%M}"
    if partial:
        notes.append(f"Faded: partial {plots.slot(span)}{'s' * (len(partial) > 1)} ({'; '.join(partial.values())}).")
    return notes


def _spending(span: Span, spent: Mapping[str, Mapping[date, Decimal]], mark: date | None = None) -> Plot | None:
    """Return a plot of credits by name; None if there are no credits."""
    ranked = list(aggregates.totals(spent))
    top = ranked[: _MAX_COLOURS - (len(ranked) > _MAX_COLOURS)]
    series = [plots.Series(name, f"var(--c{index})", spent[name]) for index, name in enumerate(top)]
    if rest := ranked[len(top) :]:
        amounts = {day: sum((spent[name].get(day, Decimal(0)) for name in rest), Decimal(0)) for day in span.days}
        series.append(plots.Series(f"{len(rest)} others", "var(--rest)", amounts))
    return plots.stacked(span, series, "credits", mark) if series else None


def _workflows(facts: Facts, found: Sequence[WorkflowSummary]) -> Section:
    # Workflows whose durations changed most come first, as in the title.
    ranked = sorted(found, key=lambda each: -abs(log(each.slowdown[2])) if each.slowdown else 0.0)[:_MAX_CARDS]
    cards = [
        Card(
            each.label, headlines.workflow(each), plots.workflow_curves(facts.span, each) if each.total.ended else None
        )
        for each in ranked
    ]
    notes = (
        [f"{_MAX_CARDS} of {formatting.count(len(found))} workflows; the table lists more."]
        if len(found) > _MAX_CARDS
        else []
    )
    period = formatting.count(facts.span.period_days, "day")
    if any(each.periods.keys() - {None} for each in ranked):
        notes.append(f"Each point covers the completed and failed runs of {period}, if at least {MIN_TIMED}.")
    else:
        notes.append(f"Durations are plotted for {period} with at least {MIN_TIMED} completed and failed runs.")
    if any(each.versions[1:] for each in ranked):
        notes.append("Dashed lines mark the first run of a version.")
    notes.append("The table also counts runs that the API no longer lists.")
    title = headlines.durations(found, facts.span.period_days)
    tables = [html_tables.workflows(found)]
    return Section("workflows", "Durations, by workflow", title, notes, cards=cards, tables=tables)


def _failures(facts: Facts, found: Sequence[WorkflowSummary]) -> Section:
    ended = [each for each in found if each.total.ended]
    rated = [each for each in ended if each.total.ended >= headlines.MIN_RUNS] or ended
    ranked = [each for each in rated if each.total.failed]
    ranked.sort(key=lambda each: (-(each.total.failure_rate or 0), each.label))
    finding = "Share of the ended runs that failed, highest first"
    if len(rated) < len(ended):
        finding += f"; workflows with fewer than {headlines.MIN_RUNS} ended runs are left out"
    rates = [
        (each.label, formatting.rate_with_numbers(each.total.failed, each.total.ended), each.total.failure_rate or 0)
        for each in ranked[:_MAX_BARS]
    ]
    failing = sorted((each for each in facts.steps if each.failed), key=lambda each: -each.failed)[:_MAX_BARS]
    counts = [(_step(facts, each), f"{each.failed:,} of {each.ended:,}", each.failed) for each in failing]
    cards = [
        Card("Failing workflows", finding, bars=_bars(rates), colour="var(--failed)"),
        Card("Failing steps", "Failures of those that ended, most first", bars=_bars(counts), colour="var(--failed)"),
    ]
    notes = [f"The table lists the {len(facts.failures)} most frequent causes."] if len(facts.failures) == 50 else []
    if facts.failures and facts.failures[0].runs_in_all == MAX_FAILURES:
        notes.append(f"Causes of the latest {MAX_FAILURES:,} failed runs.")
    title = headlines.failures(ranked, failing)
    cards, tables = [each for each in cards if each.bars], [html_tables.failures(facts)]
    return Section("failures", "Failures", title, notes, cards=cards, tables=tables)


def _bars(values: Sequence[tuple[str, str, float]]) -> list[Bar]:
    longest = max((value for _, _, value in values), default=0)
    return [Bar(label, amount, 0, 100 * value / longest) for label, amount, value in values]


def _steps(facts: Facts) -> Section:
    timed = sorted((each for each in facts.steps if each.p95_s), key=lambda each: -(each.p95_s or 0.0))[:_MAX_BARS]
    # On a log scale, so that steps can be compared even if one is very slow.
    ends = [[log10(max(0.001, length or 0)) for length in (each.p50_s, each.p95_s)] for each in timed]
    start, end = min((low for low, _ in ends), default=0) - 0.5, max((high for _, high in ends), default=0)
    bars = [
        Bar(
            _step(facts, each),
            f"{formatting.seconds(each.p50_s)} \u2013 {formatting.seconds(each.p95_s)}",
            *(100 * (point - start) / (end - start) for point in points),
        )
        for each, points in zip(timed, ends, strict=True)
    ]
    finding = "From the median to the 95th percentile, on a log scale"
    cards = [Card("Slowest steps", finding, bars=bars, colour="var(--tail)")] if bars else []
    return Section("steps", "Steps", headlines.slowest(facts), cards=cards, tables=[html_tables.steps(facts)])


def _step(facts: Facts, step: StepFacts) -> str:
    return f"{step.step_key} · {facts.label(step.workflow_id)}"
