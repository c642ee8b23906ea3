"""Version documents: the definitions that runs refer to, and their changes from version to version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from etl.sandbox.samples import MODELS, PEOPLE

if TYPE_CHECKING:
    from random import Random

    from etl.sandbox.blueprints import Blueprint, StepPlan

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


def model_of(step_key: str, revision: int) -> tuple[str, str, float]:
    """Return the provider, model and median credits per call of a model step, at a revision of its workflow."""
    return MODELS[(sum(map(ord, step_key)) + revision // 2) % len(MODELS)]


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
