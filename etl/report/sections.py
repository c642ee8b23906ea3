"""The sections of the page: each puts a finding, its plots and its tables together."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from markupsafe import Markup

from etl.report import findings, plots, summary, tables, wording

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date

    from etl.report.facts import Facts
    from etl.report.summary import Labels, WorkflowSummary
    from etl.report.tables import Table

_MOST_COLOURS = 7  # the rest shares one
_MOST_CARDS = 12
_MOST_BARS = 10
_REST = "all others"

_STATUSES = {
    "COMPLETED": "var(--completed)",
    "FAILED": "var(--failed)",
    "CANCELLED": "var(--cancelled)",
    "SKIPPED": "var(--skipped)",
    "PENDING": "var(--open)",
    "RUNNING": "var(--running)",
}
_OTHER_STATUSES = ("var(--c5)", "var(--c4)", "var(--rest)")  # the API may add some


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot over days, for wide and for narrow screens, its legend, and what each day holds (a JSON list of texts)."""

    wide: Markup
    narrow: Markup
    legend: list[tuple[str, str]]
    tips: str


@dataclass(frozen=True, slots=True)
class Card:
    """A small plot with a heading and what it shows; an empty drawing is left out."""

    heading: str
    finding: str
    drawing: Markup


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page: its title says the finding."""

    name: str
    title: str
    note: str = ""
    plot: Plot | None = None
    cards: list[Card] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def sections(facts: Facts) -> list[Section]:
    """Make all sections that there are facts for, in the order of the page."""
    labels = summary.Labels(facts.names)
    found = summary.workflows(facts)
    made = []
    if facts.daily:
        made += [_runs(facts), _credits(facts, labels), _models(facts), _workflows(facts, found)]
    if facts.steps:
        made.append(_steps(facts, labels))
    if facts.daily or facts.failures:
        failed = tables.failures(facts, labels)
        title = findings.failures(facts.failures, labels, facts.span)
        note = "The last 50." if len(failed.rows) == 50 else ""
        made.append(Section("Recent failures", title, note, tables=[failed] if failed.rows else []))
    if facts.daily or facts.open_runs:
        waiting = tables.open_runs(facts, labels)
        note = "The 100 oldest." if len(waiting.rows) == 100 else ""
        title = findings.open_runs(facts.open_runs)
        made.append(Section("Open runs", title, note, tables=[waiting] if waiting.rows else []))
    if facts.streams:
        health = [each for each in (tables.streams(facts, labels), tables.syncs(facts)) if each.rows]
        made.append(Section("Sync health", findings.streams(facts.streams, facts.span), tables=health))
    return made


def _runs(facts: Facts) -> Section:
    by_day: dict[str, dict[date, float]] = defaultdict(lambda: defaultdict(float))
    for row in facts.daily:
        by_day[row.status or "(no status)"][row.day] += row.runs
    order = [*_STATUSES, *sorted(by_day.keys() - _STATUSES.keys())]
    others = itertools.cycle(_OTHER_STATUSES)
    colours = {each: _STATUSES.get(each) or next(others) for each in order if each in by_day}
    names = {each: each.capitalize() if each in _STATUSES else each for each in colours}
    title = findings.runs(summary.tally(facts.daily), len(facts.span.days), summary.last_week(facts))
    return Section("Runs a day, by status", title, plot=_plot(facts.span.days, by_day, colours, names, "run"))


def _credits(facts: Facts, labels: Labels) -> Section:
    spent: dict[str, dict[date, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for row in facts.daily:
        spent[labels(row.workflow_id)][row.day] += row.credits
    totals = {name: sum(days.values(), Decimal(0)) for name, days in spent.items()}
    plot = _spending(facts.span.days, spent, totals)
    return Section("Credits a day, by workflow", findings.spending(totals, "all"), plot=plot)


def _models(facts: Facts) -> Section:
    days = [day for day in facts.span.days if day >= facts.span.detail_first]
    spent: dict[str, dict[date, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for row in facts.models:
        name = "/".join(each for each in (row.provider, row.model) if each) or "(no model told)"
        spent[wording.shortened(name, 80)][row.day] += row.credits
    totals = {name: sum(by_day.values(), Decimal(0)) for name, by_day in spent.items()}
    note = "Credits of model steps; without those that looped over several models, of which the API tells no split."
    title = findings.spending(totals, "the models'", nothing="No model step used credits")
    return Section("Credits a day, by model", title, _detailed(facts) + note, _spending(days, spent, totals))


def _detailed(facts: Facts) -> str:
    if facts.span.detail_first == facts.span.first:
        return ""
    return f"Since {wording.day(facts.span.detail_first)}, as far as a quick look reaches. "


def _spending(
    days: Sequence[date], spent: Mapping[str, Mapping[date, Decimal]], totals: Mapping[str, Decimal]
) -> Plot | None:
    """Plot who took the credits; None where there were none."""
    top = summary.largest(dict(totals), _MOST_COLOURS)
    if not top:
        return None
    by_day: dict[str, dict[date, float]] = {name: {day: float(spent[name].get(day, 0)) for day in days} for name in top}
    colours = {name: f"var(--c{place})" for place, name in enumerate(top)}
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
    for place, day in enumerate(days):
        parts = [(each.values[place], names[each.label]) for each in series if each.values[place]]
        amounts = [f"{_amount(value, noun)} {wording.shortened(name, 32)}" for value, name in parts]
        whole = sum(value for value, _ in parts)
        unit = wording.count(round(whole), noun) if noun else f"{wording.credit(whole)} credits"
        tips.append("\n".join([f"{wording.short_day(day)}: {unit}", *(amounts if len(amounts) > 1 else [])]))
    return Plot(
        _drawing(plots.stacked_days(days, series, plots.WIDE, whole=bool(noun))),
        _drawing(plots.stacked_days(days, series, plots.NARROW, whole=bool(noun))),
        [(wording.shortened(names[name], 48), colour) for name, colour in colours.items()],
        json.dumps(tips, ensure_ascii=False, separators=(",", ":")),
    )


def _amount(value: float, noun: str) -> str:
    return f"{value:,.0f}" if noun else wording.credit(value)


def _workflows(facts: Facts, found: Sequence[WorkflowSummary]) -> Section:
    cards = [
        Card(each.label, findings.workflow(each), _drawing(_curves(facts, each) if each.total.ended else ""))
        for each in found[:_MOST_CARDS]
    ]
    notes = [f"The {_MOST_CARDS} with most runs; the table has all."] if len(found) > _MOST_CARDS else []
    if facts.span.stretch > 1:
        notes.append(f"Each point stands for {facts.span.stretch} days.")
    if any(each.versions for each in found[:_MOST_CARDS]):
        notes.append("Dashed lines mark when a version was published.")
    note = " ".join(notes)
    return Section("Workflows", findings.workflows(found), note, cards=cards, tables=[tables.workflows(found)])


def _curves(facts: Facts, found: WorkflowSummary) -> str:
    span = facts.span
    timed = {each.stretch: each for each in found.stretches}
    stretches = []
    for place, (first, last) in enumerate(summary.stretch_days(span.first, span.last, span.stretch)):
        inside = summary.split_by(
            {day: each for day, each in found.by_day.items() if first <= day <= last}, lambda _: True
        ).since
        if inside.runs:
            measured = timed.get(place)
            p50_s, p95_s = (measured.p50_s, measured.p95_s) if measured else (None, None)
            stretches.append(plots.Stretch(first, last, inside.failure_rate, p50_s, p95_s))
    stretches.reverse()
    return plots.workflow_curves(span.days, stretches, [(each.created_at, each.version) for each in found.versions])


def _steps(facts: Facts, labels: Labels) -> Section:
    cards = []
    timed = sorted((each for each in facts.steps if each.p95_s), key=lambda each: -(each.p95_s or 0.0))[:_MOST_BARS]
    if timed:
        drawn = [
            plots.Bar(
                f"{each.step_key} · {labels(each.workflow_id)}",
                each.p95_s or 0.0,
                f"{wording.seconds(each.p50_s)} \u2013 {wording.seconds(each.p95_s)}",
                each.p50_s or 0.0,
            )
            for each in timed
        ]
        cards.append(Card("Slowest", "From median to 95th percentile", _bars(drawn, "var(--tail)")))
    failing = sorted((each for each in facts.steps if each.failed), key=lambda each: -each.failed)[:_MOST_BARS]
    if failing:
        drawn = [
            plots.Bar(
                f"{each.step_key} · {labels(each.workflow_id)}",
                each.failed,
                f"{each.failed:,} of {each.ended:,}, {wording.percent(each.failed / each.ended)}",
            )
            for each in failing
        ]
        cards.append(Card("Most failing", "Times failed, of the times it ended", _bars(drawn, "var(--failed)")))
    title = findings.slowest(facts.steps, labels) + "; " + findings.most_failing(facts.steps, labels)
    note = _detailed(facts)
    return Section("Steps", title, note, cards=cards, tables=[tables.steps(facts.steps, labels)])


def _bars(drawn: Iterable[plots.Bar], colour: str) -> Markup:
    return _drawing(plots.bars(list(drawn), colour))


def _drawing(svg: str) -> Markup:
    """Mark an SVG as safe: the drawing engine escapes all text that it writes."""
    return Markup(svg)  # noqa: S704 -- a test opens the page with hostile names
