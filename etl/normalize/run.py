"""The documents of a run in the API, the keys of its steps, and the runs that its steps started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import Raw

from etl.decode.json_text import Json, clean_text, dump, parse
from etl.normalize.documents import Document, Each, fields_at, items_of
from etl.normalize.fitting import FITTERS, JSON, NULL, Fitter, Part, refuse
from etl.tables import RUN_STEP_CALLS, RUN_STEPS, RUN_USAGE_CALLS, RUNS

if TYPE_CHECKING:
    from etl.normalize.rows import Row
    from etl.tables import Table


class _Calls(Part):
    """The field `calls` of a usage: a tree of any depth, read without recursion."""

    decoded: Any = "list[UsageCall] | None"  # by name, because its type contains it

    def _read(self, raw: bytes | Raw, place: str, *, at_once: bool) -> Any:
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
                node = USAGE_CALL.fill(members, f"{at}.{ordinal}", at_once=at_once)
                parent.calls.append(node)
                pending.append((node, below, f"{at}.{ordinal}"))
        return root.calls


def _fit_key(value: Json) -> str:
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 - see `Fitter`
    return value


_KEY: Final = Fitter("a string", str | None, fit=_fit_key, clean=False)  # `steps_of` cleans keys
_CALLS: Final = _Calls()
# `etl.tables` defines the scalar fields.
USAGE_CALL: Final = Document(
    "UsageCall", fields_at(RUN_USAGE_CALLS, "usage.calls[*]"), {"calls": _CALLS}, module=__name__
)
UsageCall = USAGE_CALL.struct
_CALLS.decoded = list[UsageCall] | None  # type: ignore[valid-type]
STEP_USAGE: Final = Document("StepUsage", fields_at(RUN_STEPS, "usage.steps.*"), {"calls": _CALLS})
RUN_USAGE: Final = Document(
    "RunUsage", fields_at(RUNS, "usage"), {"calls": _CALLS, "steps": Each(STEP_USAGE, keyed=True)}
)
RETENTION: Final = Document("Retention", fields_at(RUNS, "retention"))
CALL: Final = Document("StepCall", fields_at(RUN_STEP_CALLS, "output.*.calls[*]"))
STEP: Final = Document("Step", fields_at(RUN_STEPS, "output.*"), {"key": _KEY, "calls": Each(CALL, listed=True)})
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


def steps_of(run: Any, usage: Any) -> list[tuple[str, str, Any, Any]]:
    """Return the steps of a run: (key in the tables, key in the payload, step, usage) of each.

    If keys are equal, or become equal when they are cleaned, the second one becomes `key#2`, and so on.
    """
    output: Any = run.output or {}
    credited: dict[str, Any] = usage.steps or {}
    no_step, no_usage = STEP.empty, STEP_USAGE.empty
    is_plain = run.extra is None  # msgspec decodes no key that needs cleaning
    if is_plain and type(output) is dict and "" not in output and "" not in credited:
        steps = [(key, key, step or no_step, credited.get(key) or no_usage) for key, step in output.items()]
        return steps + [(key, key, no_step, used or no_usage) for key, used in credited.items() if key not in output]
    named = output.items() if type(output) is dict else [(step.key, step) for step in output]
    # The usage tree of the run itself has the step key ''. If a step with this key has a tree too, it gets another key.
    both = usage.calls and "" in credited and credited[""] and credited[""].calls
    taken = {""} if both else set()
    by_payload_key: dict[str, str] = {}

    def step_key_of(key: str) -> str:
        step_key = clean = clean_text(key)
        number = 2
        while step_key in taken:
            step_key = f"{clean}#{number}"
            number += 1
        taken.add(step_key)
        by_payload_key.setdefault(key, step_key)
        return step_key

    found: dict[str, tuple[str, Any, Any]] = {}
    for ordinal, (key, step) in enumerate(named):
        if key is None:
            refuse(f"output.{ordinal}.key", "a string", None)
        found[step_key_of(key)] = (key, step or no_step, no_usage)
    for key, used in credited.items():
        step_key = by_payload_key[key] if key in by_payload_key else step_key_of(key)
        _, step, _ = found.get(step_key, (key, no_step, no_usage))
        found[step_key] = (key, step, used or no_usage)
    return [(step_key, *each) for step_key, each in found.items()]


# The runs that steps started

_BRACE: Final = ord("{")
_BRACKET: Final = ord("[")
_FREE: Final = frozenset({b"null", b"0"})
_RUN_ID: Final = b'"run_id"'
_LONGEST: Final = 200  # characters of an id; longer text may not fit into an index
_STARTED: Final = Document("Started", (), {"run_id": FITTERS["text"], "workflow_id": JSON}, strict=False)


def child_rows(run_id: str, steps: list[tuple[str, str, Any, Any]]) -> list[Row]:
    """Return a row for each run that one of the steps started; `steps` are those of `steps_of`.

    The run ids are in the step's output, in its items if the step looped, and in the outputs of the step's calls. An
    output contains the id of a child run if the step or call has the type `workflow`. An output of another type does
    if it has both `run_id` and `workflow_id` and the step cost credits: it may mention any run by `run_id` alone.
    """
    rows: list[Row] = []
    for step_key, _, step, used in steps:
        kind, costs = step.type, bytes(used.total) not in _FREE
        found: list[str | None] = []
        # Searching an output for the field is much faster than decoding it, and most outputs do not have it.
        if (costs or kind == "workflow") and _RUN_ID in bytes(step.output):
            looped = memoryview(step.output)[0] == _BRACKET
            outputs = items_of(step.output, "") or () if looped else (step.output,)
            found += [_child_id(output, kind) for output in outputs]
        for call in step.calls or ():
            if (costs or (call.type or kind) == "workflow") and _RUN_ID in bytes(call.output):
                found.append(_child_id(call.output, call.type or kind))
        if found:
            rows += [(run_id, step_key, each) for each in dict.fromkeys(found) if each and each != run_id]
    return rows


def _child_id(output: Raw, kind: str | None) -> str | None:
    """Return the id of the child run in an output of a step or call of this type; None or empty if there is none."""
    if memoryview(output)[0] != _BRACE:
        return None
    started = _STARTED.read(output, "output", at_once=True)
    names_run = kind == "workflow" or started.workflow_id is not NULL
    return started.run_id if names_run and len(started.run_id or "") <= _LONGEST else None
