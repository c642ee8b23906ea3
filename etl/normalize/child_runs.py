"""Rows for the child runs that the steps of a run started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from etl.decode.json_text import UNREADABLE
from etl.normalize.documents import items_of
from etl.normalize.fitting import NULL

if TYPE_CHECKING:
    from etl.normalize.rows import Row

OTHER_FORMS: Final = frozenset({"note", "branch", "model", "http_request", "browser", "input"})
"""Types of steps and calls whose outputs have other structures, without a run id."""

_BRACE: Final = ord("{")
_BRACKET: Final = ord("[")
_FREE: Final = frozenset({b"null", b"0"})
_LONGEST: Final = 200  # characters of an id; longer text may not fit into an index


class _Output(msgspec.Struct, gc=False):
    run_id: str | None = None
    workflow_id: Raw = NULL


_decode: Final = msgspec.json.Decoder(_Output).decode


def child_rows(run_id: str, step_key: str, step: Any, used: Any) -> list[Row]:
    """Return a row for each run that a step started.

    The run ids are in the step's output, in its items if the step looped, and in the outputs of the step's calls. An
    output contains the id of a child run if the step or call has the type `workflow`. An output of another type does
    if it has both `run_id` and `workflow_id` and the step cost credits.
    """
    is_free = bytes(used.total) in _FREE
    outputs: list[tuple[str | None, Raw]] = []
    if step.type not in OTHER_FORMS:
        looped = memoryview(step.output)[0] == _BRACKET
        items = items_of(step.output, "") or () if looped else (step.output,)
        outputs = [(step.type, item) for item in items]
    for call in step.calls or ():
        kind = call.type or ("workflow" if step.type == "workflow" else None)
        if kind not in OTHER_FORMS:
            outputs.append((kind, call.output))
    child_ids = [
        _child_id(output, is_workflow=kind == "workflow")
        for kind, output in outputs
        if kind == "workflow" or not is_free
    ]
    return [(run_id, step_key, each) for each in dict.fromkeys(child_ids) if each is not None and each != run_id]


def _child_id(output: Raw, *, is_workflow: bool) -> str | None:
    """Return the id of the child run in an output; None if there is none."""
    if memoryview(output)[0] != _BRACE:
        return None
    try:
        decoded = _decode(output)
    except UNREADABLE:
        return None
    names_run = is_workflow or decoded.workflow_id is not NULL
    return decoded.run_id if names_run and decoded.run_id and len(decoded.run_id) <= _LONGEST else None
