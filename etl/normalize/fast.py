"""The rows of an ordinary run, made straight from its bytes; every surprise is left to the careful path.

The careful path (`etl.normalize.careful`) is the record; a property test holds that this one yields the same rows.
Free-form JSON goes to its column as the bytes that came.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import msgspec

from etl.errors import RecordError
from etl.models import read_moment
from etl.normalize.columns import EPOCH, HTTP_STEPS, INT4, INT8
from etl.normalize.rows import Row, RunRows
from etl.normalize.shapes import (
    HTTP_OUTPUT,
    MODEL_OUTPUT,
    NULL,
    RUN,
    WORKFLOW_OUTPUT,
    CallUsageShape,
    RunShape,
    StepShape,
    UsageShape,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from msgspec import Raw

    from etl.normalize.rows import VersionRows
    from etl.normalize.stream import Stream

_EMPTY_STEP: Final = StepShape()
_EMPTY_USAGE: Final = UsageShape()
_MAX_MS: Final = 4_000_000_000_000  # up to the year 2096 a double of seconds is exact to the microsecond
_TINY: Final = Decimal("1e-1000")
_HUGE: Final = Decimal("1e1000")

_MICROSECONDS_LENGTH: Final = len("2026-09-02T17:14:49.960123Z")
_MICROSECOND_DIGITS: Final = len(".123")
_NUL: Final = re.compile(rb"\\u0000")  # for text with many escapes quicker than `in`
_BRACE: Final = ord("{")

_from_text = datetime.fromisoformat
_from_seconds = datetime.fromtimestamp


class SurpriseError(Exception):
    """The fast path cannot tell what to make of a run."""


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
        return _rows(RUN.decode(raw), digest, stream)
    except _SURPRISES:
        return None


def _rows(run: RunShape, digest: bytes, stream: Stream) -> RunRows:
    run_id = run.id
    if not run_id or (run.workflow_id is not None and run.workflow_id != stream.workflow_id):
        raise SurpriseError
    usage, usage_total = list[Row](), None
    if run.usage is not None:
        usage_total = _credits(str(run.usage.total, "ascii"))
        if run.usage.calls:
            _flatten(usage, run_id, "", run.usage.calls)
    steps, calls = _step_rows(run, usage, stream)
    keep = stream.store_payloads
    version, draft = _definitions(run, stream)
    used = version or draft
    created_at, retention_due_at = _time(run.created_at), _time(run.retention_due_at)
    updated_at, on_day = _day_or_time(run.updated_at)
    given, result = _jsonb(run.input), _jsonb(run.result)
    max_age, preserve_on_failure = None, None
    if run.retention is not None:
        max_age = _integer(run.retention.max_age_in_seconds, INT8)
        preserve_on_failure = run.retention.preserve_on_failure
    row = (
        run_id,
        run.app_id,
        run.workflow_app_id,
        stream.workflow_id,
        used.id if used is not None else None,
        draft.id if draft is not None else None,
        _integer(run.version, INT4),
        run.status,
        run.origin,
        run.error,
        _time(run.started_at),
        _time(run.ended_at),
        created_at,
        updated_at,
        on_day,
        run.collection_id,
        run.record_id,
        given if keep else None,
        result if keep else None,
        usage_total,
        max_age,
        preserve_on_failure,
        retention_due_at,
        None,
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
        versions=tuple(rows for rows in (version, draft) if rows is not None),
    )


def _definitions(run: RunShape, stream: Stream) -> tuple[VersionRows | None, VersionRows | None]:
    version, draft = _jsonb(run.workflow_version), _jsonb(run.workflow_version_draft)
    return (
        None if version is None else stream.definitions.version(version),
        None if draft is None else stream.definitions.draft(draft, run.workflow_app_id),
    )


def _step_rows(run: RunShape, usage: list[Row], stream: Stream) -> tuple[list[Row], list[Row]]:
    """The rows of the steps and of their calls; those of the steps' credits are added to `usage`."""
    run_id = run.id
    credit = (run.usage.steps if run.usage is not None else None) or {}
    output = run.output or {}
    if "" in output or "" in credit:
        raise SurpriseError  # '' is also the key of the run's own tree
    steps, calls = list[Row](), list[Row]()
    for step_key, step in output.items():
        steps.append(_step_row(run_id, step_key, len(steps), step or _EMPTY_STEP, credit.get(step_key), stream))
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


def _step_row(
    run_id: str, step_key: str, ordinal: int, step: StepShape, used: UsageShape | None, stream: Stream
) -> Row:
    if step.key is not None and step.key != step_key:
        raise SurpriseError
    keep = stream.store_payloads
    output = _jsonb(step.output)
    provider = model = http_status = child_run_id = None
    if output is not None and output[0] == _BRACE:
        kind = step.type
        if kind == "model":
            made = MODEL_OUTPUT.decode(output)
            provider, model = made.provider, made.model
        elif kind in HTTP_STEPS:
            http_status = _integer(HTTP_OUTPUT.decode(output).status, INT4)
        elif kind == "workflow":
            child_run_id = WORKFLOW_OUTPUT.decode(output).run_id
    return (
        run_id,
        step_key,
        ordinal,
        step.type,
        step.status,
        _epoch_ms(step.start),
        _epoch_ms(step.end),
        step.error,
        output if keep else None,
        _jsonb(step.logs) if keep else None,
        provider,
        model,
        http_status,
        child_run_id,
        _credits(str(used.total, "ascii")) if used is not None else None,
        None,
    )


def _call_rows(run_id: str, step_key: str, step: StepShape, stream: Stream) -> Iterator[Row]:
    keep, looped = stream.store_payloads, bytes(step.output)[:1] == b"["
    for ordinal, call in enumerate(step.calls or ()):
        output = _jsonb(call.output)
        provider = model = None
        kind = step.type if call.type is None and looped else call.type
        if kind == "model" and output is not None and output[0] == _BRACE:
            made = MODEL_OUTPUT.decode(output)
            provider, model = made.provider, made.model
        yield (
            run_id,
            step_key,
            ordinal,
            call.id,
            _integer(call.index, INT8),
            call.key,
            call.type,
            call.status,
            _epoch_ms(call.start),
            _epoch_ms(call.end),
            call.error,
            output if keep else None,
            _jsonb(call.logs) if keep else None,
            provider,
            model,
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
        rows.append((run_id, step_key, path, parent_path, depth, node.id, _credits(str(node.total, "ascii"))))
        if node.calls:
            _flatten(rows, run_id, step_key, node.calls, path, depth + 1)


def _jsonb(raw: Raw) -> bytes | None:
    if raw is NULL:
        return None
    text = bytes(raw)
    return None if text == b"null" else text


def _integer(value: int | None, limit: int) -> int | None:
    if value is not None and not -limit <= value < limit:
        raise SurpriseError
    return value


def _credits(text: str) -> Decimal | None:
    """The number whose JSON text is `text`."""
    if text == "null":
        return None
    total = Decimal(text)
    if not _TINY < total < _HUGE and total:
        raise SurpriseError
    return total


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    if text[-1:] == "Z" and len(text) <= _MICROSECONDS_LENGTH:
        return _from_text(text)
    return _day_or_time(text)[0]


def _day_or_time(text: str | None) -> tuple[datetime | None, bool]:
    if text is None:
        return None, False
    if text[-1:] == "Z" and len(text) <= _MICROSECONDS_LENGTH:
        return _from_text(text), False
    moment = read_moment(text)
    if moment.time is None:
        raise SurpriseError
    return moment.time, moment.on_day


def _epoch_ms(value: float | None) -> datetime | None:
    """The time `value` milliseconds after 1970."""
    if value is None:
        return None
    if not -_MAX_MS < value < _MAX_MS:
        raise SurpriseError
    if type(value) is int:
        return _from_seconds(value / 1000, UTC)
    text = repr(value)
    if len(text) - text.find(".") > _MICROSECOND_DIGITS:
        raise SurpriseError
    return EPOCH + timedelta(microseconds=round(value * 1000))
