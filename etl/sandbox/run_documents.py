"""Run documents: of ended runs, and their changes in place over their lifetime (reopening, ending, retention)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from etl.sandbox.steps import Execution, GeneratedRun, choose_topic, new_id, random_duration_ms, run_input, run_usage

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from etl.sandbox.blueprints import Blueprint

Json = Any
STATUSES: Final = ("PENDING", "RUNNING", "CANCELLED", "COMPLETED", "SKIPPED", "FAILED")
ORIGINS: Final = ("WORKFLOW", "TRIGGER", "RECORD", "TEST", "ENDPOINT", "WEBHOOK")
OPEN: Final = frozenset({"PENDING", "RUNNING"})
EXECUTION_FIELDS: Final = ("output", "status", "usage", "result", "error", "started_at", "ended_at")
"""The fields of a run that are set by one execution."""

_NEVER: Final = float("inf")


def to_ms(moment: datetime) -> int:
    """Convert an aware datetime to epoch milliseconds."""
    return round(moment.timestamp() * 1000)


def from_ms(moment_ms: int) -> datetime:
    """Convert epoch milliseconds to a UTC datetime."""
    return datetime.fromtimestamp(moment_ms / 1000, UTC)


def iso(moment_ms: float) -> str:
    """Format epoch milliseconds as the API's timestamp, `2026-10-12T09:00:00.123Z`."""
    return from_ms(int(moment_ms)).isoformat(timespec="milliseconds")[:-6] + "Z"


@lru_cache(maxsize=65_536)
def _seconds(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _NEVER
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def epoch_seconds(text: Json) -> float:
    """Convert a timestamp to epoch seconds; infinity if there is none, because nulls sort last, as in PostgreSQL."""
    return _seconds(text) if isinstance(text, str) else _NEVER


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
        topic = choose_topic(random, context.revision)
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
            "input": run_input(random, context.plan.inputs, execution.topic) if random.random() < 0.97 else None,
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


@dataclass(slots=True)
class PlannedEnd:
    """How an open run will end: the fields that it will get, and when (epoch ms)."""

    fields: dict[str, Json]
    due_ms: int


def reopen(run: dict[str, Json], due_ms: int, *, steps: int | None) -> PlannedEnd:
    """Turn an ended run into an open one that will end the same way.

    Args:
        run: the document, whose `output` is an object.
        due_ms: when it will end, epoch ms.
        steps: number of steps that have started, the last one unfinished; None if the run is pending.

    Returns:
        The planned end, for `end`.
    """
    ending = PlannedEnd({key: run[key] for key in EXECUTION_FIELDS if key in run}, due_ms)
    run.pop("result", None)
    run.pop("error", None)
    run["ended_at"] = None
    if steps is None:
        run |= {"status": "PENDING", "started_at": None, "output": {}, "usage": None, "updated_at": run["created_at"]}
        return ending
    begun = dict(list(run["output"].items())[:steps])
    if begun:
        last = next(reversed(begun))
        begun[last] = {
            key: value for key, value in begun[last].items() if key not in {"end", "error", "output", "calls"}
        } | {"status": "RUNNING"}
        charged = {key: usage for key, usage in run["usage"]["steps"].items() if key in begun and key != last}
        run["usage"] = {"total": sum(usage["total"] for usage in charged.values()), "steps": charged}
        run["updated_at"] = iso(begun[last]["start"])
    else:
        run |= {"usage": None, "updated_at": run["started_at"]}
    run |= {"status": "RUNNING", "output": begun}
    return ending


def end(run: dict[str, Json], ending: PlannedEnd | None, at_ms: int) -> None:
    """End an open run at a moment (epoch ms), as planned, or as COMPLETED if nothing is planned."""
    run |= ending.fields if ending else {"status": "COMPLETED"}
    if run.get("started_at") is None and run["status"] != "SKIPPED":
        run["started_at"] = run["created_at"]
    steps = run.get("output")
    if ending and isinstance(steps, dict) and steps:
        last = next(reversed(steps))
        run["output"] = steps | {last: steps[last] | {"end": at_ms}}
    run |= {"ended_at": iso(at_ms), "updated_at": iso(at_ms)}
    if run.get("retention"):
        run["retention_due_at"] = retention_due(run)


def retention_due(run: dict[str, Json]) -> str | None:
    """Return the API's timestamp at which `retention` removes the run; None if it is kept forever."""
    age = run["retention"]["max_age_in_seconds"]
    keeps = run["retention"].get("preserve_on_failure", False) and run["status"] == "FAILED"
    created_s = epoch_seconds(run["created_at"])
    return None if keeps or age < 0 or created_s == float("inf") else iso(1000 * (created_s + age))


def is_due(run: dict[str, Json], now_ms: int) -> bool:
    """Return whether the run is due for removal."""
    due = run.get("retention_due_at")
    return isinstance(due, str) and epoch_seconds(due) * 1000 <= now_ms


def remove_payloads(run: dict[str, Json], at_ms: int) -> None:
    """Remove the payloads of a run, as an API does that keeps the bare run after its due date."""
    run.pop("result", None)
    run |= {"input": None, "output": None, "updated_at": iso(at_ms)}
