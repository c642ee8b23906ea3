"""What happens in a world while time passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from etl.sandbox.history import family
from etl.sandbox.lifecycle import empty, end, is_due, open_up
from etl.sandbox.rhythm import from_ms, poisson, to_ms
from etl.sandbox.runs import OPEN

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from random import Random

    from etl.sandbox.genesis import Life
    from etl.sandbox.lifecycle import Ending

_REPLAYS_PER_RUN = 0.03
_FAMILY_ROOM = 1000


class LivingWorld(Protocol):
    """What passing time needs of a `World`, which is described there."""

    now: datetime
    workflows: dict[str, dict[str, Any]]
    runs: dict[str, dict[str, dict[str, Any]]]
    on_retention: str
    lives: dict[str, Life]
    endings: dict[str, Ending]
    random: Random

    def find(self, run_id: str) -> dict[str, Any]:
        """Return the document of a run."""
        ...

    def delete_run(self, run_id: str) -> None:
        """Remove a run."""

    def replay_run(self, run_id: str) -> Any:
        """Run an ended run again."""

    def recount(self, workflow_id: str) -> None:
        """Bring `runs_count` of a workflow up to date."""


@dataclass(slots=True)
class Changes:
    """What happened while time passed: run ids, each list in the order in which it happened."""

    created: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    replayed: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    emptied: list[str] = field(default_factory=list)


def advance(world: LivingWorld, delta: timedelta) -> Changes:
    """Let time pass in a world; see `World.advance`."""
    start_ms, until_ms = to_ms(world.now), to_ms(world.now + delta)
    changes = Changes(finished=_finish(world, start_ms, until_ms), created=_create(world, start_ms, until_ms))
    replays = poisson(world.random, _REPLAYS_PER_RUN * len(changes.created))
    for at_ms in sorted(world.random.randrange(start_ms, until_ms) for _ in range(replays)):
        run_id = _some_ended(world)
        if run_id is not None:
            world.now = from_ms(at_ms)
            world.replay_run(run_id)
            changes.replayed.append(run_id)
    world.now = from_ms(until_ms)
    _retain(world, changes)
    for workflow_id in world.workflows:
        world.recount(workflow_id)
    return changes


def _finish(world: LivingWorld, start_ms: int, until_ms: int) -> list[str]:
    due = [(ending.due_ms, run_id) for run_id, ending in world.endings.items() if ending.due_ms <= until_ms]
    for due_ms, run_id in sorted(due):
        end(world.find(run_id), world.endings.pop(run_id), max(start_ms, due_ms))
    return [run_id for _, run_id in sorted(due)]


def _create(world: LivingWorld, start_ms: int, until_ms: int) -> list[str]:
    random, told = world.random, []
    for life in world.lives.values():
        for at_ms in life.rhythm.moments(random, start_ms, until_ms, life.per_day):
            told += family(random, world.lives, life.occasion(random, at_ms), _FAMILY_ROOM)
    # A child that its parent would start only later is left out: the parent is still open then.
    told = sorted((one for one in told if one.created_ms < until_ms), key=lambda one: one.created_ms)
    for one in told:
        run = one.document
        world.runs[run["workflow_id"]][run["id"]] = run
        if one.ended_ms > until_ms:
            begun = sum(step["start"] <= until_ms for step in run["output"].values())
            world.endings[run["id"]] = open_up(run, one.ended_ms, steps=begun)
    return [one.document["id"] for one in told]


def _some_ended(world: LivingWorld) -> str | None:
    """The id of some ended run that was created in time."""
    runs = world.random.choice([runs for runs in world.runs.values() if runs] or [{}])
    ended = [run_id for run_id, run in runs.items() if run["status"] not in OPEN and run["created_at"]]
    return world.random.choice(ended) if ended else None


def _retain(world: LivingWorld, changes: Changes) -> None:
    now_ms = to_ms(world.now)
    due = [run for runs in world.runs.values() for run in runs.values() if is_due(run, now_ms)]
    for run in due:
        if world.on_retention == "delete":
            world.delete_run(run["id"])
            changes.deleted.append(run["id"])
        elif any(run.get(key) is not None for key in ("input", "output", "result")):
            empty(run, now_ms)
            changes.emptied.append(run["id"])
