"""Unique keys for the steps of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.decode import Json, clean_text

if TYPE_CHECKING:
    from collections.abc import Iterable


class StepKeys:
    """Gives each step of a run a unique key.

    If keys are equal, or become equal by cleaning, the second one becomes `key#2`, and so on.

    Args:
        taken: keys that must not be used.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._by_payload_key: dict[str, str] = {}

    def of_output(self, key: str) -> str:
        """Return the key of the next step in `output`, whose key in the payload is `key`."""
        clean = step_key = clean_text(key)
        number = 2
        while step_key in self._taken:
            step_key = f"{clean}#{number}"
            number += 1
        self._taken.add(step_key)
        self._by_payload_key.setdefault(key, step_key)
        return step_key

    def of_usage(self, key: str) -> str:
        """Return the key of a step in `usage.steps`, which is a new one if `output` has no such step."""
        known = self._by_payload_key.get(key)
        return self.of_output(key) if known is None else known


def keep_apart(run: dict[str, Json]) -> None:
    """Rename the steps of a parsed run whose keys would become equal by cleaning."""
    usage, output = run.get("usage"), run.get("output")
    credited = usage.get("steps") if isinstance(usage, dict) else None
    keys = StepKeys()
    if isinstance(output, dict):
        run["output"] = {keys.of_output(key): _without_key(step, key) for key, step in output.items()}
    for step in output if isinstance(output, list) else ():
        if isinstance(step, dict) and isinstance(step.get("key"), str):
            step["key"] = keys.of_output(step["key"])
    if isinstance(usage, dict) and isinstance(credited, dict):
        usage["steps"] = {keys.of_usage(key): credit for key, credit in credited.items()}


def _without_key(step: Json, key: str) -> Json:
    """Return a step without the field that repeats its key."""
    if isinstance(step, dict) and isinstance(step.get("key"), str) and clean_text(step["key"]) == clean_text(key):
        del step["key"]
    return step
