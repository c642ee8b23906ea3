"""Run documents of ended runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from etl.sandbox import step_outputs
from etl.sandbox.activity import from_ms
from etl.sandbox.steps import Execution, GeneratedRun, new_id, random_duration_ms
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
    """Format epoch milliseconds as the API's timestamp, `2026-10-12T09:00:00.123Z`."""
    return from_ms(int(moment_ms)).isoformat(timespec="milliseconds")[:-6] + "Z"


@dataclass(frozen=True, slots=True)
class RunContext:
    """The circumstances of a run.

    `app_id` is the app that triggered it, `workflow` the workflow's document, `version` and `draft` the definitions
    that the run refers to, `revision` the number of earlier changes of the definition, `created_ms` epoch ms.
    """

    app_id: str
    workflow: dict[str, Json]
    plan: Blueprint
    version: dict[str, Json] | None
    draft: dict[str, Json] | None
    revision: int
    origin: str
    created_ms: int


class RunGenerator:
    """Generates the documents of ended runs.

    `spawn` starts the child run of a workflow step at a moment (epoch ms); it returns None if the limit is reached.
    """

    def __init__(self, random: Random, spawn: Callable[[RunContext, int], GeneratedRun | None]) -> None:
        self._random = random
        self._spawn = spawn

    def run(self, context: RunContext) -> GeneratedRun:
        """Generate a run."""
        random = self._random
        started_ms = context.created_ms + random_duration_ms(random, 0.15)
        topic = step_outputs.choose_topic(random, context.revision)
        execution = Execution(random, topic, lambda at_ms: self._spawn(context, at_ms), started_ms)
        chance = random.random()
        if chance < 0.008:
            execution.status = "SKIPPED"
        else:
            plans = context.plan.steps
            execution.run_steps(plans, random.randrange(1, len(plans)) if chance < 0.022 else None)
        document = self._head(context, execution)
        document |= {"status": execution.status, "started_at": iso(started_ms), "ended_at": iso(execution.now_ms)}
        if execution.error is not None:
            document["error"] = execution.error
        document["usage"] = run_usage(execution.usage, execution.call_ids)
        result = self._result(execution)
        if result is not None:
            document["result"] = result
        return GeneratedRun(document | self._tail(context, execution), context.created_ms, execution.now_ms)

    def _head(self, context: RunContext, execution: Execution) -> dict[str, Json]:
        random = self._random
        workflow = context.workflow
        document: dict[str, Json] = {
            "id": new_id(random),
            "input": step_outputs.run_input(random, context.plan.inputs, execution.topic)
            if random.random() < 0.97
            else None,
            "output": execution.output,
            "origin": context.origin,
            "app_id": context.app_id,
            "workflow_app_id": workflow["app"]["id"],
            "workflow_id": workflow["id"],
            "workflow_version_draft": context.draft,
            "workflow_version": context.version,
        }
        if context.origin == "RECORD":
            document["collection_id"] = "col_" + context.plan.key
            document["record_id"] = f"rec_{random.randrange(400):04d}"
        if context.version is not None:
            document["version"] = context.version["version"]
        return document

    def _tail(self, context: RunContext, execution: Execution) -> dict[str, Json]:
        document: dict[str, Json] = {}
        retention = context.workflow["retention"]
        if retention is not None:
            document["retention"] = dict(retention)
            age = retention["max_age_in_seconds"]
            keeps = retention.get("preserve_on_failure", False) and execution.status == "FAILED"
            document["retention_due_at"] = None if keeps or age < 0 else iso(context.created_ms + 1000 * age)
        elif self._random.random() < 0.3:
            document["retention"] = {"max_age_in_seconds": -1}
        document["created_at"] = iso(context.created_ms)
        document["updated_at"] = iso(execution.now_ms + self._random.randrange(5, 900))
        return document

    def _result(self, execution: Execution) -> Json:
        chance = self._random.random()
        if execution.status != "COMPLETED" or chance < 0.3:
            return None
        if chance < 0.4:
            return f"Done for {execution.topic.customer} ✓"
        return {"customer": execution.topic.customer, "steps": len(execution.output), "ok": True}
