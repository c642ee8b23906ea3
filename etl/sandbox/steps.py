"""Execution of the steps of a run: outputs, times and usage, until one fails."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from etl.sandbox import step_outputs
from etl.sandbox.samples import FAILURES, LOG_LINES
from etl.sandbox.usage import step_usage
from etl.sandbox.versions import model_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from etl.sandbox.blueprints import StepPlan
    from etl.sandbox.step_outputs import Topic

Json = Any


def new_id(random: Random) -> str:
    """Generate a random id in the style of nanoid, 20 URL-safe characters."""
    return base64.urlsafe_b64encode(random.getrandbits(120).to_bytes(15, "big")).decode()


def random_duration_ms(random: Random, median_s: float) -> int:
    """Draw a duration in ms around `median_s` seconds, with a long tail."""
    tail = 12.0 if random.random() < 0.015 else 1.0
    return max(1, int(1000 * median_s * tail * math.exp(random.gauss(0.0, 0.55))))


@dataclass(frozen=True, slots=True)
class GeneratedRun:
    """The document of an ended run, and when it was created and ended (epoch ms)."""

    document: dict[str, Json]
    created_ms: int
    ended_ms: int


@dataclass(slots=True)
class Execution:
    """The execution of one run, step by step.

    `spawn` starts the child run of a workflow step at a moment (epoch ms); it returns None if the limit is
    reached. `now_ms` is the current time of the execution, `output` and `usage` are the documents so far, by step key,
    `call_ids` are the ids of the steps' calls in the run's usage tree.
    """

    random: Random
    topic: Topic
    spawn: Callable[[int], GeneratedRun | None]
    now_ms: int
    status: str = "COMPLETED"
    error: str | None = None
    output: dict[str, Json] = field(default_factory=dict)
    usage: dict[str, dict[str, Json]] = field(default_factory=dict)
    call_ids: dict[str, str] = field(default_factory=dict)

    def run_steps(self, plans: tuple[StepPlan, ...], stop_after: int | None) -> None:
        """Execute the steps; cancel before the one at index `stop_after`, if given."""
        skipped: set[str] = set()
        for index, plan in enumerate(plans):
            if plan.type == "note":
                if self.random.random() < 0.3:
                    self.output[plan.key] = self._idle(plan, "COMPLETED") | {"end": self.now_ms}
                continue
            if index == stop_after:
                self.status = "CANCELLED"
                return
            if plan.key in skipped:
                self.output[plan.key] = self._idle(plan, "SKIPPED")
                continue
            self._step(plan)
            if self.status == "FAILED":
                return
            if plan.type == "branch":
                skipped = _not_taken(plan, self.output[plan.key]["output"])

    def _idle(self, plan: StepPlan, status: str) -> dict[str, Json]:
        return {"status": status, "type": plan.type, "key": plan.key, "start": self.now_ms}

    def _step(self, plan: StepPlan) -> None:
        random = self.random
        step: dict[str, Json] = self._idle(plan, "COMPLETED")
        executions = 1
        if plan.loop is not None:
            executions = self._loop(plan, step)
        elif plan.type == "workflow":
            step["output"] = self._child()
        else:
            self.now_ms += random_duration_ms(random, plan.seconds)
            if random.random() < plan.fails:
                self._fail(plan, step)
            else:
                step["output"] = step_outputs.output(random, plan, self.topic)
        if plan.tools and self.status != "FAILED":
            executions += self._tool_calls(plan, step)
        self._log(step)
        step["end"] = self.now_ms + 0.5 if random.random() < 0.02 else self.now_ms
        self.output[plan.key] = step
        self._charge(plan, step, executions)

    def _log(self, step: dict[str, Json]) -> None:
        chance = self.random.random()
        if chance < 0.25:
            step["logs"] = [{"level": "info", "message": self.random.choice(LOG_LINES), "at": step["start"]}]
        elif chance < 0.45 and step["type"] == "code":
            step["logs"] = self.random.choices(LOG_LINES, k=3)
        elif chance < 0.7:
            step["logs"] = []

    def _fail(self, plan: StepPlan, step: dict[str, Json]) -> None:
        message = self.random.choice(FAILURES[plan.type])
        step |= {"status": "FAILED", "error": message}
        if plan.type in {"http_request", "browser"}:
            code = self.random.choice((401, 404, 429, 500, 502))
            step["output"] = {"ok": False, "status": code, "headers": {}, "error": message}
        self.status, self.error = "FAILED", f"{plan.key}: {message}"

    def _loop(self, plan: StepPlan, step: dict[str, Json]) -> int:
        random = self.random
        calls: list[Json] = []
        made: list[Json] = []
        rounds = random.choice((0, 1, 2) if plan.type == "workflow" else (0, 1, 2, 2, 3, 3, 4, 6, 9))
        for index in range(rounds):
            call = self._idle(plan, "COMPLETED") | {"index": index}
            if random.random() < 0.8:
                call["id"] = new_id(random)
            if plan.type == "workflow":
                call["output"] = self._child()
            else:
                self.now_ms += random_duration_ms(random, plan.seconds)
                call["output"] = step_outputs.output(random, plan, self.topic)
            call["end"] = self.now_ms
            calls.append(call)
            made.append(call["output"])
            if random.random() < plan.fails / 3:
                call |= {"status": "FAILED", "error": random.choice(FAILURES[plan.type])}
                step |= {"status": "FAILED", "error": call["error"]}
                self.status, self.error = "FAILED", f"{plan.key}[{index}]: {call['error']}"
                break
        step |= {"output": made, "calls": calls}
        return len(calls)

    def _tool_calls(self, plan: StepPlan, step: dict[str, Json]) -> int:
        random = self.random
        calls: list[Json] = []
        for index in range(random.choice((0, 1, 1, 2, 3, 5))):
            call = self._idle(plan, "COMPLETED") | {"id": f"call_{random.getrandbits(64):016x}", "index": index}
            self.now_ms += random_duration_ms(random, 0.6)
            found = {"order": random.randrange(10**6), "state": random.choice(("shipped", "lost", "returned"))}
            call |= {
                "key": random.choice(plan.tools),
                "type": random.choice(("code", "http_request", "service")),
                "output": {"ok": True, "status": 200, "headers": {}, "body": found} if random.random() < 0.3 else found,
                "end": self.now_ms,
            }
            calls.append(call)
        if calls:
            asked = f'{{"customer": "{self.topic.customer}"}}'
            step["calls"] = calls
            step["output"] |= {
                "tool_calls": [{"id": call["id"], "name": call["key"], "arguments": asked} for call in calls],
                "tool_results": [{"id": call["id"], "output": call["output"]} for call in calls],
            }
        return len(calls)

    def _child(self) -> Json:
        child = self.spawn(self.now_ms)
        if child is None:
            self.now_ms += random_duration_ms(self.random, 1.0)
            return None
        run = child.document
        self.now_ms = child.ended_ms
        made = {"run_id": run["id"], "date": run["created_at"], "error": run.get("error")}
        made |= {key: run[key] for key in ("app_id", "workflow_id", "workflow_app_id", "status", "origin")}
        if "result" in run:
            made["result"] = run["result"]
        return made | {"usage": {"total": run["usage"]["total"]}}

    def _charge(self, plan: StepPlan, step: dict[str, Json], executions: int) -> None:
        call_id = new_id(self.random)
        if plan.type == "workflow":
            ran = step["output"] if isinstance(step["output"], list) else [step["output"]]
            calls = [{"id": run["run_id"], "total": run["usage"]["total"]} for run in ran if run is not None]
            usage = {"total": sum(call["total"] for call in calls), "calls": calls}
        elif plan.type == "model":
            usage = step_usage(self.random, call_id, model_of(plan.key, self.topic.revision)[2], executions)
        elif plan.type in {"browser", "service"}:
            usage = step_usage(self.random, call_id, 0.0012, executions)
        elif self.random.random() < 0.5:
            usage = {"total": 0}
        else:
            return
        self.usage[plan.key] = usage
        self.call_ids[plan.key] = call_id


def _not_taken(plan: StepPlan, output: dict[str, bool]) -> set[str]:
    every: set[str] = set(plan.config["else"])
    taken = set(plan.config["else"]) if output["else"] else set()
    for name, condition in plan.config["conditions"].items():
        every.update(condition["destinations"])
        if output[name]:
            taken.update(condition["destinations"])
    return every - taken
