"""The data behind the simulated API: apps, workflows, versions and runs, deterministic for a seed.

It also sorts the run listings, in one of several orders.
"""

from __future__ import annotations

import gc
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Final

from etl.sandbox import odd_runs
from etl.sandbox.blueprints import BLUEPRINTS
from etl.sandbox.run_documents import (
    EXECUTION_FIELDS,
    OPEN,
    PlannedEnd,
    end,
    epoch_seconds,
    from_ms,
    is_due,
    iso,
    remove_payloads,
    reopen,
    retention_due,
    to_ms,
)
from etl.sandbox.simulation import (
    DAY_MS,
    HOUR_MS,
    History,
    WorkflowSimulation,
    generate_with_children,
    make_apps,
    make_simulation,
    make_simulations,
    poisson,
    publish,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Json = Any
DEFAULT_NOW: Final = datetime(2026, 11, 1, 12, tzinfo=UTC)
_REPLAYS_PER_RUN: Final = 0.03
_MAX_CHILDREN: Final = 1000

ORDERS: Final = ("created_desc", "created_asc", "updated_desc", "none", "shuffled")
_FIELDS: Final = {"created_desc": "created_at", "created_asc": "created_at", "updated_desc": "updated_at", "none": "id"}


@dataclass(slots=True)
class Changes:
    """Ids of the runs that changed while time passed, each list in chronological order."""

    created: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    replayed: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    emptied: list[str] = field(default_factory=list)


class World:
    """Apps, workflows and runs as plain JSON documents, which tests may change freely.

    Runs share the documents of the versions and drafts that they refer to. Each method that changes a run stamps it
    with the world's clock and advances the clock by a millisecond, so that timestamps do not tie by accident.

    Attributes:
        now: the world's clock.
        apps: App documents by id.
        workflows: Workflow documents by id.
        versions: Version documents by workflow id, oldest first.
        runs: Run documents by workflow id and run id, in order of creation.
        raw: bytes to serve verbatim instead of the run with that id.
        order: the order of listings, one of `ORDERS`.
        on_retention: what happens to a run that is due: `delete` the run, or `empty` its payloads.
        simulations: the simulation of each workflow, by workflow id.
        endings: the planned end of each open run, by run id.
        random: the source of randomness.
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
        self._listings: dict[str, SortedRuns] = {}
        self.simulations: dict[str, WorkflowSimulation] = {}
        self.endings: dict[str, PlannedEnd] = {}

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
        """Generate a world with a history; the same arguments always generate the same world.

        Args:
            seed: random seed.
            apps: number of apps.
            workflows_per_app: number of workflows per app.
            runs: number of runs, including child runs.
            days: number of days before `now` over which the runs are spread.
            now: the world's clock, 2026-11-01T12:00:00Z by default.
            open_runs: number of runs that have not ended.
            rough_edges: whether some runs have odd but legal shapes (null or day-only times, NULs, unknown fields).
            distinct: for large worlds: number of runs to generate; the rest are copies with their own ids and times
                that share inner documents.
        """
        world = cls(seed, now=now or DEFAULT_NOW)
        now_ms = to_ms(world.now)
        start_ms = now_ms - days * DAY_MS
        world.apps = make_apps(apps)
        span = (start_ms - 20 * DAY_MS, now_ms)
        for simulation in make_simulations(world.random, world.apps, workflows_per_app, span):
            world._add(simulation)
        shares = sum(simulation.plan.share for simulation in world.simulations.values())
        for simulation in world.simulations.values():
            simulation.per_day = runs / days * simulation.plan.share / shares
        history = History(runs, start_ms, now_ms, rough_edges, distinct)
        with _gc_paused():
            for run in history.runs(world.random, world.simulations) if world.simulations else ():
                world.runs[run["workflow_id"]][run["id"]] = run
        world._reopen_runs(open_runs)
        for workflow_id in world.workflows:
            world.recount(workflow_id)
        return world

    def listing(self, workflow_id: str, origin: str = "ALL", status: str = "ALL") -> list[dict[str, Json]]:
        """List the runs of a workflow that match the filters (`ALL` matches everything), in the world's `order`.

        Raises:
            KeyError: no such workflow.
        """
        found = self.runs[workflow_id].values()
        listing = self._listings.setdefault(workflow_id, SortedRuns(self._shuffling))
        runs = listing.ordered(found, self.order)
        if (origin, status) == ("ALL", "ALL"):
            return list(runs)
        return [
            run
            for run in runs
            if (origin == "ALL" or run.get("origin") == origin) and (status == "ALL" or run.get("status") == status)
        ]

    def find(self, run_id: str) -> dict[str, Json]:
        """Return the document of a run.

        Raises:
            KeyError: no such run.
        """
        return self.runs[self._workflow_of(run_id)][run_id]

    def corrupt(self, run_id: str, kind: str) -> bytes:
        """Serve a run as one of `odd_runs.KINDS` from now on; return the bytes, which are also added to `raw`.

        Raises:
            KeyError: no such run, or no such kind.
        """
        self.raw[run_id] = odd_runs.KINDS[kind](self.find(run_id))
        return self.raw[run_id]

    def add_workflow(self, app_id: str, workflow_id: str, *, per_day: float = 20.0) -> dict[str, Json]:
        """Add a workflow without runs to an app, creating the app if it is new; return the workflow's document."""
        app = self.apps.setdefault(app_id, {"id": app_id, "name": app_id, "verified": False})
        plan = BLUEPRINTS[len(self.simulations) % len(BLUEPRINTS)]
        now_ms = to_ms(self.now)
        span = (now_ms - 30 * DAY_MS, now_ms)
        simulation = make_simulation(self.random, app, plan, workflow_id=workflow_id, child_id=None, span=span)
        simulation.per_day = per_day
        self._add(simulation)
        return simulation.document

    def publish(self, workflow_id: str) -> dict[str, Json]:
        """Publish the next version of a workflow; return the Version document.

        Raises:
            KeyError: no such workflow.
        """
        published = publish(self.random, self.simulations[workflow_id], self._tick())
        self.versions[workflow_id].append(published)
        return published

    def create_run(self, workflow_id: str, **overrides: Json) -> dict[str, Json]:
        """Create a run now and return its document; it has ended unless `status` is PENDING or RUNNING.

        Args:
            workflow_id: the workflow of the run.
            **overrides: fields of the document.

        Raises:
            KeyError: no such workflow.
        """
        simulation = self.simulations[workflow_id]
        now_ms = self._tick()
        generated = generate_with_children(self.random, self.simulations, simulation.context(self.random, now_ms), 1)[0]
        run = generated.document
        if overrides.get("status") in OPEN:
            steps = None if overrides["status"] == "PENDING" else self.random.randint(1, 3)
            ending = reopen(run, max(generated.ended_ms, now_ms + 60_000), steps=steps)
            self.endings[str(overrides.get("id", run["id"]))] = ending
            self.now = max(self.now, datetime.fromisoformat(str(run["updated_at"])))
        else:
            self.now = max(self.now, from_ms(generated.ended_ms + 1000))
        run |= overrides
        self.runs[workflow_id][run["id"]] = run
        self.recount(workflow_id)
        return run

    def finish_run(self, run_id: str, **overrides: Json) -> dict[str, Json]:
        """End an open run now, as planned; `overrides` are fields of the document.

        Raises:
            KeyError: no such run.
        """
        run = self.find(run_id)
        end(run, self.endings.pop(run_id, None), self._tick())
        run |= overrides
        return run

    def replay_run(self, run_id: str, *, finish: bool = True, **overrides: Json) -> dict[str, Json]:
        """Replay an ended run now: it gets new outputs and usage, possibly another status, and a later `updated_at`.

        Args:
            run_id: the run.
            finish: whether it ends immediately; otherwise it is RUNNING until it is finished or time passes.
            **overrides: fields of the document.

        Raises:
            KeyError: no such run.
        """
        run = self.find(run_id)
        simulation = self.simulations[self._workflow_of(run_id)]
        now_ms = self._tick()
        generated = generate_with_children(self.random, self.simulations, simulation.context(self.random, now_ms), 1)[0]
        for key in EXECUTION_FIELDS:
            run.pop(key, None)
        run |= {key: generated.document[key] for key in EXECUTION_FIELDS if key in generated.document}
        ending = reopen(run, generated.ended_ms, steps=1)
        run["updated_at"] = iso(now_ms)
        if finish:
            end(run, ending, now_ms)
        else:
            self.endings[run_id] = ending
        run |= overrides
        return run

    def set_retention(self, run_id: str, max_age: int) -> dict[str, Json]:
        """Keep a run for `max_age` seconds from its creation (-1: forever); this changes its `updated_at`.

        Raises:
            KeyError: no such run.
        """
        run = self.find(run_id)
        run["retention"] = (run.get("retention") or {}) | {"max_age_in_seconds": max_age}
        run |= {"retention_due_at": retention_due(run), "updated_at": iso(self._tick())}
        return run

    def delete_run(self, run_id: str) -> None:
        """Delete a run.

        Raises:
            KeyError: no such run.
        """
        workflow_id = self._workflow_of(run_id)
        del self.runs[workflow_id][run_id]
        self.raw.pop(run_id, None)
        self.endings.pop(run_id, None)
        self.recount(workflow_id)

    def advance(self, delta: timedelta) -> Changes:
        """Let time pass: create runs, end open ones, replay some, and apply retention.

        Returns:
            The ids of the runs that changed.
        """
        start_ms, until_ms = to_ms(self.now), to_ms(self.now + delta)
        changes = Changes(finished=self._finish_due(start_ms, until_ms), created=self._create(start_ms, until_ms))
        replays = poisson(self.random, _REPLAYS_PER_RUN * len(changes.created))
        for at_ms in sorted(self.random.randrange(start_ms, until_ms) for _ in range(replays)):
            run_id = self._choose_ended()
            if run_id is not None:
                self.now = from_ms(at_ms)
                self.replay_run(run_id)
                changes.replayed.append(run_id)
        self.now = from_ms(until_ms)
        self._apply_retention(changes)
        for workflow_id in self.workflows:
            self.recount(workflow_id)
        return changes

    def _finish_due(self, start_ms: int, until_ms: int) -> list[str]:
        due = [(ending.due_ms, run_id) for run_id, ending in self.endings.items() if ending.due_ms <= until_ms]
        for due_ms, run_id in sorted(due):
            end(self.find(run_id), self.endings.pop(run_id), max(start_ms, due_ms))
        return [run_id for _, run_id in sorted(due)]

    def _create(self, start_ms: int, until_ms: int) -> list[str]:
        random, found = self.random, []
        for simulation in self.simulations.values():
            for at_ms in simulation.activity.moments(random, start_ms, until_ms, simulation.per_day):
                context = simulation.context(random, at_ms)
                found += generate_with_children(random, self.simulations, context, _MAX_CHILDREN)
        # Leave out children that start later: their parent is still open then.
        found = sorted((each for each in found if each.created_ms < until_ms), key=lambda each: each.created_ms)
        for each in found:
            run = each.document
            self.runs[run["workflow_id"]][run["id"]] = run
            if each.ended_ms > until_ms:
                begun = sum(step["start"] <= until_ms for step in run["output"].values())
                self.endings[run["id"]] = reopen(run, each.ended_ms, steps=begun)
        return [each.document["id"] for each in found]

    def _choose_ended(self) -> str | None:
        """Choose a random ended run that has `created_at`."""
        runs = self.random.choice([runs for runs in self.runs.values() if runs] or [{}])
        ended = [run_id for run_id, run in runs.items() if run["status"] not in OPEN and run["created_at"]]
        return self.random.choice(ended) if ended else None

    def _apply_retention(self, changes: Changes) -> None:
        now_ms = to_ms(self.now)
        for run in [run for run in self._all() if is_due(run, now_ms)]:
            if self.on_retention == "delete":
                self.delete_run(run["id"])
                changes.deleted.append(run["id"])
            elif any(run.get(key) is not None for key in ("input", "output", "result")):
                remove_payloads(run, now_ms)
                changes.emptied.append(run["id"])

    def _reopen_runs(self, count: int) -> None:
        """Turn ended runs into open ones: recent runs, and one in six that has been stuck for days."""
        random, now_ms = self.random, to_ms(self.now)
        candidates = [
            run
            for run in self._all()
            if run["origin"] != "WORKFLOW" and isinstance(run["output"], dict) and run["usage"] and run["created_at"]
        ]
        candidates.sort(key=lambda run: run["created_at"])
        stuck = [candidates[-50 - 40 * index] for index in range(count // 6) if len(candidates) > 50 + 40 * index]
        for run in [*stuck, *candidates[len(candidates) - count + len(stuck) :]]:
            due_ms = now_ms + random.randrange(60_000, 8 * HOUR_MS) + (5 * DAY_MS if run in stuck else 0)
            steps = random.choice((None, 1, 2, 3))
            self.endings[run["id"]] = reopen(run, due_ms, steps=steps)

    def _workflow_of(self, run_id: str) -> str:
        """Return the id of the workflow that lists a run."""
        for workflow_id, runs in self.runs.items():
            if run_id in runs:
                return workflow_id
        raise KeyError(run_id)

    def _all(self) -> list[dict[str, Json]]:
        return [run for runs in self.runs.values() for run in runs.values()]

    def _add(self, simulation: WorkflowSimulation) -> None:
        workflow_id = simulation.document["id"]
        self.simulations[workflow_id] = simulation
        self.workflows[workflow_id] = simulation.document
        self.versions[workflow_id] = [document for _, document in simulation.published]
        self.runs[workflow_id] = {}

    def recount(self, workflow_id: str) -> None:
        """Update the `runs_count` of a workflow after changing its `runs` directly."""
        self.workflows[workflow_id]["runs_count"] = len(self.runs[workflow_id])

    def _tick(self) -> int:
        self.now += timedelta(milliseconds=1)
        return to_ms(self.now)


@contextmanager
def _gc_paused() -> Iterator[None]:
    """Pause the garbage collector: documents have no cycles, and scanning a growing world repeatedly is slow."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class SortedRuns:
    """The runs of a workflow in order, sorted again only if runs or their times have changed since the last call."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._sorted_from: tuple[list[dict[str, Json]], list[Json]] = ([], [])
        self._sorted_by = ""
        self._sorted: list[dict[str, Json]] = []

    def ordered(self, runs: Iterable[dict[str, Json]], order: str) -> list[dict[str, Json]]:
        """Return the runs in one of ORDERS; callers must not change the list.

        Args:
            runs: run documents in order of creation, which breaks ties.
            order: `none` is arbitrary but stable, `shuffled` differs on each call.

        Raises:
            ValueError: `order` is not one of ORDERS.
        """
        found = list(runs)
        if order == "shuffled":
            self._random.shuffle(found)
            return found
        field = _FIELDS.get(order)
        if field is None:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, not {order!r}")
        values = [run.get(field) for run in found]
        if self._sorted_by != order or self._sorted_from != (found, values):
            self._sorted_by, self._sorted_from = order, (found, values)
            self._sorted = _sorted(found, values, order)
        return self._sorted


def _sorted(found: list[dict[str, Json]], values: list[Json], order: str) -> list[dict[str, Json]]:
    if order == "none":
        ranks = [float(zlib.crc32(repr(value).encode())) for value in values]
    else:
        ranks = [epoch_seconds(value) for value in values]
    places = range(len(found))
    if order.endswith("_desc"):
        # Negate instead of sorting in reverse, so that for equal times the run created last comes first.
        ranks = [-rank for rank in ranks]
        places = places[::-1]
    return [found[index] for index in sorted(places, key=ranks.__getitem__)]
