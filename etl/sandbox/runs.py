"""Run documents: one execution of a workflow, from the moment it is asked for until it has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from etl.sandbox import outputs
from etl.sandbox.rhythm import from_ms
from etl.sandbox.steps import Story, ToldRun, lasting, new_id
from etl.sandbox.usage import run_usage

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from etl.sandbox.blueprints import Blueprint

Json = Any
STATUSES: Final = ("PENDING", "RUNNING", "CANCELLED", "COMPLETED", "SKIPPED", "FAILED")
ORIGINS: Final = ("WORKFLOW", "TRIGGER", "RECORD", "TEST", "ENDPOINT", "WEBHOOK")
OPEN: Final = frozenset({"PENDING", "RUNNING"})


def iso(moment_ms: float) -> str:
    """The API's timestamp text of epoch milliseconds, `2026-10-12T09:00:00.123Z`."""
    return from_ms(int(moment_ms)).isoformat(timespec="milliseconds")[:-6] + "Z"


@dataclass(frozen=True, slots=True)
class Occasion:
    """Why, when and where a run happens.

    `app_id` is the app that it was triggered from, `workflow` the API's document of the workflow, `version` and
    `draft` the definitions that it points at, `revision` how often the definition had changed, `created_ms` epoch ms.
    """

    app_id: str
    workflow: dict[str, Json]
    plan: Blueprint
    version: dict[str, Json] | None
    draft: dict[str, Json] | None
    revision: int
    origin: str
    created_ms: int


class Storyteller:
    """Makes the documents of ended runs.

    `spawn` starts the child run of a workflow step of an occasion at a moment (epoch ms); it gives None where the
    world has no room for another run.
    """

    def __init__(self, random: Random, spawn: Callable[[Occasion, int], ToldRun | None]) -> None:
        self._random = random
        self._spawn = spawn

    def run(self, occasion: Occasion) -> ToldRun:
        """The document of a run that began on an occasion, and when it ended."""
        random = self._random
        started_ms = occasion.created_ms + lasting(random, 0.15)
        scene = outputs.scene(random, occasion.revision)
        story = Story(random, scene, lambda at_ms: self._spawn(occasion, at_ms), started_ms)
        fate = random.random()
        if fate < 0.008:
            story.status = "SKIPPED"
        else:
            plans = occasion.plan.steps
            story.tell(plans, random.randrange(1, len(plans)) if fate < 0.022 else None)
        made = self._head(occasion, story)
        made |= {"status": story.status, "started_at": iso(started_ms), "ended_at": iso(story.now_ms)}
        if story.error is not None:
            made["error"] = story.error
        made["usage"] = run_usage(story.usage, story.call_ids)
        result = self._result(story)
        if result is not None:
            made["result"] = result
        return ToldRun(made | self._tail(occasion, story), occasion.created_ms, story.now_ms)

    def _head(self, occasion: Occasion, story: Story) -> dict[str, Json]:
        random = self._random
        workflow = occasion.workflow
        made: dict[str, Json] = {
            "id": new_id(random),
            "input": outputs.run_input(random, occasion.plan.inputs, story.scene) if random.random() < 0.97 else None,
            "output": story.output,
            "origin": occasion.origin,
            "app_id": occasion.app_id,
            "workflow_app_id": workflow["app"]["id"],
            "workflow_id": workflow["id"],
            "workflow_version_draft": occasion.draft,
            "workflow_version": occasion.version,
        }
        if occasion.origin == "RECORD":
            made["collection_id"] = "col_" + occasion.plan.key
            made["record_id"] = f"rec_{random.randrange(400):04d}"
        if occasion.version is not None:
            made["version"] = occasion.version["version"]
        return made

    def _tail(self, occasion: Occasion, story: Story) -> dict[str, Json]:
        made: dict[str, Json] = {}
        retention = occasion.workflow["retention"]
        if retention is not None:
            made["retention"] = dict(retention)
            age = retention["max_age_in_seconds"]
            keeps = retention.get("preserve_on_failure", False) and story.status == "FAILED"
            made["retention_due_at"] = None if keeps or age < 0 else iso(occasion.created_ms + 1000 * age)
        elif self._random.random() < 0.3:
            made["retention"] = {"max_age_in_seconds": -1}
        made["created_at"] = iso(occasion.created_ms)
        made["updated_at"] = iso(story.now_ms + self._random.randrange(5, 900))
        return made

    def _result(self, story: Story) -> Json:
        luck = self._random.random()
        if story.status != "COMPLETED" or luck < 0.3:
            return None
        if luck < 0.4:
            return f"Done for {story.scene.customer} ✓"
        return {"customer": story.scene.customer, "steps": len(story.output), "ok": True}
