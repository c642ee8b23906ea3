"""Facts about runs, computed from the JSON of the simulated API, to check the views.

This module shares no code with the loader and the views.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

from etl.sandbox import World
from etl.sandbox.responses import encode

Json = Any
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "SKIPPED"}
NEVER = datetime.max.replace(tzinfo=UTC)


def moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def total(values: Iterable[Any]) -> Any:
    """Return the sum of the values that are not None; None if there are none."""
    known = [each for each in values if each is not None]
    return sum(known[1:], known[0]) if known else None


def percentile(values: Iterable[float | None], share: float) -> float | None:
    ordered = sorted(each for each in values if each is not None)
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


class ServedRun:
    """A run. `parent` is the run for which it counts, `children` the runs that count for each step."""

    def __init__(self, document: Json) -> None:
        self.document = document
        self.id, self.workflow = document["id"], document["workflow_id"]
        self.status, self.origin = document["status"], document["origin"]
        self.app = document.get("workflow_app_id") or document.get("app_id")
        self.created, self.started = moment(document.get("created_at")), moment(document.get("started_at"))
        self.ended = moment(document.get("ended_at"))
        self.parent: ServedRun | None = None
        self.children: defaultdict[str, list[ServedRun]] = defaultdict(list)

    @property
    def day(self) -> date | None:
        return self.created.date() if self.created else None

    @property
    def duration_s(self) -> float | None:
        return (self.ended - self.started).total_seconds() if self.ended and self.started else None

    @property
    def failed_at(self) -> datetime | None:
        return self.ended or moment(self.document.get("updated_at")) or self.created

    @cached_property
    def steps(self) -> dict[str, Json]:
        """The steps by key; None for a step that is only in the usage."""
        output = self.document.get("output") or {}
        found: dict[str, Json] = {}
        for key, step in output.items() if isinstance(output, dict) else ((each["key"], each) for each in output):
            name, number = key, 1
            while name in found:
                number += 1
                name = f"{key}#{number}"
            found[name] = step
        return found | {key: None for key in (self.document.get("usage") or {}).get("steps") or {} if key not in found}

    @property
    def credits_with_children(self) -> Decimal | None:
        return _credits(self.document.get("usage"))

    def step_credits_with_children(self, key: str) -> Decimal | None:
        return _credits(((self.document.get("usage") or {}).get("steps") or {}).get(key))

    def step_credits(self, key: str) -> Decimal | None:
        """Return the own credits of a step: its credits minus the smaller of its credits and those of its children."""
        cost = self.step_credits_with_children(key)
        children = total(each.credits_with_children for each in self.children[key])
        return cost if cost is None or children is None else cost - min(cost, children)

    @property
    def credits(self) -> Decimal | None:
        if self.credits_with_children is None:
            return None
        steps = [(self.step_credits_with_children(key), self.step_credits(key)) for key in self.steps]
        return self.credits_with_children - sum(a - b for a, b in steps if a is not None and b is not None)

    def model_calls(self, key: str) -> list[tuple[Json, Json, int | None, int | None, bool]]:
        """Return (provider, model, input tokens, output tokens, failed) of the step, or of its calls if it looped."""
        step = self.steps[key]
        if step is None:
            return []
        used = step.get("calls") or [] if isinstance(step.get("output"), list) else [step]
        calls = [each for each in used if (each.get("type") or step.get("type")) == "model"]
        outputs = [each["output"] if isinstance(each.get("output"), dict) else {} for each in calls]
        return [
            (output.get("provider"), output.get("model"), *_tokens(output.get("raw")), call["status"] == "FAILED")
            for call, output in zip(calls, outputs, strict=True)
        ]

    @property
    def tokens(self) -> tuple[int | None, int | None]:
        calls = [call for key in self.steps for call in self.model_calls(key)]
        return total(each[2] for each in calls), total(each[3] for each in calls)

    @property
    def first_failed_step(self) -> tuple[str | None, Json]:
        failed = [(key, step) for key, step in self.steps.items() if step and step.get("status") == "FAILED"]
        failed.sort(key=lambda each: (each[1].get("start") is None, each[1].get("start") or 0))
        return failed[0] if failed else (None, {})

    @property
    def message(self) -> str | None:
        """The normalized error message."""
        error = self.document.get("error")
        error = self.first_failed_step[1].get("error") if error is None else error
        if error is None:
            return None
        error = re.sub(r"\"[^\"]*\"|`[^`]*`|(?<!\w)'[^']*'(?!\w)", "'…'", error)
        uuid = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
        error = re.sub(rf"\b({uuid}|[0-9a-fA-F]{{8,}}|(?=\w*[A-Za-z])(?=\w*[0-9])\w{{8,}})\b", "<id>", error)
        error = re.sub(r"[0-9]+(\.[0-9]+)?", "<n>", error)
        return re.sub(r"\s+", " ", error).strip()[:200]


def step_duration_s(step: Json) -> float | None:
    if not step or step.get("start") is None or step.get("end") is None:
        return None
    return float(step["end"] - step["start"]) / 1000


def served_runs(world: World) -> list[ServedRun]:
    """Read all runs that the API lists, and determine the parent of each."""
    documents = [
        json.loads(world.raw.get(run["id"]) or encode(run), parse_float=Decimal)
        for runs in world.runs.values()
        for run in runs.values()
    ]
    found = {document["id"]: ServedRun(document) for document in documents}
    for parent in sorted(found.values(), key=lambda each: (each.created or NEVER, each.id)):
        for key, step in parent.steps.items():
            for child_id in _started_by(step):
                child = found.get(child_id)
                if child and child.parent is None and child is not parent:
                    child.parent = parent
                    parent.children[key].append(child)
    return list(found.values())


def _started_by(step: Json) -> list[str]:
    if step is None:
        return []
    output = step.get("output")
    outputs = [
        *(output if isinstance(output, list) else [output]),
        *(each.get("output") for each in step.get("calls") or []),
    ]
    named = [each["run_id"] for each in outputs if isinstance(each, dict) and isinstance(each.get("run_id"), str)]
    return list(dict.fromkeys(named))


def _credits(usage: Json) -> Decimal | None:
    found = (usage or {}).get("total")
    return None if found is None else Decimal(found)


def _tokens(raw: Json) -> tuple[int | None, int | None]:
    if not isinstance(raw, dict):
        return None, None
    usage, metadata = (raw.get(name) or {} for name in ("usage", "usageMetadata"))
    counts = (
        (usage.get("prompt_tokens"), usage.get("input_tokens"), metadata.get("promptTokenCount")),
        (usage.get("completion_tokens"), usage.get("output_tokens"), metadata.get("candidatesTokenCount")),
    )
    first, second = (next((each for each in names if each is not None), None) for names in counts)
    return first, second
