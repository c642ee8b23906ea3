"""Simulated apps and workflows: their versions over time, when runs are created, and a history of their runs.

Times are epoch milliseconds, UTC.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from etl.sandbox.blueprints import BLUEPRINTS, Blueprint
from etl.sandbox.odd_runs import add_rough_edge
from etl.sandbox.run_documents import RunContext, RunGenerator, iso
from etl.sandbox.samples import APP_NAMES, PEOPLE, TAG_NAMES
from etl.sandbox.steps import GeneratedRun, model_of, new_id

if TYPE_CHECKING:
    from random import Random

    from etl.sandbox.blueprints import StepPlan

Json = Any
_NOTES: Final = (
    None,
    "Tighter prompt, fewer tokens.",
    "New model after the evaluation of last week.",
    "Hotfix: the branch swallowed urgent cases 🔥",
    "Rollback, the new prompt hallucinated order numbers.",
    "",
)
_DISPLAYS: Final = ("expanded", "collapsed", "minimal")

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS

_OFFICE: Final = (2, 1, 1, 1, 2, 3, 6, 12, 18, 22, 23, 21, 17, 20, 22, 21, 18, 14, 9, 7, 6, 5, 4, 3)
_NIGHT: Final = (4, 30, 60, 40, 10, 6, 6, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 4, 4)
_WEEKDAYS: Final = (1.1, 1.15, 1.1, 1.05, 0.95, 0.4, 0.3)


@dataclass(slots=True)
class WorkflowSimulation:
    """The state of a workflow: its blueprint, the workflow that its steps start, its activity, and its versions.

    `published` holds (epoch ms, Version document) in chronological order, `drafts` the draft in the editor while each
    of them was current. `per_day` is the average number of runs per day.
    """

    document: dict[str, Json]
    plan: Blueprint
    child_id: str | None
    activity: ActivityPattern
    published: list[tuple[int, dict[str, Json]]]
    drafts: list[dict[str, Json]]
    per_day: float = 0.0

    def context(self, random: Random, at_ms: int, *, parent: RunContext | None = None) -> RunContext:
        """Choose the circumstances of a run created at `at_ms`, optionally started by a run of `parent`."""
        revision = max((index for index, (since, _) in enumerate(self.published) if since <= at_ms), default=0)
        origins = self.plan.origins
        origin = "WORKFLOW" if parent else random.choices(tuple(origins), tuple(origins.values()))[0]
        in_editor = origin == "TEST"
        return RunContext(
            app_id=parent.app_id if parent else self.document["app"]["id"],
            workflow=self.document,
            plan=self.plan,
            version=None if in_editor and random.random() < 0.7 else self.published[revision][1],
            draft=self.drafts[revision] if in_editor else None,
            revision=revision,
            origin=origin,
            created_ms=at_ms,
        )


def make_apps(count: int) -> dict[str, dict[str, Json]]:
    """Generate apps, by id."""
    made = {}
    for index in range(count):
        name = APP_NAMES[index % len(APP_NAMES)] + (
            f" {index // len(APP_NAMES) + 1}" if index >= len(APP_NAMES) else ""
        )
        app_id = f"app_{index + 1:03d}"
        made[app_id] = {"id": app_id, "name": name, "verified": index % 2 == 0}
    return made


def make_simulations(
    random: Random, apps: dict[str, dict[str, Json]], per_app: int, span: tuple[int, int]
) -> list[WorkflowSimulation]:
    """Generate the workflows of a world, with versions published within `span` (epoch ms)."""
    plans: dict[str, tuple[dict[str, Json], Blueprint]] = {}
    for index in range(len(apps) * per_app):
        blueprint = BLUEPRINTS[index % len(BLUEPRINTS)]
        copy = index // len(BLUEPRINTS)
        if copy:
            blueprint = replace(blueprint, name=f"{blueprint.name} ({copy + 1})")
        app = list(apps.values())[index // per_app]
        plans[f"wf_{blueprint.key}" + (f"_{copy + 1}" if copy else "")] = (app, blueprint)
    return [
        make_simulation(
            random, app, blueprint, workflow_id=workflow_id, child_id=_child_of(workflow_id, plans), span=span
        )
        for workflow_id, (app, blueprint) in plans.items()
    ]


def _child_of(workflow_id: str, plans: dict[str, tuple[dict[str, Json], Blueprint]]) -> str | None:
    """Choose the workflow that another's steps start: a preferred one, of the same app if possible, or a simple one."""
    app, blueprint = plans[workflow_id]
    if all(step.type != "workflow" for step in blueprint.steps):
        return None
    near_first = sorted(plans, key=lambda other: plans[other][0]["id"] != app["id"])
    for wanted in blueprint.calls:
        for other in near_first:
            if plans[other][1].key == wanted:
                return other
    simple = (other for other in near_first if not plans[other][1].calls and other != workflow_id)
    return next(simple, None)


def make_simulation(
    random: Random,
    app: dict[str, Json],
    blueprint: Blueprint,
    *,
    workflow_id: str,
    child_id: str | None,
    span: tuple[int, int],
) -> WorkflowSimulation:
    """Generate one workflow with one to six versions published within `span` (epoch ms); its steps start `child_id`."""
    start_ms, now_ms = span
    plan = blueprint
    if child_id is None:
        plan = replace(plan, steps=tuple(step for step in plan.steps if step.type != "workflow"))
    moments = [start_ms, *sorted(random.randrange(start_ms, now_ms) for _ in range(random.randint(0, 5)))]
    published, drafts = [], []
    ids = {"app_id": app["id"], "workflow_id": workflow_id}
    for revision, at_ms in enumerate(moments):
        document = {"id": "ver_" + new_id(random), **ids} | body(random, plan, revision, child_id)
        published.append((at_ms, version(random, document, revision + 1, iso(at_ms))))
        drafts.append(body(random, plan, revision + 1, child_id))
    workflow = _workflow(random, plan, app, published[-1]) | drafts[-1]
    nightly = max(plan.origins, key=plan.origins.__getitem__) == "TRIGGER"
    return WorkflowSimulation(workflow, plan, child_id, ActivityPattern(nightly=nightly), published, drafts)


def publish(random: Random, simulation: WorkflowSimulation, at_ms: int) -> dict[str, Json]:
    """Publish a workflow's draft as its next version at a moment (epoch ms); return the Version document."""
    revision = len(simulation.published)
    ids = {
        "id": "ver_" + new_id(random),
        "app_id": simulation.document["app"]["id"],
        "workflow_id": simulation.document["id"],
    }
    published = version(random, ids | simulation.drafts[-1], revision + 1, iso(at_ms))
    simulation.published.append((at_ms, published))
    simulation.drafts.append(body(random, simulation.plan, revision + 1, simulation.child_id))
    simulation.document |= simulation.drafts[-1] | {"version": published, "updated_at": iso(at_ms)}
    return published


def _workflow(
    random: Random, plan: Blueprint, app: dict[str, Json], current: tuple[int, dict[str, Json]]
) -> dict[str, Json]:
    at_ms, published = current
    workflow_id = published["workflow_id"]
    retention = None
    if plan.retention_days is not None:
        retention = {"max_age_in_seconds": plan.retention_days * 86_400}
        if plan.keeps_failures is not None:
            retention["preserve_on_failure"] = plan.keeps_failures
    return {
        "id": workflow_id,
        "name": plan.name,
        "description": plan.description,
        "app": dict(app),
        "version": published,
        "tags": [_tag(index, app["id"], at_ms) for index in plan.tags],
        "tests_stats": {"passed": random.randrange(9), "failed": random.randrange(2)},
        "template_id": f"tpl_{plan.key}" if random.random() < 0.2 else None,
        "runs_count": 0,
        "retention": retention,
        "enabled": True,
        "deleted": False,
        "created_at": iso(at_ms - 90 * DAY_MS),
        "updated_at": iso(at_ms),
    }


def _tag(index: int, app_id: str, at_ms: int) -> dict[str, Json]:
    name, color = TAG_NAMES[index]
    at = iso(at_ms - 100 * DAY_MS)
    return {"id": f"tag_{index}", "name": name, "color": color, "app_id": app_id, "created_at": at, "updated_at": at}


def body(random: Random, plan: Blueprint, revision: int, child: str | None) -> dict[str, Json]:
    """Generate the VersionBody document of a workflow.

    Args:
        random: source of randomness.
        plan: the workflow's blueprint.
        revision: number of earlier changes; later revisions differ in model and prompt.
        child: id of the workflow that the plan's workflow steps call.
    """
    steps = [step(random, plan, index, revision, child) for index in range(len(plan.steps))]
    container = random.choice(("grid", "full", "center"))
    return {
        "key": plan.key,
        "input": {name: _input_definition(name) for name in plan.inputs},
        "input_default": {"text": "…"} if random.random() < 0.4 else None,
        "input_options": {"display": {"field": "stacked", "container": container, "hidden": False}}
        if random.random() < 0.7
        else None,
        "steps": steps,
    }


def _input_definition(name: str) -> dict[str, Json]:
    many = name.endswith("s") and name != "address"
    kind = "array" if many else "string"
    return {"type": kind, "label": name.replace("_", " ").capitalize(), "required": name == "text"}


def step(random: Random, plan: Blueprint, index: int, revision: int, child: str | None) -> dict[str, Json]:
    """Generate the definition of a step of a blueprint."""
    this = plan.steps[index]
    made: dict[str, Json] = {"type": this.type, "key": this.key}
    if random.random() < 0.6:
        made["display"] = random.choice(_DISPLAYS)
    if this.loop is not None:
        made["loop"] = this.loop
    if this.type in {"http_request", "browser"}:
        made["throw_on_error"] = random.random() < 0.7
    if this.type == "service":
        made["conditional"] = "{{route.label}} != 'spam'"
    if index == 1:
        made["input_connected"] = True
    after = _next_key(plan, index)
    if after is not None and this.type != "branch":
        made["destinations"] = [after]
    made["position"] = [240 * index, 120 + 40 * (index % 2)] if index else [0.5]
    if this.type == "note":
        made["size"] = [320, 180]
    made |= _by_type(this, revision, child)
    return made


def _next_key(plan: Blueprint, index: int) -> str | None:
    if plan.steps[index].type == "note" or index + 1 == len(plan.steps):
        return None
    return plan.steps[index + 1].key


def _by_type(this: StepPlan, revision: int, child: str | None) -> dict[str, Json]:
    config = dict(this.config)
    if this.type == "model":
        provider, model, _ = model_of(this.key, revision)
        config["auto"] = {"provider": provider, "model": model, "temperature": 0.2}
        made = dict(config["provider"]) | {"provider": provider, "model": model}
        made["messages"] = [*made["messages"][:-1], _revised(made["messages"][-1], revision)]
        if this.tools:
            made["tools"] = [
                {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
                for name in this.tools
            ]
            made["max_tokens"] = 4096
        else:
            made["response_format"] = {"type": "json_object"}
        config["provider"] = made
    elif this.type == "workflow":
        config |= {"workflow_id": child, "step_key": None}
    elif this.type == "code" and revision:
        config["code"] += f"\n// revision {revision}"
    return config


def _revised(message: dict[str, Json], revision: int) -> dict[str, Json]:
    more = " Be brief." * (revision % 3) + (" Never invent order numbers." if revision > 1 else "")
    return message | {"content": message["content"] + more}


def version(random: Random, document: dict[str, Json], number: int, created_at: str) -> dict[str, Json]:
    """Generate a Version document for a VersionBody.

    Args:
        random: source of randomness.
        document: the body, including the `id`, `app_id` and `workflow_id` of the version.
        number: version number, from 1.
        created_at: publication time.
    """
    person, name = random.choice(PEOPLE)
    notes = random.choice(_NOTES)
    made: dict[str, Json] = {
        "id": document["id"],
        "app_id": document["app_id"],
        "workflow_id": document["workflow_id"],
        "description": f"Version {number}" if random.random() < 0.8 else None,
        "version": number,
        "notes": notes,
    }
    if notes is not None and notes.startswith("Rollback") and number > 2:
        made["rollback_version"] = number - 2
    if random.random() < 0.85:
        made["created_by"] = {"id": person, "name": name}
    return made | {"created_at": created_at} | {key: value for key, value in document.items() if key not in made}


class ActivityPattern:
    """Relative activity of each hour of the week, with a mean of 1."""

    def __init__(self, *, nightly: bool) -> None:
        hours = _NIGHT if nightly else _OFFICE
        raw = [day * hour for day in _WEEKDAYS for hour in hours]
        mean = sum(raw) / len(raw)
        self._week = [value / mean for value in raw]
        self._peak = max(self._week)

    def at(self, moment_ms: int) -> float:
        """Return the relative activity in the hour of `moment_ms`."""
        # 1970-01-01 was a Thursday: day 3 of a week that begins on Monday.
        return self._week[(moment_ms // HOUR_MS + 3 * 24) % len(self._week)]

    def moment(self, random: Random, start_ms: int, end_ms: int) -> int:
        """Choose a moment in [start_ms, end_ms), weighted by activity."""
        while True:
            moment_ms = start_ms + int(random.random() * (end_ms - start_ms))
            if random.random() * self._peak <= self.at(moment_ms):
                return moment_ms

    def moments(self, random: Random, start_ms: int, end_ms: int, per_day: float) -> list[int]:
        """Return the moments of a Poisson process with `per_day` events per day on average, in chronological order."""
        found: list[int] = []
        cell = start_ms
        while cell < end_ms:
            until = min(end_ms, (cell // HOUR_MS + 1) * HOUR_MS)
            mean = per_day * self.at(cell) * (until - cell) / DAY_MS
            found += sorted(cell + int(random.random() * (until - cell)) for _ in range(poisson(random, mean)))
            cell = until
        return found


def poisson(random: Random, mean: float) -> int:
    """Draw from a Poisson distribution (approximated by a normal distribution if the mean is large)."""
    if mean > 30:
        return max(0, round(random.gauss(mean, math.sqrt(mean))))
    limit, count, product = math.exp(-mean), 0, random.random()
    while product > limit:
        count += 1
        product *= random.random()
    return count


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
