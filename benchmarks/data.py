"""The data: runs of the simulated API's world, repeated under new ids and times until there are as many as wanted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from etl.sandbox import World

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WORKFLOWS = 20
TEMPLATES = 3000
NEWEST = datetime(2026, 11, 1, 12, tzinfo=UTC)
APART = timedelta(seconds=20)
"""Between one run of a workflow and the next."""

_MARKS = ("\ufdd0id", "\ufdd0created", "\ufdd0updated")


@dataclass(frozen=True, slots=True)
class Template:
    """A run as JSON text, cut where its id, `created_at` and `updated_at` belong (in the order `places`)."""

    pieces: tuple[bytes, ...]
    places: tuple[int, ...]

    def filled(self, values: Sequence[bytes]) -> bytes:
        """The text with the three values in their places."""
        text = [self.pieces[0]]
        for place, piece in zip(self.places, self.pieces[1:], strict=True):
            text += (values[place], piece)
        return b"".join(text)


@dataclass(frozen=True, slots=True)
class Library:
    """The world's workflows: their documents, and the templates of their runs, both by workflow id."""

    workflows: dict[str, bytes]
    templates: dict[str, list[Template]]


@lru_cache(maxsize=1)
def library() -> Library:
    """The templates, always the same ones. Left out are texts that peers cannot store: NUL and lone surrogates."""
    world = World.generate(seed=1, apps=1, workflows_per_app=WORKFLOWS, runs=TEMPLATES, open_runs=0)
    templates: dict[str, list[Template]] = {}
    for workflow_id, runs in world.runs.items():
        made = [_template(run) for run in runs.values() if run["status"] in {"COMPLETED", "FAILED", "SKIPPED"}]
        templates[workflow_id] = [template for template in made if template is not None]
    documents = {each: _encode(world.workflows[each]) for each in templates}
    return Library(documents, templates)


def _template(run: dict[str, object]) -> Template | None:
    marked = run | dict(zip(("id", "created_at", "updated_at"), _MARKS, strict=True))
    if marked.get("retention_due_at"):
        marked["retention_due_at"] = "2027-11-01T12:00:00.000Z"
    try:
        text = _encode(marked)
    except UnicodeEncodeError:
        return None
    if b"\\u0000" in text:
        return None
    marks = [f'"{mark}"'.encode() for mark in _MARKS]
    places = sorted(range(len(marks)), key=lambda place: text.index(marks[place]))
    pieces = []
    for place in places:
        piece, text = text.split(marks[place])
        pieces.append(piece)
    return Template((*pieces, text), tuple(places))


def _encode(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


class App:
    """An app with any number of runs, spread evenly over its workflows, which lists them newest first.

    Args:
        name: its id, part of the ids of its runs.
        runs: how many there are in all.
    """

    def __init__(self, name: str, runs: int) -> None:
        self.name = name
        self.workflows = list(library().templates)
        self.runs_each = runs // len(self.workflows)
        self.changed_every = 0

    def run(self, workflow_id: str, place: int) -> bytes:
        """The run at a place (from 0) of a workflow's listing."""
        templates = library().templates[workflow_id]
        created = NEWEST - place * APART
        updated = created + APART
        if self.changed_every and place % self.changed_every == self.changed_every // 2:
            updated = NEWEST + timedelta(days=1)
        number = self.workflows.index(workflow_id) * 10_000_000 + place
        values = (f'"{self.name}-{number:012d}"'.encode(), _time(created), _time(updated))
        return templates[place % len(templates)].filled(values)

    def page(self, workflow_id: str, number: int, take: int) -> bytes:
        """A page of a workflow's listing."""
        first = (number - 1) * take
        places = range(first, min(first + take, self.runs_each))
        return b"[" + b",".join(self.run(workflow_id, place) for place in places) + b"]"

    def all_runs(self) -> Iterator[tuple[str, bytes]]:
        """Every run, with its workflow's id."""
        for workflow_id in self.workflows:
            for place in range(self.runs_each):
                yield workflow_id, self.run(workflow_id, place)


def _time(moment: datetime) -> bytes:
    return f'"{moment:%Y-%m-%dT%H:%M:%S}.000Z"'.encode()
