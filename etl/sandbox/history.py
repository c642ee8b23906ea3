"""How runs come about: the families of runs that occasions give, and a past full of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from etl.sandbox.edges import roughen
from etl.sandbox.runs import Occasion, Storyteller
from etl.sandbox.rhythm import HOUR_MS

if TYPE_CHECKING:
    from random import Random

    from etl.sandbox.genesis import Life
    from etl.sandbox.steps import ToldRun

Json = Any


def family(random: Random, lives: dict[str, Life], occasion: Occasion, room: int) -> list[ToldRun]:
    """The run of an occasion and the runs that its steps started, at most `room` in all, the first created first."""
    born: list[ToldRun] = []
    count = 1

    def spawn(parent: Occasion, at_ms: int) -> ToldRun | None:
        nonlocal count
        child_id = lives[parent.workflow["id"]].child_id
        if child_id is None or count >= room:
            return None
        count += 1
        child = storyteller.run(lives[child_id].occasion(random, at_ms + random.randrange(5, 60), parent=parent))
        born.append(child)
        return child

    storyteller = Storyteller(random, spawn)
    born.append(storyteller.run(occasion))
    return sorted(born, key=lambda run: run.created_ms)


def past(
    random: Random, lives: dict[str, Life], count: int, start_ms: int, now_ms: int, *, rough_edges: bool
) -> list[dict[str, Json]]:
    """Documents of `count` ended runs between two moments (epoch ms), the first created first.

    Runs that retention would have removed by `now_ms` are not among them.
    """
    choices = list(lives.values())
    shares = [life.plan.share for life in choices]
    found: list[dict[str, Json]] = []
    while len(found) < count:
        life = random.choices(choices, shares)[0]
        days = life.plan.retention_days
        since_ms = start_ms if days is None else max(start_ms, now_ms - days * 24 * HOUR_MS + HOUR_MS)
        at_ms = life.rhythm.moment(random, since_ms, now_ms - HOUR_MS // 6)
        runs = family(random, lives, life.occasion(random, at_ms), count - len(found))
        if all(run.ended_ms < now_ms for run in runs):
            found += [run.document for run in runs]
    found.sort(key=lambda run: run["created_at"])
    if rough_edges:
        for run in found:
            roughen(random, run)
    return found
