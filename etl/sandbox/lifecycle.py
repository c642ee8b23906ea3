"""What happens to one run document after it was asked for: it is open, ends, is emptied, is due. In place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from etl.sandbox.listing import instant
from etl.sandbox.runs import iso

Json = Any
STORY_FIELDS: Final = ("output", "status", "usage", "result", "error", "started_at", "ended_at")
"""The fields of a run that one execution decides on."""


@dataclass(slots=True)
class Ending:
    """How an open run will end: the fields that it gets then, and when that is due (epoch ms)."""

    fields: dict[str, Json]
    due_ms: int


def open_up(run: dict[str, Json], due_ms: int, *, steps: int | None) -> Ending:
    """Turn an ended run into an open one that will end just so.

    Args:
        run: the document, whose `output` is an object.
        due_ms: when it will end, epoch ms.
        steps: how many of its steps have begun, the last of them unfinished; None where the run has not started.

    Returns:
        The ending, for `end`.
    """
    ending = Ending({key: run[key] for key in STORY_FIELDS if key in run}, due_ms)
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


def end(run: dict[str, Json], ending: Ending | None, at_ms: int) -> None:
    """End an open run at a moment (epoch ms), as its ending says, or else well."""
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
    """When a run is due for removal by its `retention`, as the API's timestamp; None where it is kept for good."""
    age = run["retention"]["max_age_in_seconds"]
    keeps = run["retention"].get("preserve_on_failure", False) and run["status"] == "FAILED"
    created_s = instant(run["created_at"])
    return None if keeps or age < 0 or created_s == float("inf") else iso(1000 * (created_s + age))


def is_due(run: dict[str, Json], now_ms: int) -> bool:
    """Whether retention removes the run by now."""
    due = run.get("retention_due_at")
    return isinstance(due, str) and instant(due) * 1000 <= now_ms


def empty(run: dict[str, Json], at_ms: int) -> None:
    """Remove the payloads of a run, as an API may do that keeps the bare run after its due date."""
    run.pop("result", None)
    run |= {"input": None, "output": None, "updated_at": iso(at_ms)}
