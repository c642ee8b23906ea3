"""The simulated world behind the API: apps, workflows, versions and runs, deterministic from a seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from etl.sandbox import genesis
from etl.sandbox.blueprints import BLUEPRINTS
from etl.sandbox.history import family, past
from etl.sandbox.lifecycle import STORY_FIELDS, Ending, empty, end, is_due, open_up, retention_due
from etl.sandbox.listing import ordered
from etl.sandbox.rhythm import DAY_MS, HOUR_MS, from_ms, poisson, to_ms
from etl.sandbox.runs import OPEN, iso

Json = Any
DEFAULT_NOW: Final = datetime(2026, 11, 1, 12, tzinfo=UTC)
_REPLAYS_PER_RUN: Final = 0.03


@dataclass(slots=True)
class Changes:
    """What happened while time passed: run ids, each list in the order in which it happened."""

    created: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    replayed: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    emptied: list[str] = field(default_factory=list)


class World:
    """Apps, workflows and runs as plain JSON documents, which tests may change at will.

    Documents of versions and drafts are shared by the runs that point at them. Each change through a method is
    stamped with the world's own clock, which then moves on by a millisecond, so that times do not tie by accident.

    Attributes:
        now: the world's clock.
        apps: App documents by id.
        workflows: Workflow documents by id.
        versions: Version documents by workflow id, the oldest first.
        runs: Run documents by workflow id and run id, the first created first.
        raw: bytes that are served verbatim in place of the run with that id.
        order: the order of listings, one of `listing.ORDERS`.
        on_retention: what happens to a run once it is due: `delete` it, or `empty` its payloads.
    """

    def __init__(self, seed: int = 1, *, now: datetime = DEFAULT_NOW) -> None:
        self.now = now
        self.apps: dict[str, dict[str, Json]] = {}
        self.workflows: dict[str, dict[str, Json]] = {}
        self.versions: dict[str, list[dict[str, Json]]] = {}
        self.runs: dict[str, dict[str, dict[str, Json]]] = {}
        self.raw: dict[str, bytes] = {}
        self.order = "created_desc"
        self.on_retention = "delete"
        self._random = Random(seed)
        self._shuffle = Random(seed + 1)
        self._lives: dict[str, genesis.Life] = {}
        self._endings: dict[str, Ending] = {}

    @classmethod
    def generate(  # noqa: PLR0913 - each has a default and is given by name
        cls,
        seed: int = 1,
        apps: int = 2,
        workflows_per_app: int = 4,
        runs: int = 3000,
        days: int = 60,
        now: datetime | None = None,
        open_runs: int = 12,
        *,
        rough_edges: bool = True,
    ) -> World:
        """A world with a history; the same arguments give the same world.

        Args:
            seed: chooses among worlds of the same sizes.
            apps: how many apps.
            workflows_per_app: how many workflows each of them has.
            runs: how many runs in all, child runs among them.
            days: over how many days before `now` they are spread.
            now: where the world's clock stands, 2026-11-01T12:00:00Z by default.
            open_runs: how many of the runs have not ended.
            rough_edges: whether some runs have odd but legal shapes (null or day-only times, NULs, unknown fields).
        """
        world = cls(seed, now=now or DEFAULT_NOW)
        random, now_ms = world._random, to_ms(world.now)
        start_ms = now_ms - days * DAY_MS
        world.apps = genesis.make_apps(apps)
        for life in genesis.make_lives(random, world.apps, workflows_per_app, start_ms, now_ms):
            world._settle(life)
        shares = sum(life.plan.share for life in world._lives.values())
        for life in world._lives.values():
            life.per_day = runs / days * life.plan.share / shares
        if world._lives:
            for run in past(random, world._lives, runs, start_ms, now_ms, rough_edges=rough_edges):
                world.runs[run["workflow_id"]][run["id"]] = run
            world._reopen(open_runs)
        for workflow_id in world.workflows:
            world._recount(workflow_id)
        return world

    def listing(self, workflow_id: str, origin: str = "ALL", status: str = "ALL") -> list[dict[str, Json]]:
        """The runs of a workflow that pass the filters (`ALL` passes all), in the world's `order`.

        Raises:
            KeyError: no such workflow.
        """
        runs = self.runs[workflow_id].values()
        if (origin, status) != ("ALL", "ALL"):
            chosen = [run for run in runs if origin in {"ALL", run.get("origin")}]
            return ordered((run for run in chosen if status in {"ALL", run.get("status")}), self.order, self._shuffle)
        return ordered(runs, self.order, self._shuffle)

    def find(self, run_id: str) -> dict[str, Json]:
        """The document of a run.

        Raises:
            KeyError: no such run.
        """
        for runs in self.runs.values():
            if run_id in runs:
                return runs[run_id]
        raise KeyError(run_id)

    def add_workflow(self, app_id: str, workflow_id: str, *, per_day: float = 20.0) -> dict[str, Json]:
        """Add a workflow without runs to an app (made where unknown); returns its document."""
        app = self.apps.setdefault(app_id, {"id": app_id, "name": app_id, "verified": False})
        plan = BLUEPRINTS[len(self._lives) % len(BLUEPRINTS)]
        now_ms = to_ms(self.now)
        life = genesis.make_life(self._random, workflow_id, app, plan, None, (now_ms - 30 * DAY_MS, now_ms))
        life.per_day = per_day
        self._settle(life)
        return life.document

    def create_run(self, workflow_id: str, **overrides: Json) -> dict[str, Json]:
        """Create a run now and give its document: an ended one, unless `status` is PENDING or RUNNING.

        Args:
            workflow_id: the workflow that runs.
            **overrides: fields of the document, set last of all.

        Raises:
            KeyError: no such workflow.
        """
        life = self._lives[workflow_id]
        now_ms = self._tick()
        told = family(self._random, self._lives, life.occasion(self._random, now_ms), 1)[0]
        run = told.document
        if overrides.get("status") in OPEN:
            steps = None if overrides["status"] == "PENDING" else self._random.randint(1, 3)
            ending = open_up(run, max(told.ended_ms, now_ms + 60_000), steps=steps)
            self._endings[overrides.get("id", run["id"])] = ending
        else:
            self.now = max(self.now, from_ms(told.ended_ms + 1000))
        run |= overrides
        self.runs[workflow_id][run["id"]] = run
        self._recount(workflow_id)
        return run

    def finish_run(self, run_id: str, **overrides: Json) -> dict[str, Json]:
        """End an open run now, as it was bound to end; `overrides` are fields of the document, set last of all.

        Raises:
            KeyError: no such run.
        """
        run = self.find(run_id)
        end(run, self._endings.pop(run_id, None), self._tick())
        run |= overrides
        return run

    def replay_run(self, run_id: str, *, finish: bool = True, **overrides: Json) -> dict[str, Json]:
        """Run an ended run again now: new outputs, new usage, perhaps another end, and a later `updated_at`.

        Args:
            run_id: the run.
            finish: whether it ends at once; else it is RUNNING until it is finished or time passes.
            **overrides: fields of the document, set last of all.

        Raises:
            KeyError: no such run.
        """
        run = self.find(run_id)
        life = self._lives[run["workflow_id"]]
        now_ms = self._tick()
        told = family(self._random, self._lives, life.occasion(self._random, now_ms), 1)[0]
        for key in STORY_FIELDS:
            run.pop(key, None)
        run |= {key: told.document[key] for key in STORY_FIELDS if key in told.document}
        ending = open_up(run, told.ended_ms, steps=1)
        run["updated_at"] = iso(now_ms)
        if finish:
            end(run, ending, now_ms)
        else:
            self._endings[run_id] = ending
        run |= overrides
        return run

    def set_retention(self, run_id: str, max_age: int) -> dict[str, Json]:
        """Let a run be kept for `max_age` seconds from its creation (-1: for good); moves its `updated_at`.

        Raises:
            KeyError: no such run.
        """
        run = self.find(run_id)
        run["retention"] = (run.get("retention") or {}) | {"max_age_in_seconds": max_age}
        run |= {"retention_due_at": retention_due(run), "updated_at": iso(self._tick())}
        return run

    def delete_run(self, run_id: str) -> None:
        """Remove a run for good.

        Raises:
            KeyError: no such run.
        """
        workflow_id = next(key for key, runs in self.runs.items() if run_id in runs) if self.find(run_id) else ""
        del self.runs[workflow_id][run_id]
        self.raw.pop(run_id, None)
        self._endings.pop(run_id, None)
        self._recount(workflow_id)

    def advance(self, delta: timedelta) -> Changes:
        """Let time pass: runs are created at their natural rhythm, open ones end, some are replayed, due ones go.

        Returns:
            The ids of the runs that changed.
        """
        changes = Changes()
        start_ms, until_ms = to_ms(self.now), to_ms(self.now + delta)
        for run_id, ending in sorted(self._endings.items(), key=lambda item: item[1].due_ms):
            if ending.due_ms <= until_ms:
                end(self.find(run_id), self._endings.pop(run_id), max(start_ms, ending.due_ms))
                changes.finished.append(run_id)
        changes.created = self._live(start_ms, until_ms)
        for _ in range(poisson(self._random, _REPLAYS_PER_RUN * len(changes.created))):
            changes.replayed += self._replay_some(start_ms, until_ms)
        self.now = from_ms(until_ms)
        self._retain(changes)
        for workflow_id in self.workflows:
            self._recount(workflow_id)
        return changes

    def _live(self, start_ms: int, until_ms: int) -> list[str]:
        random = self._random
        told = []
        for life in self._lives.values():
            for at_ms in life.rhythm.moments(random, start_ms, until_ms, life.per_day):
                told += family(random, self._lives, life.occasion(random, at_ms), 1000)
        told = [one for one in told if one.created_ms < until_ms]
        told.sort(key=lambda one: one.created_ms)
        for one in told:
            run = one.document
            self.runs[run["workflow_id"]][run["id"]] = run
            if one.ended_ms > until_ms:
                begun = sum(step["start"] <= until_ms for step in run["output"].values())
                self._endings[run["id"]] = open_up(run, one.ended_ms, steps=begun)
        return [one.document["id"] for one in told]

    def _replay_some(self, start_ms: int, until_ms: int) -> list[str]:
        random = self._random
        runs = random.choice([runs for runs in self.runs.values() if runs] or [{}])
        ended = [run_id for run_id, run in runs.items() if run["status"] not in OPEN and run["created_at"]]
        if not ended:
            return []
        run_id = random.choice(ended)
        self.now = from_ms(random.randrange(start_ms, until_ms))
        self.replay_run(run_id)
        return [run_id]

    def _retain(self, changes: Changes) -> None:
        now_ms = to_ms(self.now)
        for run in [run for runs in self.runs.values() for run in runs.values() if is_due(run, now_ms)]:
            if self.on_retention == "delete":
                self.delete_run(run["id"])
                changes.deleted.append(run["id"])
            elif run.get("input") is not None or run.get("output") is not None or run.get("result") is not None:
                empty(run, now_ms)
                changes.emptied.append(run["id"])

    def _reopen(self, count: int) -> None:
        """Turn ended runs into open ones: recent ones, and one in six that has been stuck for days."""
        random, now_ms = self._random, to_ms(self.now)
        able = [run for run in self._all() if run["origin"] != "WORKFLOW" and isinstance(run["output"], dict)]
        able = sorted((run for run in able if run["created_at"]), key=lambda run: run["created_at"])
        stuck = [able[-50 - 40 * place] for place in range(count // 6) if len(able) > 50 + 40 * place]
        for run in [*stuck, *able[len(able) - count + len(stuck) :]]:
            due_ms = now_ms + random.randrange(60_000, 8 * HOUR_MS) + (5 * DAY_MS if run in stuck else 0)
            steps = random.choice((None, 1, 2, 3))
            self._endings[run["id"]] = open_up(run, due_ms, steps=steps)

    def _all(self) -> list[dict[str, Json]]:
        return [run for runs in self.runs.values() for run in runs.values()]

    def _settle(self, life: genesis.Life) -> None:
        workflow_id = life.document["id"]
        self._lives[workflow_id] = life
        self.workflows[workflow_id] = life.document
        self.versions[workflow_id] = [document for _, document in life.published]
        self.runs[workflow_id] = {}

    def _recount(self, workflow_id: str) -> None:
        self.workflows[workflow_id]["runs_count"] = len(self.runs[workflow_id])

    def _tick(self) -> int:
        self.now += timedelta(milliseconds=1)
        return to_ms(self.now)
