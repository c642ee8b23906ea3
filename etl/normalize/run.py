"""The documents of a run in the API, and the preparation of unusual runs for normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from etl.decode.json_text import UNREADABLE, Json, clean_json, clean_text, dump, needs_cleaning, parse
from etl.errors import RecordError
from etl.normalize.documents import Document, Each, fields_at
from etl.normalize.fitting import FITTERS, JSON, describe, refuse
from etl.tables import RUN_STEP_CALLS, RUN_STEPS, RUN_USAGE_CALLS, RUNS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from etl.tables import Table

_WHITE_SPACE: Final = b" \t\n\r"


class _Calls:
    """The field `calls` of a usage: a tree of any depth, read node by node if it cannot be decoded in one call."""

    decoded: Final = "list[UsageCall] | None"
    default: Final = None

    def read(self, raw: Raw, place: str, *, check: bool) -> Any:
        if not check:
            try:
                return _USAGE_CALLS.decode(raw)
            except UNREADABLE:
                pass
        root: Any = USAGE_CALL.struct()
        pending = [(root, parse(bytes(raw)), place)]
        while pending:
            parent, calls, at = pending.pop()
            if calls is None:
                continue
            if not isinstance(calls, list):
                refuse(at, "an array", calls)
            parent.calls = []
            for ordinal, call in enumerate(calls):
                if not isinstance(call, dict):
                    refuse(f"{at}.{ordinal}", "an object", call)
                below = call.pop("calls", None)
                members = {field: Raw(dump(value)) for field, value in call.items()}
                node = USAGE_CALL.fill(members, f"{at}.{ordinal}", check=True)
                parent.calls.append(node)
                pending.append((node, below, f"{at}.{ordinal}"))
        return root.calls


# `etl.tables` defines the scalar fields.
_CALLS: Final = {"calls": _Calls()}
USAGE_CALL: Final = Document("UsageCall", fields_at(RUN_USAGE_CALLS, "usage.calls[*]"), _CALLS, module=__name__)
UsageCall = USAGE_CALL.struct
_USAGE_CALLS: Final = msgspec.json.Decoder(list[UsageCall] | None)  # type: ignore[valid-type]
STEP_USAGE: Final = Document("StepUsage", fields_at(RUN_STEPS, "usage.steps.*"), _CALLS, module=__name__)
RUN_USAGE: Final = Document(
    "RunUsage", fields_at(RUNS, "usage"), {**_CALLS, "steps": Each(STEP_USAGE, keyed=True)}, module=__name__
)
RETENTION: Final = Document("Retention", fields_at(RUNS, "retention"))
CALL: Final = Document("StepCall", fields_at(RUN_STEP_CALLS, "output.*.calls[*]"))
STEP: Final = Document(
    "Step", fields_at(RUN_STEPS, "output.*"), {"key": FITTERS["text"], "calls": Each(CALL, listed=True)}
)
RUN: Final = Document(
    "Run",
    fields_at(RUNS, ""),
    {
        "workflow_version": JSON,
        "workflow_version_draft": JSON,
        "output": Each(STEP, keyed=True, listed=True),  # an array in an older format of the API
        "usage": RUN_USAGE,
        "retention": RETENTION,
    },
)


def _outputs(table: Table) -> dict[str, Document]:
    """Return the document of an output, with the fields that have columns, by the type of the step or call."""
    columns = [column for column in table.columns if column.step_types]
    return {
        step_type: Document(
            f"{step_type}_output",
            columns,
            known=[column.field for column in columns if step_type in column.step_types],
            strict=False,
        )
        for step_type in {each for column in columns for each in column.step_types}
    }


STEP_OUTPUTS: Final = _outputs(RUN_STEPS)
CALL_OUTPUTS: Final = _outputs(RUN_STEP_CALLS)


def parse_object(raw: bytes) -> dict[str, Json]:
    """Parse the bytes of an item.

    Raises:
        RecordError: `invalid_json`, or `not_an_object`.
    """
    document = parse(raw)
    if not isinstance(document, dict):
        raise RecordError("not_an_object", f"expected an object, got {describe(document)}")
    return document


def cleaned(raw: bytes) -> bytes:
    """Return the bytes of a run with characters replaced that PostgreSQL cannot store.

    Raises:
        RecordError: see `parse_object`.
    """
    if needs_cleaning(raw):
        document = parse_object(raw)
        _make_keys_unique(document)
        return clean_json(dump(document))
    if not raw.lstrip(_WHITE_SPACE).startswith(b"{"):
        parse_object(raw)
    return raw


def gather_extra(run: Any) -> None:
    """Move the unknown fields of nested objects without an `extra` column to the run's `extra`, under their paths."""
    extra: dict[str, Any] = run.extra or {}
    if run.retention is not None and run.retention.extra:
        extra["retention"] = run.retention.extra
    if run.usage is not None:
        of_usage = _extra_of_usage(run.usage)
        of_steps = {key: _extra_of_usage(used) for key, used in (run.usage.steps or {}).items() if used is not None}
        if of_steps := {key: each for key, each in of_steps.items() if each}:
            of_usage["steps"] = of_steps
        if of_usage:
            extra["usage"] = of_usage
    run.extra = extra


def _extra_of_usage(usage: Any) -> dict[str, Any]:
    """Return the unknown fields of a usage, and those of the nodes of its tree by path."""
    extra: dict[str, Any] = dict(usage.extra or {})
    pending = [(node, str(ordinal)) for ordinal, node in enumerate(usage.calls or ())]
    while pending:
        node, path = pending.pop()
        if node.extra:
            extra.setdefault("calls", {})[path] = node.extra
        pending += [(child, f"{path}.{ordinal}") for ordinal, child in enumerate(node.calls or ())]
    return extra


# The keys of steps


class _StepKeys:
    """Assigns a unique key to each step of a run.

    If keys are equal, or become equal when they are cleaned, the second one becomes `key#2`, and so on.
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
        """Return the key of a step in `usage.steps`; assign one if `output` has no such step."""
        known = self._by_payload_key.get(key)
        return self.of_output(key) if known is None else known


def steps_of(run: Any, usage: Any) -> Iterable[tuple[str, str, Any, Any]]:
    """Return the steps of a run: (key in the tables, key in the payload, step, usage) of each."""
    output: Any = run.output or {}
    credited: dict[str, Any] = usage.steps or {}
    no_step, no_usage = STEP.empty, STEP_USAGE.empty
    if type(output) is dict and "" not in output and "" not in credited:
        steps = [(key, key, step or no_step, credited.get(key) or no_usage) for key, step in output.items()]
        return steps + [(key, key, no_step, used or no_usage) for key, used in credited.items() if key not in output]
    # The usage tree of the run itself has the step key ''. If a step with this key has a tree too, it gets another key.
    both = usage.calls and "" in credited and credited[""] and credited[""].calls
    keys = _StepKeys({""} if both else ())
    named = output.items() if type(output) is dict else [(step.key, step) for step in output]
    by_key = {}
    for ordinal, (key, step) in enumerate(named):
        if key is None:
            refuse(f"output.{ordinal}.key", "a string", None)
        by_key[keys.of_output(key)] = (key, step or no_step)
    used_by_key = {keys.of_usage(key): used for key, used in credited.items()}
    by_key |= {step_key: (step_key, no_step) for step_key in used_by_key if step_key not in by_key}
    return [(each, key, step, used_by_key.get(each) or no_usage) for each, (key, step) in by_key.items()]


def _make_keys_unique(run: dict[str, Json]) -> None:
    """Rename the steps of a parsed run whose keys would become equal when they are cleaned."""
    usage, output = run.get("usage"), run.get("output")
    credited = usage.get("steps") if isinstance(usage, dict) else None
    keys = _StepKeys()
    if isinstance(output, dict):
        run["output"] = {keys.of_output(key): _without_key(step, key) for key, step in output.items()}
    for step in output if isinstance(output, list) else ():
        if isinstance(step, dict) and isinstance(step.get("key"), str):
            step["key"] = keys.of_output(step["key"])
    if isinstance(usage, dict) and isinstance(credited, dict):
        usage["steps"] = {keys.of_usage(key): credit for key, credit in credited.items()}


def _without_key(step: Json, key: str) -> Json:
    """Remove the field of a step that repeats its key; return the step."""
    if isinstance(step, dict) and isinstance(step.get("key"), str) and clean_text(step["key"]) == clean_text(key):
        del step["key"]
    return step
