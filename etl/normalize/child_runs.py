"""The runs that a step of a run started."""

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
"""Types of steps and calls whose outputs have forms of their own and name no run."""

_BRACE: Final = ord("{")
_BRACKET: Final = ord("[")
_FREE: Final = frozenset({b"null", b"0"})
_LONGEST: Final = 200  # characters of an id; longer text may not fit into an index


class _Output(msgspec.Struct, gc=False):
    run_id: str | None = None
    workflow_id: Raw = NULL


_decode: Final = msgspec.json.Decoder(_Output).decode


def child_rows(run_id: str, step_key: str, step: Any, used: Any) -> list[Row]:
    """Return a row for each run that a step started: its output names one, an item of it where it looped, or a call.

    The output of a workflow step or call names the run. So does any other output of the same form, with `run_id` and
    `workflow_id`, if the step cost credits.
    """
    is_free = bytes(used.total) in _FREE
    outputs: list[tuple[str | None, Raw]] = []
    if step.type not in OTHER_FORMS:
        looped = memoryview(step.output)[0] == _BRACKET
        items = items_of(step.output, "") if looped else (step.output,)
        outputs = [(step.type, item) for item in items]
    for call in step.calls or ():
        kind = call.type or ("workflow" if step.type == "workflow" else None)
        if kind not in OTHER_FORMS:
            outputs.append((kind, call.output))
    named = [
        _named(output, is_sure=kind == "workflow") for kind, output in outputs if kind == "workflow" or not is_free
    ]
    return [(run_id, step_key, each) for each in dict.fromkeys(named) if each is not None and each != run_id]


def _named(output: Raw, *, is_sure: bool) -> str | None:
    if memoryview(output)[0] != _BRACE:
        return None
    try:
        made = _decode(output)
    except UNREADABLE:
        return None
    names_run = is_sure or made.workflow_id is not NULL
    return made.run_id if names_run and made.run_id and len(made.run_id) <= _LONGEST else None
