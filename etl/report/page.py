"""The HTML page: sections of headlines, plots and tables. All text from data is escaped."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from etl import __version__
from etl.report import aggregates, formatting, headlines, html_tables, plots

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date

    from etl.report.aggregates import Labels, WorkflowSummary
    from etl.report.facts import Facts
    from etl.report.html_tables import Table

_MAX_COLOURS = 7  # the others share one
_MAX_CARDS = 12
_MAX_BARS = 10
_REST = "all others"

_STATUSES = {
    "COMPLETED": "var(--completed)",
    "FAILED": "var(--failed)",
    "CANCELLED": "var(--cancelled)",
    "SKIPPED": "var(--skipped)",
    "PENDING": "var(--open)",
    "RUNNING": "var(--running)",
}
_OTHER_STATUSES = ("var(--c5)", "var(--c4)", "var(--rest)")  # the API may add values


@dataclass(frozen=True, slots=True)
class Tile:
    """A number at the top of the page."""

    label: str
    value: str
    note: str
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot over days, for wide and narrow screens, with its legend and the tooltips of the days (a JSON list)."""

    wide: Markup
    narrow: Markup
    legend: list[tuple[str, str]]
    tips: str


@dataclass(frozen=True, slots=True)
class Card:
    """A small plot with a heading and a finding; the drawing may be empty."""

    heading: str
    finding: str
    drawing: Markup


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page; its title states the finding."""

    name: str
    title: str
    note: str = ""
    plot: Plot | None = None
    cards: list[Card] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def render(facts: Facts) -> str:
    """Render the page as one HTML document."""
    folder = files("etl.report").joinpath("assets")
    style, script, template = (
        folder.joinpath(name).read_text(encoding="utf-8") for name in ("style.css", "script.js", "page.html")
    )
    # Everything outside the template is data or a drawing; only drawings are marked as safe.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=DictLoader({})
    )
    span = facts.span
    return environment.from_string(template).render(
        style=Markup(style),  # noqa: S704 -- a file of our own
        script=Markup(script),  # noqa: S704 -- a file of our own
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
        generated=formatting.minute(span.now),
        span=" to ".join(dict.fromkeys([formatting.day(span.first), formatting.day(span.last)])),
        stale=(span.now.date() - span.last).days,
        undated=formatting.count(span.undated, "run"),
        has_undated=span.undated > 0,
        is_empty=not (facts.daily or facts.failures or facts.open_runs or facts.streams),
        tiles=_tiles(facts),
        sections=sections(facts),
    )


def _tiles(facts: Facts) -> list[Tile]:
    total, week = aggregates.tally(facts.daily), aggregates.last_week(facts)
    days = formatting.count(len(facts.span.days), "day")
    runs_note, credits_note = f"in {days}", f"in {days}"
    if week is not None:
        runs_note = f"{week.since.runs:,} in the last 7 days, {week.before.runs:,} in the 7 before"
        credits_note = f"{formatting.credit(week.since.credits)} in the last 7 days, "
        credits_note += f"{formatting.credit(week.before.credits)} in the 7 before"
    number_open = facts.open_runs[0].open_in_all if facts.open_runs else 0
    incomplete = sum(each.state != "complete" for each in facts.streams)
    return [
        Tile("Runs", f"{total.runs:,}", runs_note),
        Tile(
            "Failed",
            formatting.percent(total.failure_rate),
            headlines.rate_change(week) or formatting.count(total.failed, "run"),
        ),
        Tile("Credits", formatting.credit(total.credits), credits_note),
        Tile("Open runs", f"{number_open:,}", headlines.open_runs(facts.open_runs).partition(", ")[2] or "none"),
        Tile(
            "Complete",
            f"{len(facts.streams) - incomplete} of {len(facts.streams)}",
            "workflows match the API's count",
            bad=incomplete > 0,
        ),
    ]


def sections(facts: Facts) -> list[Section]:
    """Return the sections that have data, in the order of the page."""
    labels = aggregates.Labels(facts.names)
    found = aggregates.workflows(facts)
    made = []
    if facts.daily:
        made += [_runs(facts), _credits(facts, labels), _models(facts), _workflows(facts, found)]
    if facts.steps:
        made.append(_steps(facts, labels))
    if facts.daily or facts.failures:
        failed = html_tables.failures(facts, labels)
        title = headlines.failures(facts.failures, labels, facts.span)
        note = "The 50 latest." if len(failed.rows) == 50 else ""
        made.append(Section("Recent failures", title, note, tables=[failed] if failed.rows else []))
    if facts.daily or facts.open_runs:
        waiting = html_tables.open_runs(facts, labels)
        note = "The 100 oldest." if len(waiting.rows) == 100 else ""
        title = headlines.open_runs(facts.open_runs)
        made.append(Section("Open runs", title, note, tables=[waiting] if waiting.rows else []))
    if facts.streams:
        health = [each for each in (html_tables.streams(facts, labels), html_tables.syncs(facts)) if each.rows]
        made.append(Section("Sync health", headlines.streams(facts.streams, facts.span), tables=health))
    return made


def _runs(facts: Facts) -> Section:
    by_day: dict[str, dict[date, float]] = defaultdict(lambda: defaultdict(float))
    for row in facts.daily:
        by_day[row.status or "(no status)"][row.day] += row.runs
    order = [*_STATUSES, *sorted(by_day.keys() - _STATUSES.keys())]
    others = itertools.cycle(_OTHER_STATUSES)
    colours = {each: _STATUSES.get(each) or next(others) for each in order if each in by_day}
    names = {each: each.capitalize() if each in _STATUSES else each for each in colours}
    title = headlines.runs(aggregates.tally(facts.daily), len(facts.span.days), aggregates.last_week(facts))
    return Section("Runs per day, by status", title, plot=_plot(facts.span.days, by_day, colours, names, "run"))


def _credits(facts: Facts, labels: Labels) -> Section:
    spent: dict[str, dict[date, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for row in facts.daily:
        spent[labels(row.workflow_id)][row.day] += row.credits
    totals = {name: sum(days.values(), Decimal(0)) for name, days in spent.items()}
    plot = _spending(facts.span.days, spent, totals)
    return Section("Credits per day, by workflow", headlines.spending(totals), plot=plot)


def _models(facts: Facts) -> Section:
    days = [day for day in facts.span.days if day >= facts.span.detail_first]
    spent: dict[str, dict[date, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for row in facts.models:
        name = "/".join(each for each in (row.provider, row.model) if each) or "(unknown model)"
        spent[formatting.shortened(name, 80)][row.day] += row.credits
    totals = {name: sum(by_day.values(), Decimal(0)) for name, by_day in spent.items()}
    note = "Steps that loop over several models are left out: the API does not split their credits."
    title = headlines.spending(totals, "model credits")
    return Section("Credits per day, by model", title, _detail_note(facts) + note, _spending(days, spent, totals))


def _detail_note(facts: Facts) -> str:
    if facts.span.detail_first == facts.span.first:
        return ""
    return f"Only since {formatting.day(facts.span.detail_first)}, to keep the report fast. "


def _spending(
    days: Sequence[date], spent: Mapping[str, Mapping[date, Decimal]], totals: Mapping[str, Decimal]
) -> Plot | None:
    """Plot credits by name; None if there are none."""
    top = aggregates.largest(dict(totals), _MAX_COLOURS)
    if not top:
        return None
    by_day: dict[str, dict[date, float]] = {name: {day: float(spent[name].get(day, 0)) for day in days} for name in top}
    colours = {name: f"var(--c{index})" for index, name in enumerate(top)}
    others = [spent[name] for name in totals if name not in by_day]
    if any(any(each.values()) for each in others):
        by_day[_REST] = {day: float(sum(each.get(day, Decimal(0)) for each in others)) for day in days}
        colours[_REST] = "var(--rest)"
    return _plot(days, by_day, colours, {name: name for name in colours}, "")


def _plot(
    days: Sequence[date],
    by_day: Mapping[str, Mapping[date, float]],
    colours: Mapping[str, str],
    names: Mapping[str, str],
    noun: str,
) -> Plot:
    series = [
        plots.Series(name, colour, [by_day[name].get(day, 0.0) for day in days]) for name, colour in colours.items()
    ]
    tips = []
    for index, day in enumerate(days):
        parts = [(each.values[index], names[each.label]) for each in series if each.values[index]]
        amounts = [f"{_amount(value, noun)} {formatting.shortened(name, 32)}" for value, name in parts]
        whole = sum(value for value, _ in parts)
        unit = formatting.count(round(whole), noun) if noun else f"{formatting.credit(whole)} credits"
        tips.append("\n".join([f"{formatting.short_day(day)}: {unit}", *(amounts if len(amounts) > 1 else [])]))
    return Plot(
        _drawing(plots.stacked_days(days, series, plots.WIDE, whole=bool(noun))),
        _drawing(plots.stacked_days(days, series, plots.NARROW, whole=bool(noun))),
        [(formatting.shortened(names[name], 48), colour) for name, colour in colours.items()],
        json.dumps(tips, ensure_ascii=False, separators=(",", ":")),
    )


def _amount(value: float, noun: str) -> str:
    return f"{value:,.0f}" if noun else formatting.credit(value)


def _workflows(facts: Facts, found: Sequence[WorkflowSummary]) -> Section:
    cards = [
        Card(each.label, headlines.workflow(each), _drawing(_curves(facts, each) if each.total.ended else ""))
        for each in found[:_MAX_CARDS]
    ]
    notes = [f"The {_MAX_CARDS} with the most runs; the table lists more."] if len(found) > _MAX_CARDS else []
    if facts.span.period_days > 1:
        notes.append(f"Each point covers {facts.span.period_days} days.")
    if any(each.versions for each in found[:_MAX_CARDS]):
        notes.append("Dashed lines mark published versions.")
    note = " ".join(notes)
    return Section("Workflows", headlines.workflows(found), note, cards=cards, tables=[html_tables.workflows(found)])


def _curves(facts: Facts, found: WorkflowSummary) -> str:
    span = facts.span
    timed = {each.period: each for each in found.periods}
    periods = []
    for index, (first, last) in enumerate(aggregates.split_into_periods(span.first, span.last, span.period_days)):
        inside = aggregates.split_by(
            {day: each for day, each in found.by_day.items() if first <= day <= last}, lambda _: True
        ).since
        if inside.runs:
            measured = timed.get(index)
            p50_s, p95_s = (measured.p50_s, measured.p95_s) if measured else (None, None)
            periods.append(plots.Period(first, last, inside.failure_rate, p50_s, p95_s))
    periods.reverse()
    return plots.workflow_curves(span.days, periods, [(each.created_at, each.version) for each in found.versions])


def _steps(facts: Facts, labels: Labels) -> Section:
    cards = []
    timed = sorted((each for each in facts.steps if each.p95_s), key=lambda each: -(each.p95_s or 0.0))[:_MAX_BARS]
    if timed:
        drawn = [
            plots.Bar(
                f"{each.step_key} · {labels(each.workflow_id)}",
                each.p95_s or 0.0,
                f"{formatting.seconds(each.p50_s)} \u2013 {formatting.seconds(each.p95_s)}",
                each.p50_s or 0.0,
            )
            for each in timed
        ]
        cards.append(Card("Slowest", "Median to 95th percentile", _bars(drawn, "var(--tail)")))
    failing = sorted((each for each in facts.steps if each.failed), key=lambda each: -each.failed)[:_MAX_BARS]
    if failing:
        drawn = [
            plots.Bar(
                f"{each.step_key} · {labels(each.workflow_id)}",
                each.failed,
                f"{each.failed:,} of {each.ended:,}, {formatting.percent(each.failed / each.ended)}",
            )
            for each in failing
        ]
        cards.append(Card("Most failures", "Failed, of those that ended", _bars(drawn, "var(--failed)")))
    title = headlines.slowest(facts.steps, labels) + "; " + headlines.most_failing(facts.steps, labels)
    note = _detail_note(facts)
    return Section("Steps", title, note, cards=cards, tables=[html_tables.steps(facts.steps, labels)])


def _bars(drawn: Iterable[plots.Bar], colour: str) -> Markup:
    return _drawing(plots.bars(list(drawn), colour))


def _drawing(svg: str) -> Markup:
    """Mark an SVG as safe: the drawing engine escapes all text."""
    return Markup(svg)  # noqa: S704 -- a test opens the page with hostile names
