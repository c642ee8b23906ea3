"""Convert one run as received to its rows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from etl.decode.items import LargeItem, peek_id
from etl.decode.json_text import clean_text, dump
from etl.errors import RecordError
from etl.normalize.definitions import Definitions
from etl.normalize.documents import parse_object
from etl.normalize.fitting import is_bare_day, refuse
from etl.normalize.rows import Row, RunRows, row_maker
from etl.normalize.run import (
    CALL,
    CALL_OUTPUTS,
    RETENTION,
    RUN,
    RUN_USAGE,
    STEP,
    STEP_OUTPUTS,
    child_rows,
    steps_of,
)
from etl.tables import RUN_STEP_CALLS, RUN_STEPS, RUN_USAGE_CALLS, RUNS

if TYPE_CHECKING:
    from etl.normalize.documents import Document
    from etl.normalize.redaction import Redactor

_NUL: Final = re.compile(rb"\\u0000")  # faster than `in` for texts with many escapes
_BRACE: Final = ord("{")
_BRACKET: Final = ord("[")
_NO_OUTPUT: Final = STEP_OUTPUTS["model"].empty

run_row: Final = row_maker(
    RUNS,
    "run, usage, retention, workflow_version_id, workflow_draft_id, updated_on_day, content_hash, "
    "stream_app_id, listed_under_app_id, listed_under_workflow_id, keep",
    {"": "run", "usage": "usage", "retention": "retention"},
)
step_row: Final = row_maker(
    RUN_STEPS,
    "run_id, step_key, ordinal, step, usage, made, looped, keep",
    {"output.*": "step", "usage.steps.*": "usage", "output.*.output": "made"},
)
call_row: Final = row_maker(
    RUN_STEP_CALLS,
    "run_id, step_key, ordinal, call, made, keep",
    {"output.*.calls[*]": "call", "output.*.calls[*].output": "made"},
)
usage_row: Final = row_maker(
    RUN_USAGE_CALLS, "run_id, step_key, path, parent_path, depth, node", {"usage.calls[*]": "node"}
)

_STATUS, _CREATED_AT, _UPDATED_AT, _DUE_AT = map(
    RUNS.names.index, ("status", "created_at", "updated_at", "retention_due_at")
)


class Normalizer:
    """Normalizes the runs of one stream.

    Args:
        app_id: id of the stream's app.
        workflow_id: id of the stream's workflow.
        store_payloads: if False, `input`, `result`, and the outputs and logs of steps and calls are null, and unknown
            fields of steps and calls are omitted.
        redact: redacts runs before they are normalized.
    """

    def __init__(
        self, app_id: str, workflow_id: str, *, store_payloads: bool = True, redact: Redactor | None = None
    ) -> None:
        self._app_id = app_id
        self._workflow_id = clean_text(workflow_id)
        self._keep = store_payloads
        self._redactor = redact
        self._definitions = Definitions()

    def normalize(self, raw: bytes, digest: bytes) -> RunRows:
        """Return the rows of one run; `digest` is the hash of the bytes `raw` as received.

        Raises:
            RecordError: the run cannot be normalized. The error has the run's id if it could be read.
        """
        if isinstance(raw, LargeItem):
            raise RecordError("too_large", f"the run has {raw.size:,} bytes", run_id=peek_id(raw))
        try:
            if not self._keep:
                raw.decode()  # payloads that are not stored must be UTF-8 too
            if self._redactor is not None:
                raw = dump(self._redactor.redact(parse_object(raw)))
            return self._read(raw, digest)
        except UnicodeDecodeError:
            raise RecordError("invalid_json", "not UTF-8", run_id=peek_id(raw)) from None
        except RecordError as error:
            if error.run_id is None:
                error.run_id = peek_id(raw)
            raise

    def _read(self, raw: bytes, digest: bytes) -> RunRows:
        """Decode a run in one call, or field by field if that fails, which is rare."""
        if _NUL.search(raw) is None:
            try:
                return self._rows(RUN.read(raw, "", at_once=True), digest)
            except (OverflowError, ValueError):
                pass
        return self._rows(RUN.read(raw, ""), digest)

    def _rows(self, run: Any, digest: bytes) -> RunRows:
        if run is None:
            refuse("", "an object", None)
        if not run.id:
            raise RecordError("missing_id", "the run has no id")
        if run.workflow_id is None:
            run.workflow_id = self._workflow_id
        usage, retention = run.usage or RUN_USAGE.empty, run.retention or RETENTION.empty
        version = self._definitions.rows(bytes(run.workflow_version))
        draft = self._definitions.rows(bytes(run.workflow_version_draft), run.workflow_app_id, run.workflow_id)
        version_id, draft_id = version and version.id, draft and draft.id
        tree = list[Row]()
        of_usage = _add_usage(tree, run.id, "", usage)
        steps = steps_of(run, usage)
        of_steps, calls = self._step_rows(run.id, steps, tree, of_usage)
        if of_usage:
            run.extra = {**(run.extra or {}), "usage": of_usage}
        if retention.extra:
            run.extra = {**(run.extra or {}), "retention": retention.extra}
        is_own = run.workflow_id == self._workflow_id
        stream = (self._app_id, None, None) if is_own else (None, self._app_id, self._workflow_id)
        on_day = run.updated_at is not None and is_bare_day(run.updated_at)
        row = run_row(run, usage, retention, version_id or draft_id, draft_id, on_day, digest, *stream, self._keep)
        return RunRows(
            run_id=run.id,
            workflow_id=run.workflow_id,
            digest=digest,
            status=row[_STATUS],
            created_at=row[_CREATED_AT],
            updated_at=row[_UPDATED_AT],
            updated_on_day=on_day,
            emptied=run.output is None and bytes(run.input) == bytes(run.result) == b"null",
            retention_due_at=row[_DUE_AT],
            run=row,
            steps=of_steps,
            calls=calls,
            usage=tree,
            child_runs=child_rows(run.id, steps),
            versions=tuple(each for each in (version, draft) if each is not None),
        )

    def _step_rows(
        self, run_id: str, steps: list[tuple[str, str, Any, Any]], tree: list[Row], unknown: dict[str, Any]
    ) -> tuple[list[Row], list[Row]]:
        """Return the rows of steps and of calls.

        The usage rows of the steps are appended to `tree`, and the unknown fields of their usage to `unknown`.
        """
        keep = self._keep
        rows, calls = list[Row](), list[Row]()
        for ordinal, (step_key, key, step, used) in enumerate(steps):
            if step.key is not None and step.key != key:
                step.extra = {**(step.extra or {}), "key": clean_text(step.key)}
            made = self._output(STEP_OUTPUTS, STEP, step.type, step)
            looped = memoryview(step.output)[0] == _BRACKET
            rows.append(step_row(run_id, step_key, ordinal, step, used, made, looped, keep))
            for place, call in enumerate(step.calls or ()):
                made = self._output(CALL_OUTPUTS, CALL, call.type or step.type, call)
                calls.append(call_row(run_id, step_key, place, call, made, keep))
            if (used.calls or used.extra) and (extra := _add_usage(tree, run_id, step_key, used)):
                unknown.setdefault("steps", {})[step_key] = extra
        return rows, calls

    def _output(self, outputs: dict[str, Document], document: Document, kind: str | None, holder: Any) -> Any:
        """Read the fields of an output that have columns; values that do not fit are added to `holder.extra`."""
        output = _NO_OUTPUT
        if kind in outputs and memoryview(holder.output)[0] == _BRACE:
            output = outputs[kind].read(holder.output, "output", at_once=True)
            if output.extra and self._keep:
                holder.extra = {**(holder.extra or {}), "output": output.extra}
        if holder.extra and not self._keep:
            holder.extra = {field: value for field, value in holder.extra.items() if field in document.fields}
        return output


def _add_usage(rows: list[Row], run_id: str, step_key: str, usage: Any) -> dict[str, Any]:
    """Append a row for each node of a usage tree, which may have any depth; parents come before children.

    Return the unknown fields of the usage, with those of its nodes by path.
    """
    unknown: dict[str, Any] = dict(usage.extra or {})
    pending: list[tuple[Any, str | None, int]] = [(usage, None, 1)]
    while pending:
        parent, parent_path, depth = pending.pop()
        prefix = "" if parent_path is None else f"{parent_path}."
        for ordinal, node in enumerate(parent.calls or ()):
            path = f"{prefix}{ordinal}"
            rows.append(usage_row(run_id, step_key, path, parent_path, depth, node))
            if node.extra:
                unknown.setdefault("calls", {})[path] = node.extra
            if node.calls:
                pending.append((node, path, depth + 1))
    return unknown
