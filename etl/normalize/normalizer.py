"""One run as received becomes its rows."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
from msgspec import Raw

from etl.decode import Json, clean_json, clean_text, dump, needs_cleaning, parse, peek_id
from etl.errors import RecordError
from etl.normalize.documents import Document, Each, fields_at
from etl.normalize.fitting import FITTERS, JSON, NULL, UNFIT, UNREADABLE, describe, refuse
from etl.normalize.rows import Row, RunRows, row_maker
from etl.normalize.step_keys import StepKeys, keep_apart
from etl.normalize.versions import Definitions
from etl.tables import RUN_STEP_CALLS, RUN_STEPS, RUN_USAGE_CALLS, RUNS, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from etl.normalize.redaction import Redactor
    from etl.normalize.rows import VersionRows

_NUL: Final = re.compile(rb"\\u0000")  # faster than `in` for text with many escapes
_WHITE_SPACE: Final = b" \t\n\r"
_NULL_TEXT: Final = b"null"
_BRACE: Final = ord("{")
_BRACKET: Final = ord("[")
_RECURSION: Final = 100  # levels of a usage tree


class _Calls:
    """The calls of a usage: a tree of any depth, read node by node if it cannot be decoded in one call."""

    decoded: Final = "list[UsageCall] | None"
    default: Final = None

    def read(self, raw: Raw, place: str) -> Any:
        try:
            return _USAGE_CALLS.decode(raw)
        except UNREADABLE:
            pass
        roots: list[Any] = []
        pending = [(parse(bytes(raw)), roots, place)]
        while pending:
            items, nodes, parent = pending.pop()
            if not isinstance(items, list):
                refuse(parent, "an array", items)
            for ordinal, item in enumerate(items):
                at = f"{parent}.{ordinal}"
                if not isinstance(item, dict):
                    refuse(at, "an object", item)
                calls = item.pop("calls", None)
                nodes.append(USAGE_CALL.fill({field: Raw(dump(value)) for field, value in item.items()}, at))
                if calls is not None:
                    nodes[-1].calls = []
                    pending.append((calls, nodes[-1].calls, at))
        return roots


# What a run is, as the API sends it. The scalar fields are those that `etl.tables` has columns for.
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
        "output": Each(STEP, keyed=True, listed=True),  # a list in the API's older form
        "usage": RUN_USAGE,
        "retention": RETENTION,
    },
)
_NO_STEP: Final = STEP.empty
_NO_USAGE: Final = STEP_USAGE.empty


def _outputs(table: Table) -> dict[str | None, Document]:
    """The fields of an output that have columns, by the type of the step or call."""
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
_NO_OUTPUT: Final = STEP_OUTPUTS["model"].empty

_Level: TypeAlias = "tuple[list[Any], str | None, int]"
"""Nodes of a credit tree that have the same parent, its path, and their depth."""


class _Untyped(msgspec.Struct):
    workflow_id: Raw = NULL


_UNTYPED: Final = msgspec.json.Decoder(_Untyped)

run_row: Final = row_maker(
    RUNS,
    "run, usage, retention, workflow_version_id, workflow_draft_id, content_hash, stream_app_id, keep",
    {"": "run", "usage": "usage", "retention": "retention"},
)
step_row: Final = row_maker(
    RUN_STEPS,
    "run_id, step_key, ordinal, step, usage, made, keep",
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

_PLACE: Final = {name: place for place, name in enumerate(RUNS.names)}
_STATUS, _CREATED_AT, _DUE_AT = _PLACE["status"], _PLACE["created_at"], _PLACE["retention_due_at"]
_UPDATED_AT, _ON_DAY = _PLACE["updated_at"], _PLACE["updated_on_day"]


class Normalizer:
    """Normalizes the runs of one stream.

    Args:
        app_id: the app that lists the runs (`stream_app_id`).
        workflow_id: the workflow that lists the runs.
        store_payloads: if False, `input`, `result`, and the outputs and logs of steps and calls are null.
        redact: redacts runs before they are normalized.
        cache_size: number of cached definitions.
    """

    def __init__(
        self,
        app_id: str,
        workflow_id: str,
        *,
        store_payloads: bool = True,
        redact: Redactor | None = None,
        cache_size: int = 512,
    ) -> None:
        self._app_id = app_id
        self._workflow_id = clean_text(workflow_id)
        self._keep = store_payloads
        self._redactor = redact
        self._definitions = Definitions(self._workflow_id, cache_size)

    def normalize(self, raw: bytes, digest: bytes) -> RunRows:
        """Make the rows of one run; `digest` is the hash of its received bytes `raw`.

        Raises:
            RecordError: the run cannot be normalized; the error has the run's id if it could be read.
        """
        try:
            if not self._keep:
                raw.decode()  # payloads that are not stored must be UTF-8 too
            return self._rows(self._read(raw), digest)
        except UnicodeDecodeError:
            raise RecordError("invalid_json", "not UTF-8", run_id=peek_id(raw)) from None
        except RecordError as error:
            if error.run_id is None:
                error.run_id = peek_id(raw)
            raise

    def _read(self, raw: bytes) -> Any:
        if self._redactor is not None:
            raw = dump(self._redactor.redact(_object(raw)))
        try:
            run = RUN.decode(raw) if _NUL.search(raw) is None else _read_unusual(raw)
        except UNREADABLE:
            run = _read_unusual(raw)
        if run is None:
            raise RecordError("not_an_object", "expected an object, got null")
        if not run.id:
            raise RecordError("missing_id", "the run has no id")
        if run.workflow_id is None:
            run.workflow_id = self._workflow_id
        elif run.workflow_id != self._workflow_id:
            raise RecordError("foreign_workflow", "the run names another workflow than the one that lists it")
        return run

    def _rows(self, run: Any, digest: bytes) -> RunRows:
        usage, retention = run.usage or RUN_USAGE.empty, run.retention or RETENTION.empty
        version, draft = self._versions(run)
        tree = list[Row]()
        if usage.calls:
            _add_tree(tree, run.id, "", usage.calls)
        steps, calls = self._step_rows(run, usage, tree)
        values = (
            *(run, usage, retention),
            _id_of(version or draft),
            _id_of(draft),
            *(digest, self._app_id, self._keep),
        )
        try:
            row = run_row(*values)
        except UNFIT:
            RUN.settle(run, "")
            RUN_USAGE.settle(usage, "usage")
            row = run_row(*values)
        return RunRows(
            run_id=run.id,
            digest=digest,
            status=row[_STATUS],
            created_at=row[_CREATED_AT],
            updated_at=row[_UPDATED_AT],
            updated_on_day=row[_ON_DAY],
            emptied=run.output is None and _is_null(run.input) and _is_null(run.result),
            retention_due_at=row[_DUE_AT],
            run=row,
            steps=steps,
            calls=calls,
            usage=tree,
            versions=tuple(each for each in (version, draft) if each is not None),
        )

    def _versions(self, run: Any) -> tuple[VersionRows | None, VersionRows | None]:
        """Return the rows of the saved version and of the draft that the run used."""
        version, draft = bytes(run.workflow_version), bytes(run.workflow_version_draft)
        return (
            None if version == _NULL_TEXT else self._definitions.version(version),
            None if draft == _NULL_TEXT else self._definitions.draft(draft, run.workflow_app_id),
        )

    def _step_rows(self, run: Any, usage: Any, tree: list[Row]) -> tuple[list[Row], list[Row]]:
        """Return the rows of the steps and of their calls; add their usage rows to `tree`."""
        run_id, keep = run.id, self._keep
        steps, calls = list[Row](), list[Row]()
        for ordinal, (step_key, key, step, used) in enumerate(_steps(run, usage)):
            if step.key is not None and step.key != key:
                step.extra = {**(step.extra or {}), "key": step.key}
            kind = STEP_OUTPUTS.get(step.type)
            made = _NO_OUTPUT if kind is None else _output(kind, step)
            try:
                row = step_row(run_id, step_key, ordinal, step, used, made, keep)
            except UNFIT:
                STEP.settle(step, f"output.{key}")
                STEP_USAGE.settle(used, f"usage.steps.{key}")
                row = step_row(run_id, step_key, ordinal, step, used, made, keep)
            steps.append(row)
            if step.calls:
                self._add_call_rows(calls, run_id, step_key, key, step)
            if used.calls:
                _add_tree(tree, run_id, step_key, used.calls)
        return steps, calls

    def _add_call_rows(self, rows: list[Row], run_id: str, step_key: str, key: str, step: Any) -> None:
        # An untyped iteration of a loop has the step's type. An untyped tool call is recognized by its output.
        untyped = step.type if memoryview(step.output)[0] == _BRACKET else None
        for ordinal, call in enumerate(step.calls):
            kind = CALL_OUTPUTS.get(call.type or untyped or _type_by_shape(call.output))
            made = _NO_OUTPUT if kind is None else _output(kind, call)
            try:
                rows.append(call_row(run_id, step_key, ordinal, call, made, self._keep))
            except UNFIT:
                CALL.settle(call, f"output.{key}.calls.{ordinal}")
                rows.append(call_row(run_id, step_key, ordinal, call, made, self._keep))


def _read_unusual(raw: bytes) -> Any:
    """Read a run that cannot be decoded in one call."""
    if needs_cleaning(raw):
        document = _object(raw)
        keep_apart(document)
        raw = clean_json(dump(document))
    if not raw.lstrip(_WHITE_SPACE).startswith(b"{"):
        _object(raw)
    run = RUN.read(raw, "")
    _gather_extra(run)
    return run


def _gather_extra(run: Any) -> None:
    """Move the unknown fields of parts without an `extra` column to the run's own, keyed by their paths."""
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
    """Return the unknown fields of a usage and of the nodes of its tree, keyed by path."""
    extra: dict[str, Any] = dict(usage.extra or {})
    pending = [(node, str(ordinal)) for ordinal, node in enumerate(usage.calls or ())]
    while pending:
        node, path = pending.pop()
        if node.extra:
            extra.setdefault("calls", {})[path] = node.extra
        pending += [(child, f"{path}.{ordinal}") for ordinal, child in enumerate(node.calls or ())]
    return extra


def _object(raw: bytes) -> dict[str, Json]:
    document = parse(raw)
    if not isinstance(document, dict):
        raise RecordError("not_an_object", f"expected an object, got {describe(document)}")
    return document


def _id_of(version: VersionRows | None) -> str | None:
    return None if version is None else version.id


def _is_null(raw: Raw) -> bool:
    return bytes(raw) == _NULL_TEXT


def _type_by_shape(output: Raw) -> str | None:
    """Guess the type of a call: if it started a run, its output has a workflow id."""
    if memoryview(output)[0] == _BRACE:
        with suppress(*UNREADABLE):
            return "workflow" if _UNTYPED.decode(output).workflow_id is not NULL else None
    return None


def _steps(run: Any, usage: Any) -> Iterable[tuple[str, str, Any, Any]]:
    """List the steps of a run: key in the tables, key in the payload, the step, and its usage."""
    output: Any = run.output or {}
    credited: dict[str, Any] = usage.steps or {}
    if type(output) is dict and "" not in output and "" not in credited:
        steps = [(key, key, step or _NO_STEP, credited.get(key) or _NO_USAGE) for key, step in output.items()]
        return steps + [(key, key, _NO_STEP, used or _NO_USAGE) for key, used in credited.items() if key not in output]
    # The run's own tree has the step key '', so a step of that name gets another key if both have a tree.
    both = usage.calls and "" in credited and credited[""] and credited[""].calls
    keys = StepKeys({""} if both else ())
    by_key: dict[str, tuple[str, Any]] = {}
    for key, step in output.items() if type(output) is dict else _by_key(output):
        by_key[keys.of_output(key)] = (key, step or _NO_STEP)
    used_by_key = {}
    for key, used in credited.items():
        step_key = keys.of_usage(key)
        used_by_key[step_key] = used
        by_key.setdefault(step_key, (key, _NO_STEP))
    return [(each, key, step, used_by_key.get(each) or _NO_USAGE) for each, (key, step) in by_key.items()]


def _by_key(items: list[Any]) -> Iterator[tuple[str, Any]]:
    for place, step in enumerate(items):
        if step.key is None:
            refuse(f"output.{place}.key", "a string", None)
        yield step.key, step


def _output(kind: Document, holder: Any) -> Any:
    """Read the fields of an output that have columns; values that do not fit go to the holder's `extra`."""
    try:
        return kind.decode(holder.output) or _NO_OUTPUT
    except UNREADABLE:
        if memoryview(holder.output)[0] != _BRACE:
            return _NO_OUTPUT
        output = kind.read(holder.output, "output")
    if output.extra:
        holder.extra = {**(holder.extra or {}), "output": output.extra}
    return output


def _add_tree(rows: list[Row], run_id: str, step_key: str, calls: list[Any]) -> None:
    """Add a row for each node of a usage tree of any depth, parents before children."""
    pending: list[_Level] = [(calls, None, 1)]
    while pending:
        _add_level(rows, run_id, step_key, pending.pop(), pending)


def _add_level(rows: list[Row], run_id: str, step_key: str, level: _Level, pending: list[_Level]) -> None:
    """Add the rows of nodes and their descendants; nodes too deep for recursion are added to `pending`."""
    nodes, parent_path, depth = level
    prefix = "" if parent_path is None else f"{parent_path}."
    for ordinal, node in enumerate(nodes):
        path = f"{prefix}{ordinal}"
        try:
            rows.append(usage_row(run_id, step_key, path, parent_path, depth, node))
        except UNFIT:
            USAGE_CALL.settle(node, f"usage.{f'steps.{step_key}.' if step_key else ''}calls.{path}")
            rows.append(usage_row(run_id, step_key, path, parent_path, depth, node))
        if node.calls:
            below = (node.calls, path, depth + 1)
            if depth % _RECURSION:
                _add_level(rows, run_id, step_key, below, pending)
            else:
                pending.append(below)
