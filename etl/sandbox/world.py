"""The simulated world behind the API: apps, workflows, versions and runs, deterministic from a seed."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Final

from etl.sandbox import genesis, hostile, passage
from etl.sandbox.blueprints import BLUEPRINTS
from etl.sandbox.history import Past, family
from etl.sandbox.lifecycle import STORY_FIELDS, Ending, end, open_up, retention_due
from etl.sandbox.listing import Listing
from etl.sandbox.rhythm import DAY_MS, HOUR_MS, from_ms, to_ms
from etl.sandbox.runs import OPEN, iso

if TYPE_CHECKING:
    from collections.abc import Iterator

    from etl.sandbox.passage import Changes

Json = Any
DEFAULT_NOW: Final = datetime(2026, 11, 1, 12, tzinfo=UTC)


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
        lives: how each workflow lives on, by workflow id.
        endings: how each open run is bound to end, by run id.
        random: the source of all chance.
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
        self.random = Random(seed)
        self._shuffling = Random(seed + 1)
        self._listings: dict[str, Listing] = {}
        self.lives: dict[str, genesis.Life] = {}
        self.endings: dict[str, Ending] = {}

    @classmethod
    def generate(
        cls,
        seed: int = 1,
        *,
        apps: int = 2,
        workflows_per_app: int = 4,
        runs: int = 3000,
        days: int = 60,
        now: datetime | None = None,
        open_runs: int = 12,
        rough_edges: bool = True,
        distinct: int | None = None,
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
            distinct: for big worlds: the runs past that many are copies of earlier ones with ids and times of their
                own, which share inner documents with them.
        """
        world = cls(seed, now=now or DEFAULT_NOW)
        now_ms = to_ms(world.now)
        start_ms = now_ms - days * DAY_MS
        world.apps = genesis.make_apps(apps)
        span = (start_ms - 20 * DAY_MS, now_ms)
        for life in genesis.make_lives(world.random, world.apps, workflows_per_app, span):
            world._settle(life)
        shares = sum(life.plan.share for life in world.lives.values())
        for life in world.lives.values():
            life.per_day = runs / days * life.plan.share / shares
        past = Past(runs, start_ms, now_ms, rough_edges, distinct)
        with _garbage_kept():
            for run in past.runs(world.random, world.lives) if world.lives else ():
                world.runs[run["workflow_id"]][run["id"]] = run
        world._reopen(open_runs)
        for workflow_id in world.workflows:
            world.recount(workflow_id)
        return world

    def listing(self, workflow_id: str, origin: str = "ALL", status: str = "ALL") -> list[dict[str, Json]]:
        """The runs of a workflow that pass the filters (`ALL` passes all), in the world's `order`.

        Raises:
            KeyError: no such workflow.
        """
        found = self.runs[workflow_id].values()
        listing = self._listings.setdefault(workflow_id, Listing(self._shuffling))
        runs = listing.ordered(found, self.order)
        if (origin, status) == ("ALL", "ALL"):
            return list(runs)
        return [
            run
            for run in runs
            if (origin == "ALL" or run.get("origin") == origin) and (status == "ALL" or run.get("status") == status)
        ]

    def find(self, run_id: str) -> dict[str, Json]:
        """The document of a run.

        Raises:
            KeyError: no such run.
        """
        return self.runs[self._home(run_id)][run_id]

    def spoil(self, run_id: str, kind: str) -> bytes:
        """Serve a run as one of `hostile.KINDS` from now on; returns the bytes, which also stand in `raw`.

        Raises:
            KeyError: no such run, or no such kind.
        """
        self.raw[run_id] = hostile.KINDS[kind](self.find(run_id))
        return self.raw[run_id]

    def add_workflow(self, app_id: str, workflow_id: str, *, per_day: float = 20.0) -> dict[str, Json]:
        """Add a workflow without runs to an app (made where unknown); returns its document."""
        app = self.apps.setdefault(app_id, {"id": app_id, "name": app_id, "verified": False})
        plan = BLUEPRINTS[len(self.lives) % len(BLUEPRINTS)]
        now_ms = to_ms(self.now)
        span = (now_ms - 30 * DAY_MS, now_ms)
        life = genesis.make_life(self.random, app, plan, workflow_id=workflow_id, child_id=None, span=span)
        life.per_day = per_day
        self._settle(life)
        return life.document

    def publish(self, workflow_id: str) -> dict[str, Json]:
        """Let a workflow have its next version from now on; returns the Version document.

        Raises:
            KeyError: no such workflow.
        """
        published = genesis.publish(self.random, self.lives[workflow_id], self._tick())
        self.versions[workflow_id].append(published)
        return published

    def create_run(self, workflow_id: str, **overrides: Json) -> dict[str, Json]:
        """Create a run now and give its document: an ended one, unless `status` is PENDING or RUNNING.

        Args:
            workflow_id: the workflow that runs.
            **overrides: fields of the document, set last of all.

        Raises:
            KeyError: no such workflow.
        """
        life = self.lives[workflow_id]
        now_ms = self._tick()
        told = family(self.random, self.lives, life.occasion(self.random, now_ms), 1)[0]
        run = told.document
        if overrides.get("status") in OPEN:
            steps = None if overrides["status"] == "PENDING" else self.random.randint(1, 3)
            ending = open_up(run, max(told.ended_ms, now_ms + 60_000), steps=steps)
            self.endings[str(overrides.get("id", run["id"]))] = ending
            self.now = max(self.now, datetime.fromisoformat(str(run["updated_at"])))
        else:
            self.now = max(self.now, from_ms(told.ended_ms + 1000))
        run |= overrides
        self.runs[workflow_id][run["id"]] = run
        self.recount(workflow_id)
        return run

    def finish_run(self, run_id: str, **overrides: Json) -> dict[str, Json]:
        """End an open run now, as it was bound to end; `overrides` are fields of the document, set last of all.

        Raises:
            KeyError: no such run.
        """
        run = self.find(run_id)
        end(run, self.endings.pop(run_id, None), self._tick())
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
        life = self.lives[self._home(run_id)]
        now_ms = self._tick()
        told = family(self.random, self.lives, life.occasion(self.random, now_ms), 1)[0]
        for key in STORY_FIELDS:
            run.pop(key, None)
        run |= {key: told.document[key] for key in STORY_FIELDS if key in told.document}
        ending = open_up(run, told.ended_ms, steps=1)
        run["updated_at"] = iso(now_ms)
        if finish:
            end(run, ending, now_ms)
        else:
            self.endings[run_id] = ending
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
        workflow_id = self._home(run_id)
        del self.runs[workflow_id][run_id]
        self.raw.pop(run_id, None)
        self.endings.pop(run_id, None)
        self.recount(workflow_id)

    def advance(self, delta: timedelta) -> Changes:
        """Let time pass: runs are created at their natural rhythm, open ones end, some are replayed, due ones go.

        Returns:
            The ids of the runs that changed.
        """
        return passage.advance(self, delta)

    def _reopen(self, count: int) -> None:
        """Turn ended runs into open ones: recent ones, and one in six that has been stuck for days."""
        random, now_ms = self.random, to_ms(self.now)
        able = [
            run
            for run in self._all()
            if run["origin"] != "WORKFLOW" and isinstance(run["output"], dict) and run["usage"] and run["created_at"]
        ]
        able.sort(key=lambda run: run["created_at"])
        stuck = [able[-50 - 40 * place] for place in range(count // 6) if len(able) > 50 + 40 * place]
        for run in [*stuck, *able[len(able) - count + len(stuck) :]]:
            due_ms = now_ms + random.randrange(60_000, 8 * HOUR_MS) + (5 * DAY_MS if run in stuck else 0)
            steps = random.choice((None, 1, 2, 3))
            self.endings[run["id"]] = open_up(run, due_ms, steps=steps)

    def _home(self, run_id: str) -> str:
        """The id of the workflow in whose listing a run stands."""
        for workflow_id, runs in self.runs.items():
            if run_id in runs:
                return workflow_id
        raise KeyError(run_id)

    def _all(self) -> list[dict[str, Json]]:
        return [run for runs in self.runs.values() for run in runs.values()]

    def _settle(self, life: genesis.Life) -> None:
        workflow_id = life.document["id"]
        self.lives[workflow_id] = life
        self.workflows[workflow_id] = life.document
        self.versions[workflow_id] = [document for _, document in life.published]
        self.runs[workflow_id] = {}

    def recount(self, workflow_id: str) -> None:
        """Bring the `runs_count` of a workflow up to date, after its `runs` were changed by hand."""
        self.workflows[workflow_id]["runs_count"] = len(self.runs[workflow_id])

    def _tick(self) -> int:
        self.now += timedelta(milliseconds=1)
        return to_ms(self.now)


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Keep the garbage collector from going over a growing world again and again: documents have no cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
