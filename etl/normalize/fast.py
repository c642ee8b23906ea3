"""The rows of an ordinary run, made straight from its bytes; every surprise is left to the careful path.

The careful path (`etl.normalize.careful`) is the record; a property test holds that this one yields the same rows.
Free-form JSON goes to its column as the bytes that came.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from etl.errors import RecordError
from etl.normalize.columns import HTTP_STEPS, INT4, INT8
from etl.normalize.fast_values import (
    CREDITS,
    SurpriseError,
    day_or_time,
    epoch_ms_of,
    integer_of,
    jsonb_of,
    text_of,
    time_of,
)
from etl.normalize.rows import Row, RunRows
from etl.normalize.shapes import (
    HTTP_OUTPUT,
    MODEL_OUTPUT,
    RUN,
    WORKFLOW_OUTPUT,
    CallUsageShape,
    RunShape,
    StepShape,
    UsageShape,
)
from etl.normalize.step_keys import free_key
from etl.normalize.surplus import NONE, Surplus, set_aside
from etl.wire import JSONB

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from etl.normalize.context import Stream
    from etl.normalize.rows import VersionRows

_EMPTY_STEP: Final = StepShape()
_NUL: Final = re.compile(rb"\\u0000")  # for text with many escapes quicker than `in`
_BRACE: Final = ord("{")
_FIRST: Final = len(JSONB)  # of a jsonb, where its text begins
_BRACKET: Final = ord("[")

_SURPRISES: Final = (
    SurpriseError,
    RecordError,
    msgspec.MsgspecError,
    ValueError,
    ArithmeticError,
    RecursionError,
    OSError,
)
"""Whatever the decoding and the making of rows raise on a run that is out of the ordinary."""


def fast_rows(raw: bytes, digest: bytes, stream: Stream) -> RunRows | None:
    """The rows of one run as received; None where the careful path has to decide."""
    if _NUL.search(raw) is not None:
        return None
    try:
        if not raw.isascii():
            raw.decode()  # msgspec does not look into the strings that it leaves raw
        try:
            run, surplus = RUN.decode(raw), NONE
        except msgspec.ValidationError:
            known, surplus = set_aside(raw)
            run = RUN.decode(known)
        return _rows(run, surplus, digest, stream)
    except _SURPRISES:
        return None


def _rows(run: RunShape, surplus: Surplus, digest: bytes, stream: Stream) -> RunRows:
    run_id = run.id
    if not run_id or (run.workflow_id is not None and run.workflow_id != stream.workflow_id):
        raise SurpriseError
    usage, total = list[Row](), None
    if run.usage is not None:
        total = CREDITS[b"" + run.usage.total]
        if run.usage.calls:
            _flatten(usage, run_id, "", run.usage.calls)
    steps, calls = _step_rows(run, usage, surplus, stream)
    keep = stream.store_payloads
    version, draft = _definitions(run, stream)
    used = version or draft
    created_at, retention_due_at = time_of(run.created_at), time_of(run.retention_due_at)
    updated_at, on_day = day_or_time(run.updated_at)
    given, result = jsonb_of(run.input), jsonb_of(run.result)
    max_age, preserve_on_failure = None, None
    if run.retention is not None:
        max_age = integer_of(run.retention.max_age_in_seconds, INT8)
        preserve_on_failure = run.retention.preserve_on_failure
    row = (
        run_id,
        run.app_id,
        run.workflow_app_id,
        stream.workflow_id,
        used.id if used is not None else None,
        draft.id if draft is not None else None,
        integer_of(run.version, INT4),
        run.status,
        run.origin,
        run.error,
        time_of(run.started_at),
        time_of(run.ended_at),
        created_at,
        updated_at,
        on_day,
        run.collection_id,
        run.record_id,
        given if keep else None,
        result if keep else None,
        total,
        max_age,
        preserve_on_failure,
        retention_due_at,
        surplus.run,
        digest,
        stream.app_id,
    )
    return RunRows(
        run_id=run_id,
        digest=digest,
        status=run.status,
        created_at=created_at,
        updated_at=updated_at,
        updated_on_day=on_day,
        emptied=given is None and result is None and run.output is None,
        retention_due_at=retention_due_at,
        run=row,
        steps=steps,
        calls=calls,
        usage=usage,
        versions=_present(version, draft),
    )


def _definitions(run: RunShape, stream: Stream) -> tuple[VersionRows | None, VersionRows | None]:
    version, draft = text_of(run.workflow_version), text_of(run.workflow_version_draft)
    return (
        None if version is None else stream.definitions.version(version),
        None if draft is None else stream.definitions.draft(draft, run.workflow_app_id),
    )


def _present(version: VersionRows | None, draft: VersionRows | None) -> tuple[VersionRows, ...]:
    if version is None:
        return () if draft is None else (draft,)
    return (version,) if draft is None else (version, draft)


def _step_rows(run: RunShape, usage: list[Row], surplus: Surplus, stream: Stream) -> tuple[list[Row], list[Row]]:
    """The rows of the steps and of their calls; those of the steps' credits are added to `usage`."""
    run_id = run.id
    credit = (run.usage.steps if run.usage is not None else None) or {}
    output = _by_key(run.output, credit) if isinstance(run.output, list) else run.output or {}
    if "" in output or "" in credit:
        raise SurpriseError  # '' is also the key of the run's own tree
    steps, calls = list[Row](), list[Row]()
    for step_key, step in output.items():
        row = _step_row(run_id, step_key, len(steps), step or _EMPTY_STEP, credit.get(step_key), stream)
        steps.append(row if step_key not in surplus.steps else (*row[:-1], surplus.steps[step_key]))
        if step is not None and step.calls:
            calls += _call_rows(run_id, step_key, step, stream)
    for step_key, used in credit.items():
        if step_key not in output:
            steps.append(_step_row(run_id, step_key, len(steps), _EMPTY_STEP, used, stream))
    for row in steps:
        used = credit.get(row[1])
        if used is not None and used.calls:
            _flatten(usage, run_id, row[1], used.calls)
    return steps, calls


def _by_key(items: list[StepShape], credited: Container[str]) -> dict[str, StepShape | None]:
    """Steps in the older list form, by keys of their own."""
    steps: dict[str, StepShape | None] = {}
    for step in items:
        if step.key is None:
            raise SurpriseError
        step_key = free_key(step.key, steps)
        if step_key != step.key:
            if step_key in credited:
                raise SurpriseError  # those are the credits of a step that is called so
            step.key = None  # a known one
        steps[step_key] = step
    return steps


def _step_row(
    run_id: str, step_key: str, ordinal: int, step: StepShape, used: UsageShape | None, stream: Stream
) -> Row:
    if step.key is not None and step.key != step_key:
        raise SurpriseError
    keep = stream.store_payloads
    output = jsonb_of(step.output)
    provider = model = http_status = child_run_id = None
    if output is not None and output[_FIRST] == _BRACE:
        kind = step.type
        if kind == "model":
            made = MODEL_OUTPUT.decode(step.output)
            provider, model = made.provider, made.model
        elif kind in HTTP_STEPS:
            http_status = integer_of(HTTP_OUTPUT.decode(step.output).status, INT4)
        elif kind == "workflow":
            child_run_id = WORKFLOW_OUTPUT.decode(step.output).run_id
    return (
        run_id,
        step_key,
        ordinal,
        step.type,
        step.status,
        epoch_ms_of(step.start),
        epoch_ms_of(step.end),
        step.error,
        output if keep else None,
        jsonb_of(step.logs) if keep else None,
        provider,
        model,
        http_status,
        child_run_id,
        CREDITS[b"" + used.total] if used is not None else None,
        None,
    )


def _call_rows(run_id: str, step_key: str, step: StepShape, stream: Stream) -> Iterator[Row]:
    keep, looped = stream.store_payloads, memoryview(step.output)[0] == _BRACKET
    for ordinal, call in enumerate(step.calls or ()):
        output = jsonb_of(call.output)
        provider = model = child_run_id = None
        kind = step.type if call.type is None and looped else call.type
        if output is not None and output[_FIRST] == _BRACE:
            if kind == "model":
                made = MODEL_OUTPUT.decode(call.output)
                provider, model = made.provider, made.model
            elif kind == "workflow":
                child_run_id = WORKFLOW_OUTPUT.decode(call.output).run_id
            elif kind is None:
                raise SurpriseError
        yield (
            run_id,
            step_key,
            ordinal,
            call.id,
            integer_of(call.index, INT8),
            call.key,
            call.type,
            call.status,
            epoch_ms_of(call.start),
            epoch_ms_of(call.end),
            call.error,
            output if keep else None,
            jsonb_of(call.logs) if keep else None,
            provider,
            model,
            child_run_id,
            None,
        )


def _flatten(
    rows: list[Row],
    run_id: str,
    step_key: str,
    nodes: list[CallUsageShape],
    parent_path: str | None = None,
    depth: int = 1,
) -> None:
    prefix = "" if parent_path is None else f"{parent_path}."
    for ordinal, node in enumerate(nodes):
        path = f"{prefix}{ordinal}"
        rows.append((run_id, step_key, path, parent_path, depth, node.id, CREDITS[b"" + node.total]))
        if node.calls:
            _flatten(rows, run_id, step_key, node.calls, path, depth + 1)
