"""One workflow as received becomes its row and its app's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.decode import clean, needs_cleaning, parse
from etl.errors import RecordError
from etl.models import App, Retention, Workflow, describe, validated
from etl.normalize.columns import INT8, Leftovers

if TYPE_CHECKING:
    from etl.normalize.redaction import Redactor
    from etl.normalize.rows import Row


def normalize_workflow(raw: bytes, redactor: Redactor | None = None) -> tuple[Row, Row | None]:
    """The rows for `workflows` and `apps`; the second is None where the workflow names no app.

    What no column holds (tag colours, the current version's document, the draft's fields) is kept in `extra`.

    Args:
        raw: the workflow as received.
        redactor: applied before anything is made of it.

    Raises:
        RecordError: with one of the reasons listed in `etl.models`.
    """
    document = parse(raw)
    if not isinstance(document, dict):
        raise RecordError("not_an_object", f"the item is not an object but {describe(document)}")
    if redactor is not None:
        redactor.redact_workflow(document)
    if needs_cleaning(raw):
        document = clean(document)
    if document.get("id") in (None, ""):
        raise RecordError("missing_id", "the workflow has no id")
    workflow = validated(Workflow, document)
    app, leftovers = workflow.app or App(), Leftovers(workflow.unknown)
    leftovers.put_unknown(("app",), app.unknown)
    if not app.id:  # no row of its own to stand in
        known = {"name": app.name, "verified": app.verified}
        leftovers.put_unknown(("app",), {name: value for name, value in known.items() if value is not None})
    for name in ("tags", "version"):
        if document.get(name):
            leftovers.put((name,), document[name])
    return _workflow_row(workflow, app, leftovers), (app.id, app.name, app.verified) if app.id else None


def _workflow_row(workflow: Workflow, app: App, leftovers: Leftovers) -> Row:
    retention = workflow.retention or Retention()
    leftovers.put_unknown(("retention",), retention.unknown)
    current_version_id = (workflow.version or {}).get("id")
    return (
        workflow.id,
        app.id,
        workflow.name,
        workflow.description,
        workflow.enabled,
        workflow.deleted,
        leftovers.integer(workflow.runs_count, INT8, "runs_count"),
        workflow.template_id,
        leftovers.integer(retention.max_age_in_seconds, INT8, "retention", "max_age_in_seconds"),
        retention.preserve_on_failure,
        None if workflow.tags is None else [tag.name for tag in workflow.tags if tag.name is not None],
        current_version_id if isinstance(current_version_id, str) else None,
        leftovers.moment(workflow.created_at, "created_at"),
        leftovers.moment(workflow.updated_at, "updated_at"),
        leftovers.jsonb(),
    )
