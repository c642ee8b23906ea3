"""Which steps a run has, and the key that each is known by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from etl.decode import Json, clean_text
from etl.errors import RecordError
from etl.models import describe

if TYPE_CHECKING:
    from collections.abc import Container, Iterator


@dataclass(frozen=True, slots=True)
class StepKey:
    """A step of a run: `step_key` as in the tables, `key` as the payload has it (cleaned)."""

    step_key: str
    key: str


def settle_step_keys(run: dict[str, Json]) -> list[StepKey]:
    """Give each step of a run, as parsed and not yet cleaned, its one key; in the order of the ordinals.

    `output` and `usage.steps` are replaced in place by maps from those keys; the older array form of `output` becomes
    a map as well. Where two keys are equal, or become so by the cleaning, the second one is `key#2`, and so on. What
    is neither a map nor a list stays, for the validation to refuse.

    Raises:
        RecordError: `invalid_field` where an item of the array form has no key.
    """
    usage = run.get("usage")
    usage_steps = usage.get("steps") if isinstance(usage, dict) else None
    keys = _Keys()
    if _has_calls(usage) and isinstance(usage_steps, dict) and _has_calls(usage_steps.get("")):
        keys.taken.add("")  # both trees would stand under the key '', which is the run's own
    output = run.get("output")
    if isinstance(output, dict | list):
        run["output"] = {keys.give(raw_key): value for raw_key, value in _entries(output)}
    if isinstance(usage, dict) and isinstance(usage_steps, dict):
        usage["steps"] = {keys.find(raw_key): value for raw_key, value in usage_steps.items()}
    return keys.steps


def free_key(key: str, taken: Container[str]) -> str:
    """`key`, or where that is taken the first of `key#2`, `key#3` and so on that is not."""
    free, number = key, 2
    while free in taken:
        free = f"{key}#{number}"
        number += 1
    return free


class _Keys:
    def __init__(self) -> None:
        self.steps: list[StepKey] = []
        self.taken: set[str] = set()
        self._by_raw_key: dict[str, str] = {}

    def give(self, raw_key: str) -> str:
        """A key of its own for one more step."""
        key = clean_text(raw_key)
        step_key = free_key(key, self.taken)
        self.taken.add(step_key)
        self.steps.append(StepKey(step_key, key))
        self._by_raw_key.setdefault(raw_key, step_key)
        return step_key

    def find(self, raw_key: str) -> str:
        """The key of the step that the payload calls `raw_key`, which may be a new one."""
        return self._by_raw_key[raw_key] if raw_key in self._by_raw_key else self.give(raw_key)


def _entries(output: Json) -> Iterator[tuple[str, Json]]:
    if isinstance(output, dict):
        yield from output.items()
        return
    for place, item in enumerate(output):
        key = item.get("key") if isinstance(item, dict) else None
        if not isinstance(key, str):
            found = describe(item.get("key") if isinstance(item, dict) else item)
            raise RecordError("invalid_field", f"output.{place}.key: expected text, found {found}")
        yield key, item


def _has_calls(usage: Json) -> bool:
    return isinstance(usage, dict) and bool(usage.get("calls"))
