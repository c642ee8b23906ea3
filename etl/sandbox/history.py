"""How runs come about: the families of runs that occasions give, and a past full of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etl.sandbox.edges import roughen
from etl.sandbox.rhythm import DAY_MS, HOUR_MS
from etl.sandbox.runs import Occasion, Storyteller, iso
from etl.sandbox.steps import ToldRun, new_id

if TYPE_CHECKING:
    from random import Random

    from etl.sandbox.genesis import Life

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


@dataclass(frozen=True, slots=True)
class Past:
    """How a past is to be: `count` ended runs between two moments (epoch ms).

    At most `distinct` of them are told (None: all); the others are shallow copies under ids and times of their own.
    """

    count: int
    start_ms: int
    now_ms: int
    rough_edges: bool
    distinct: int | None = None

    def runs(self, random: Random, lives: dict[str, Life]) -> list[dict[str, Json]]:
        """The documents, the first created first. Runs that retention would have removed by now are not among them."""
        choices = list(lives.values())
        shares = [life.plan.share for life in choices]
        told: list[ToldRun] = []
        wanted = min(self.count, self.distinct or self.count)
        while len(told) < wanted:
            life = random.choices(choices, shares)[0]
            runs = family(random, lives, life.occasion(random, self._moment(random, life)), wanted - len(told))
            if all(run.ended_ms < self.now_ms for run in runs):
                told += runs
        alone = [run for run in told if lives[run.document["workflow_id"]].child_id is None]
        told += [self._copy(random, lives, random.choice(alone)) for _ in range(self.count - wanted)]
        told.sort(key=lambda run: run.created_ms)
        found = [run.document for run in told]
        if self.rough_edges:
            for run in found:
                roughen(random, run)
        return found

    def _moment(self, random: Random, life: Life) -> int:
        days = life.plan.retention_days
        since_ms = self.start_ms if days is None else max(self.start_ms, self.now_ms - days * DAY_MS + HOUR_MS)
        return life.rhythm.moment(random, since_ms, self.now_ms - HOUR_MS // 6)

    def _copy(self, random: Random, lives: dict[str, Life], told: ToldRun) -> ToldRun:
        at_ms = self._moment(random, lives[told.document["workflow_id"]])
        ended_ms = min(at_ms + told.ended_ms - told.created_ms, self.now_ms - 1)
        moved = {"created_at": at_ms, "started_at": at_ms + 1, "ended_at": ended_ms, "updated_at": ended_ms + 1}
        document = told.document | {"id": new_id(random)} | {key: iso(moment) for key, moment in moved.items()}
        if document.get("retention_due_at") is not None:
            document["retention_due_at"] = iso(at_ms + 1000 * document["retention"]["max_age_in_seconds"])
        return ToldRun(document, at_ms, ended_ms)
