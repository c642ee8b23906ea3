"""Outputs of steps by type: realistic payloads of very different sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from etl.sandbox.samples import CUSTOMERS, LANGUAGES, SENTENCES, SUBJECTS, URLS
from etl.sandbox.versions import model_of

if TYPE_CHECKING:
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


def output(random: Random, plan: StepPlan, topic: Topic) -> Json:
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
