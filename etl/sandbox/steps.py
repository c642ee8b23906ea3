"""Execution of the steps of a run, until one fails: their times, their usage, and outputs of very different sizes."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from etl.sandbox.samples import CUSTOMERS, FAILURES, LANGUAGES, LOG_LINES, MODELS, SENTENCES, SUBJECTS, URLS

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from etl.sandbox.blueprints import StepPlan

Json = Any

_SERVICE_OUTPUTS: Final = {
    "slack": {"ok": True, "channel": "C024BE91L", "ts": "1729765200.000200"},
    "gmail": {"id": "18c2f0a1b2c3d4e5", "threadId": "18c2f0a1b2c3d4e5", "labelIds": ["SENT"]},
    "google_sheets": {"updatedRange": "Ledger!A117:F117", "updatedRows": 1},
    "hubspot": {"vid": 3234574, "isNew": False, "properties": {"lifecyclestage": "lead"}},
    "snowflake": {"rows_inserted": 214},
    "linear": {"issues": [{"id": "ENG-214", "title": "Call the carrier"}, {"id": "ENG-215", "title": "Refund"}]},
    "intercom": {"type": "conversation", "id": "215474", "state": "open"},
}
_HEADERS: Final = {
    "content-type": "application/json; charset=utf-8",
    "server": "nginx",
    "x-request-id": "b7f3c2d1",
    "cache-control": "max-age=0, private, must-revalidate",
}
_BIG_CHANCE: Final = 0.004
_HUGE_CHANCE: Final = 0.0004


def new_id(random: Random) -> str:
    """Generate a random id in the style of nanoid, 20 URL-safe characters."""
    return base64.urlsafe_b64encode(random.getrandbits(120).to_bytes(15, "big")).decode()


def random_duration_ms(random: Random, median_s: float) -> int:
    """Draw a duration in ms around `median_s` seconds, with a long tail."""
    tail = 12.0 if random.random() < 0.015 else 1.0
    return max(1, int(1000 * median_s * tail * math.exp(random.gauss(0.0, 0.55))))


def model_of(step_key: str, revision: int) -> tuple[str, str, float]:
    """Return the provider, model and median credits per call of a model step, at a revision of its workflow."""
    return MODELS[(sum(map(ord, step_key)) + revision // 2) % len(MODELS)]


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
                step["output"] = step_output(random, plan, self.topic)
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
                call["output"] = step_output(random, plan, self.topic)
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


def price(random: Random, median: float) -> float:
    """Draw the credits of one call around `median`, with a long tail and fractional digits."""
    return round(median * math.exp(random.gauss(0.0, 0.6)), random.choice((5, 6, 8)))


def step_usage(random: Random, call_id: str, median: float, calls: int) -> dict[str, Json]:
    """Generate the Usage of a step: one call per execution, most of them with their parts."""
    made: list[Json] = []
    for index in range(calls):
        parts = [price(random, median), price(random, median / 3)]
        call: dict[str, Json] = {"id": f"{call_id}-{index}", "total": sum(parts)}
        if random.random() < 0.6:
            call["calls"] = [{"total": part} for part in parts]
        made.append(call)
    total = sum(call["total"] for call in made)
    return {"total": total, "calls": made} if random.random() < 0.95 else {"total": total}


def run_usage(steps: dict[str, dict[str, Json]], ids: dict[str, str]) -> dict[str, Json]:
    """Combine the usages of steps to a RunUsage; `ids` are the ids of the steps' calls in the run's own tree."""
    made: dict[str, Json] = {"total": sum(step["total"] for step in steps.values())}
    charged = [key for key, step in steps.items() if step["total"]]
    if charged:
        made["calls"] = [
            {"id": ids[key], "total": steps[key]["total"], "calls": [{"total": steps[key]["total"]}]} for key in charged
        ]
    return made | {"steps": steps}


@dataclass(frozen=True, slots=True)
class Topic:
    """The topic that the payloads of one run share. `revision` is the workflow's."""

    customer: str
    subject: str
    revision: int


def choose_topic(random: Random, revision: int) -> Topic:
    """Choose a topic."""
    return Topic(random.choice(CUSTOMERS), random.choice(SUBJECTS), revision)


def prose(random: Random, sentences: int) -> str:
    """Generate text."""
    return " ".join(random.choices(SENTENCES, k=sentences))


def run_input(random: Random, names: tuple[str, ...], topic: Topic) -> dict[str, Json]:
    """Generate the input object of a run from the names of its workflow's inputs."""
    made: dict[str, Json] = {}
    for name in names:
        if name == "text":
            made[name] = f"{topic.subject}\n\n{prose(random, 2)}"
        elif name == "customer":
            made[name] = {"name": topic.customer, "id": random.randrange(10_000, 99_999), "vip": random.random() < 0.1}
        elif name.endswith("s"):
            made[name] = [f"{name[:-1]}-{random.randrange(1000)}" for _ in range(random.randint(1, 4))]
        else:
            made[name] = f"{name} of {topic.customer}"
    return made


def step_output(random: Random, plan: StepPlan, topic: Topic) -> Json:
    """Generate the output of one execution of a step (workflow steps output the run that they started instead)."""
    make = _MAKERS.get(plan.type)
    return None if make is None else make(random, plan, topic)


def _model(random: Random, plan: StepPlan, topic: Topic) -> Json:
    provider, model, _ = model_of(plan.key, topic.revision)
    made: dict[str, Json] = {"provider": provider, "model": model, "connection_type": "managed"}
    if random.random() < 0.15:
        made |= {"connection_id": "con_7Hs2", "connection_type": "own"}
    if random.random() < 0.004:
        made["refusal"] = "I can't help with that."
        return made
    text = prose(random, random.randint(2, 6))
    made["message"] = {"label": random.choice(("billing", "urgent", "hot", "yes", "other")), "text": text}
    if plan.key in {"agent", "welcome", "translate"}:
        made["message"] = random.choice(LANGUAGES)[1] if plan.key == "translate" else text
    if random.random() < 0.5:
        usage = {"prompt_tokens": random.randrange(200, 9000), "completion_tokens": random.randrange(20, 900)}
        made["raw"] = {"id": f"chatcmpl-{random.getrandbits(80):020x}", "object": "chat.completion", "usage": usage}
    return made


def _http(random: Random, plan: StepPlan, topic: Topic) -> Json:
    body: Json = {
        "id": random.randrange(10**6, 10**7),
        "customer": topic.customer,
        "url": random.choice(URLS),
        "events": [
            {"at": "2026-10-12T09:00:00Z", "kind": random.choice(("order", "refund", "visit")), "amount": amount / 100}
            for amount in random.choices(range(100, 99_999), k=_size(random, 5))
        ],
    }
    if random.random() < 0.05:
        body = "<html><body>moved</body></html>"
    return {
        "ok": True,
        "status": 201 if plan.config.get("method") == "POST" else 200,
        "headers": _HEADERS,
        "body": body,
    }


def _browser(random: Random, _plan: StepPlan, topic: Topic) -> Json:
    text = f"{topic.customer} · €{random.randrange(100, 1999)}.99 · " + prose(random, _size(random, 8))
    return {"ok": True, "status": 200, "headers": {"content-type": "text/html"}, "body": f"<main>{text}</main>"}


def _code(random: Random, _plan: StepPlan, topic: Topic) -> Json:
    kind = random.random()
    if kind < 0.12:
        return random.randrange(10**5) / 100
    if kind < 0.2:
        return prose(random, 1)
    if kind < 0.24:
        return None
    rows = [
        {"n": index, "sku": f"SKU-{random.randrange(10**4):04d}", "amount": random.randrange(10**6) / 1000, "ok": True}
        for index in range(_size(random, 6))
    ]
    return {"customer": topic.customer, "rows": rows, "ratio": random.random(), "empty": {}, "none": None}


def _branch(random: Random, plan: StepPlan, _topic: Topic) -> Json:
    taken = random.choice([*plan.config["conditions"], None])
    return {name: name == taken for name in plan.config["conditions"]} | {"else": taken is None}


def _service(_random: Random, plan: StepPlan, _topic: Topic) -> Json:
    return _SERVICE_OUTPUTS[plan.config["service"]["type"]]


def _intake(_random: Random, _plan: StepPlan, topic: Topic) -> Json:
    return {"text": topic.subject, "received_at": "2026-10-12T09:00:00Z"}


def _size(random: Random, usual: int) -> int:
    """Choose the number of parts of a payload: about `usual`, sometimes hundreds, rarely thousands."""
    chance = random.random()
    if chance < _HUGE_CHANCE:
        return usual * 700
    if chance < _BIG_CHANCE:
        return usual * 60
    return 1 + int(chance * usual * 2)


_MAKERS: Final = {
    "model": _model,
    "http_request": _http,
    "browser": _browser,
    "code": _code,
    "branch": _branch,
    "service": _service,
    "input": _intake,
}
