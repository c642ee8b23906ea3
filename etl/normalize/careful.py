"""The rows of any run, from its parsed document: the path of record, which the fast one has to equal."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from etl.decode import Json, clean, clean_text, dump, needs_cleaning, parse
from etl.errors import RecordError
from etl.models import Retention, Run, RunUsage, StepCall, StepOutput, Usage, describe, validated
from etl.normalize.columns import HTTP_STEPS, INT4, INT8, Leftovers, exact, jsonb
from etl.normalize.credit_tree import flatten
from etl.normalize.rows import Row, RunRows, VersionRows
from etl.normalize.step_keys import StepKey, settle_step_keys

if TYPE_CHECKING:
    from etl.normalize.context import Stream


def careful_rows(raw: bytes, digest: bytes, stream: Stream) -> RunRows:
    """The rows of one run as received.

    Raises:
        RecordError: with one of the reasons listed in `etl.models`.
    """
    document = parse(raw)
    if not isinstance(document, dict):
        raise RecordError("not_an_object", f"the item is not an object but {describe(document)}")
    if stream.redactor is not None:
        document = stream.redactor.redact(document)
    emptied = all(document.get(name) is None for name in ("input", "result", "output"))
    keys = settle_step_keys(document)
    if needs_cleaning(raw):
        document = clean(document)
    if document.get("id") in (None, ""):
        raise RecordError("missing_id", "the run has no id")
    run = validated(Run, document)
    if run.workflow_id is not None and run.workflow_id != clean_text(stream.workflow_id):
        raise RecordError(
            "foreign_workflow", f"a run of the workflow {run.workflow_id!r} in the listing of {stream.workflow_id!r}"
        )
    return _Builder(run, keys, stream).rows(digest, emptied=emptied)


class _Builder:
    """Makes the rows of one validated run."""

    def __init__(self, run: Run, keys: list[StepKey], stream: Stream) -> None:
        self.run = run
        self.keys = keys
        self.stream = stream
        self.usage = run.usage or RunUsage()
        self.leftovers = Leftovers(run.unknown)
        self.leftovers.put_unknown(("usage",), self.usage.unknown)

    def rows(self, digest: bytes, *, emptied: bool) -> RunRows:
        run = self.run
        definitions = self.definitions()
        usage = flatten(run.id, "", self.usage, ("usage",), self.leftovers)
        steps, calls = list[Row](), list[Row]()
        for ordinal, key in enumerate(self.keys):
            step = (run.output or {}).get(key.step_key) or StepOutput()
            credit = (self.usage.steps or {}).get(key.step_key) or Usage()
            place = ("usage", "steps", key.step_key)
            self.leftovers.put_unknown(place, credit.unknown)
            usage += flatten(run.id, key.step_key, credit, place, self.leftovers)
            steps.append(self.step_row(ordinal, key, step, credit))
            calls += [self.call_row(place, key, step, call) for place, call in enumerate(step.calls or ())]
        updated_at = self.leftovers.moment(run.updated_at, "updated_at")
        row = self.run_row(definitions, digest)
        return RunRows(
            run_id=run.id,
            digest=digest,
            status=run.status,
            created_at=run.created_at.time if run.created_at else None,
            updated_at=updated_at,
            updated_on_day=updated_at is not None and run.updated_at is not None and run.updated_at.on_day,
            emptied=emptied,
            retention_due_at=run.retention_due_at.time if run.retention_due_at else None,
            run=row,
            steps=steps,
            calls=calls,
            usage=usage,
            versions=tuple(rows for rows in definitions if rows is not None),
        )

    def definitions(self) -> tuple[VersionRows | None, VersionRows | None]:
        """The saved version and the draft that the run used."""
        run, known = self.run, self.stream.definitions
        version, draft = run.workflow_version, run.workflow_version_draft
        return (
            None if version is None else known.version(dump(version), version),
            None if draft is None else known.draft(dump(draft), run.workflow_app_id, draft),
        )

    def payload(self, value: Json) -> bytes | None:
        return jsonb(value) if self.stream.store_payloads else None

    def run_row(self, definitions: tuple[VersionRows | None, VersionRows | None], digest: bytes) -> Row:
        run, leftovers = self.run, self.leftovers
        version, draft = definitions
        used = version or draft
        retention = run.retention or Retention()
        leftovers.put_unknown(("retention",), retention.unknown)
        updated_at = leftovers.moment(run.updated_at, "updated_at")
        fitted = (
            leftovers.integer(run.version, INT4, "version"),
            run.status,
            run.origin,
            run.error,
            leftovers.moment(run.started_at, "started_at"),
            leftovers.moment(run.ended_at, "ended_at"),
            leftovers.moment(run.created_at, "created_at"),
            updated_at,
            updated_at is not None and run.updated_at is not None and run.updated_at.on_day,
            run.collection_id,
            run.record_id,
            self.payload(run.input),
            self.payload(run.result),
            exact(self.usage.total),
            leftovers.integer(retention.max_age_in_seconds, INT8, "retention", "max_age_in_seconds"),
            retention.preserve_on_failure,
            leftovers.moment(run.retention_due_at, "retention_due_at"),
        )
        return (
            run.id,
            run.app_id,
            run.workflow_app_id,
            self.stream.workflow_id if run.workflow_id is None else run.workflow_id,
            used.id if used else None,
            draft.id if draft else None,
            *fitted,
            leftovers.jsonb(),
            digest,
            self.stream.app_id,
        )

    def step_row(self, ordinal: int, key: StepKey, step: StepOutput, credit: Usage) -> Row:
        leftovers = Leftovers(step.unknown)
        if step.key is not None and step.key != key.key:
            leftovers.put(("key",), step.key)
        made = step.output if isinstance(step.output, dict) else {}
        started_at = leftovers.epoch_ms(step.start, "start")
        ended_at = leftovers.epoch_ms(step.end, "end")
        status = made.get("status") if step.type in HTTP_STEPS else None
        http_status = None
        if isinstance(status, Decimal):
            http_status = leftovers.integer(status, INT4, "output", "status")
        return (
            self.run.id,
            key.step_key,
            ordinal,
            step.type,
            step.status,
            started_at,
            ended_at,
            step.error,
            self.payload(step.output),
            self.payload(step.logs),
            *_model(step.type, made),
            http_status,
            _text(made.get("run_id")) if step.type == "workflow" else None,
            exact(credit.total),
            leftovers.jsonb(),
        )

    def call_row(self, ordinal: int, key: StepKey, step: StepOutput, call: StepCall) -> Row:
        leftovers = Leftovers(call.unknown)
        # An iteration of a loop is of the step's type, also where it does not say so; a tool call need not be.
        kind = step.type if call.type is None and isinstance(step.output, list) else call.type
        made = call.output if isinstance(call.output, dict) else {}
        return (
            self.run.id,
            key.step_key,
            ordinal,
            call.id,
            leftovers.integer(call.index, INT8, "index"),
            call.key,
            call.type,
            call.status,
            leftovers.epoch_ms(call.start, "start"),
            leftovers.epoch_ms(call.end, "end"),
            call.error,
            self.payload(call.output),
            self.payload(call.logs),
            *_model(kind, made),
            # What no type tells is told by the shape.
            _text(made.get("run_id")) if kind == "workflow" or (kind is None and "workflow_id" in made) else None,
            leftovers.jsonb(),
        )


def _model(kind: str | None, made: dict[str, Json]) -> tuple[str | None, str | None]:
    """Provider and model, of what a model step made."""
    return (_text(made.get("provider")), _text(made.get("model"))) if kind == "model" else (None, None)


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) else None
