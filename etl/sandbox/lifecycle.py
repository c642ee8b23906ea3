"""Changes of a run document over its lifetime, in place: reopening, ending, retention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from etl.sandbox.list_order import epoch_seconds
from etl.sandbox.run_documents import iso

Json = Any
EXECUTION_FIELDS: Final = ("output", "status", "usage", "result", "error", "started_at", "ended_at")
"""The fields of a run that are set by one execution."""


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
