"""Generation of runs with their child runs, and of a history of runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etl.sandbox.activity import DAY_MS, HOUR_MS
from etl.sandbox.odd_runs import add_rough_edge
from etl.sandbox.run_documents import RunContext, RunGenerator, iso
from etl.sandbox.steps import GeneratedRun, new_id

if TYPE_CHECKING:
    from random import Random

    from etl.sandbox.simulation import WorkflowSimulation

Json = Any


def generate_with_children(
    random: Random, simulations: dict[str, WorkflowSimulation], context: RunContext, room: int
) -> list[GeneratedRun]:
    """Generate a run and the runs that its steps start, at most `room` in total, in order of creation."""
    started: list[GeneratedRun] = []
    count = 1

    def spawn(parent: RunContext, at_ms: int) -> GeneratedRun | None:
        nonlocal count
        child_id = simulations[parent.workflow["id"]].child_id
        if child_id is None or count >= room:
            return None
        count += 1
        child = generator.run(simulations[child_id].context(random, at_ms + random.randrange(5, 60), parent=parent))
        started.append(child)
        return child

    generator = RunGenerator(random, spawn)
    started.append(generator.run(context))
    return sorted(started, key=lambda run: run.created_ms)


@dataclass(frozen=True, slots=True)
class History:
    """Parameters of a history: `count` ended runs between two moments (epoch ms).

    At most `distinct` of them are generated (None: all); the others are shallow copies with their own ids and times.
    """

    count: int
    start_ms: int
    now_ms: int
    rough_edges: bool
    distinct: int | None = None

    def runs(self, random: Random, simulations: dict[str, WorkflowSimulation]) -> list[dict[str, Json]]:
        """Generate the documents in order of creation, without runs that retention would have removed by now."""
        choices = list(simulations.values())
        shares = [simulation.plan.share for simulation in choices]
        generated: list[GeneratedRun] = []
        wanted = min(self.count, self.distinct or self.count)
        while len(generated) < wanted:
            simulation = random.choices(choices, shares)[0]
            runs = generate_with_children(
                random,
                simulations,
                simulation.context(random, self._moment(random, simulation)),
                wanted - len(generated),
            )
            if all(run.ended_ms < self.now_ms for run in runs):
                generated += runs
        without_children = [run for run in generated if simulations[run.document["workflow_id"]].child_id is None]
        generated += [
            self._copy(random, simulations, random.choice(without_children)) for _ in range(self.count - wanted)
        ]
        generated.sort(key=lambda run: run.created_ms)
        found = [run.document for run in generated]
        if self.rough_edges:
            for run in found:
                add_rough_edge(random, run)
        return found

    def _moment(self, random: Random, simulation: WorkflowSimulation) -> int:
        days = simulation.plan.retention_days
        since_ms = self.start_ms if days is None else max(self.start_ms, self.now_ms - days * DAY_MS + HOUR_MS)
        return simulation.activity.moment(random, since_ms, self.now_ms - HOUR_MS // 6)

    def _copy(
        self, random: Random, simulations: dict[str, WorkflowSimulation], generated: GeneratedRun
    ) -> GeneratedRun:
        at_ms = self._moment(random, simulations[generated.document["workflow_id"]])
        ended_ms = min(at_ms + generated.ended_ms - generated.created_ms, self.now_ms - 1)
        moved = {"created_at": at_ms, "started_at": at_ms + 1, "ended_at": ended_ms, "updated_at": ended_ms + 1}
        document = generated.document | {"id": new_id(random)} | {key: iso(moment) for key, moment in moved.items()}
        if document.get("retention_due_at") is not None:
            document["retention_due_at"] = iso(at_ms + 1000 * document["retention"]["max_age_in_seconds"])
        return GeneratedRun(document, at_ms, ended_ms)
