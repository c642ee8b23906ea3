"""The page: facts, findings and plots put together as one HTML document in which all text from data is escaped."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from etl import __version__
from etl.report import findings, summary, wording
from etl.report.sections import sections

if TYPE_CHECKING:
    from etl.report.facts import Facts


@dataclass(frozen=True, slots=True)
class Tile:
    """A number at the top of the page."""

    label: str
    value: str
    note: str
    bad: bool = False


def render(facts: Facts) -> str:
    """Make the page.

    Args:
        facts: what the warehouse said.

    Returns:
        The HTML document.
    """
    folder = files("etl.report").joinpath("page")
    style, script, template = (
        folder.joinpath(name).read_text(encoding="utf-8") for name in ("style.css", "behaviour.js", "page.html")
    )
    # What is not in the template comes from data or is a drawing; only drawings are marked as safe.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=DictLoader({})
    )
    span = facts.span
    return environment.from_string(template).render(
        style=Markup(style),  # noqa: S704 -- a file of our own
        script=Markup(script),  # noqa: S704 -- a file of our own
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
        made=wording.minute(span.now),
        span=" to ".join(dict.fromkeys([wording.day(span.first), wording.day(span.last)])),
        stale=(span.now.date() - span.last).days,
        undated=wording.count(span.undated, "run"),
        has_undated=span.undated > 0,
        is_empty=not (facts.daily or facts.failures or facts.open_runs or facts.streams),
        tiles=_tiles(facts),
        sections=sections(facts),
    )


def _tiles(facts: Facts) -> list[Tile]:
    total, week = summary.tally(facts.daily), summary.last_week(facts)
    days = wording.count(len(facts.span.days), "day")
    runs_note, credits_note = f"in {days}", f"in {days}"
    if week is not None:
        runs_note = f"{week.since.runs:,} in the last 7 days, {week.before.runs:,} in the 7 before"
        credits_note = f"{wording.credit(week.since.credits)} in the last 7 days, "
        credits_note += f"{wording.credit(week.before.credits)} in the 7 before"
    number_open = facts.open_runs[0].open_in_all if facts.open_runs else 0
    incomplete = sum(not findings.is_complete(each) for each in facts.streams)
    return [
        Tile("Runs", f"{total.runs:,}", runs_note),
        Tile(
            "Failed", wording.percent(total.failure_rate), findings.movement(week) or wording.count(total.failed, "run")
        ),
        Tile("Credits", wording.credit(total.credits), credits_note),
        Tile("Open now", f"{number_open:,}", findings.open_runs(facts.open_runs).partition(", ")[2] or "none waits"),
        Tile(
            "Complete",
            f"{len(facts.streams) - incomplete} of {len(facts.streams)}",
            "workflows, against the API's count",
            bad=incomplete > 0,
        ),
    ]
