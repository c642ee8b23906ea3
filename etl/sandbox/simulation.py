"""Simulated apps and workflows: their versions over time, and the circumstances of their runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from etl.sandbox.activity import DAY_MS, ActivityPattern
from etl.sandbox.blueprints import BLUEPRINTS, Blueprint
from etl.sandbox.run_documents import RunContext, iso
from etl.sandbox.samples import APP_NAMES, TAG_NAMES
from etl.sandbox.steps import new_id
from etl.sandbox.versions import body, version

if TYPE_CHECKING:
    from random import Random

Json = Any


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
