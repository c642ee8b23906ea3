"""Normalization of listed workflows and their apps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from etl.decode.json_text import dump
from etl.errors import RecordError
from etl.normalize.documents import Document, Each, fields_at, parse_object
from etl.normalize.fitting import JSON
from etl.normalize.rows import row_maker
from etl.tables import APPS, WORKFLOWS

if TYPE_CHECKING:
    from etl.normalize.redaction import Redactor
    from etl.normalize.rows import Row

APP: Final = Document("App", fields_at(APPS, "app"))
RETENTION: Final = Document("WorkflowRetention", fields_at(WORKFLOWS, "retention"))
CURRENT_VERSION: Final = Document("CurrentVersion", fields_at(WORKFLOWS, "version"), strict=False)
TAGS: Final = Each(Document("Tag", fields_at(WORKFLOWS, "tags[*]")), listed=True)
WORKFLOW: Final = Document(
    "Workflow", fields_at(WORKFLOWS, ""), {"app": APP, "retention": RETENTION, "tags": JSON, "version": JSON}
)

workflow_row: Final = row_maker(
    WORKFLOWS,
    "workflow, app, retention, version, tags",
    {"": "workflow", "app": "app", "retention": "retention", "version": "version"},
)
app_row: Final = row_maker(APPS, "app", {"app": "app"})


def normalize_workflow(raw: bytes, redactor: Redactor | None = None) -> tuple[Row, Row | None]:
    """Return the rows for `workflows` and `apps`; the second is None if the workflow has no app.

    Fields without a column (tag colours, the document of the current version, the fields of the draft) are kept in
    `extra`.

    Args:
        raw: the workflow as received.
        redactor: redacts the workflow before it is normalized.

    Raises:
        RecordError: the workflow cannot be normalized.
    """
    document = parse_object(raw)
    if redactor is not None:
        redactor.redact_workflow(document)
    workflow = WORKFLOW.read(dump(document), "")
    if not workflow.id:
        raise RecordError("missing_id", "the workflow has no id")
    app, retention = workflow.app or APP.empty, workflow.retention or RETENTION.empty
    tags = TAGS.read(workflow.tags, "tags")
    version = CURRENT_VERSION.read(workflow.version, "version") or CURRENT_VERSION.empty
    of_app = dict(app.extra or {})
    if not app.id:  # the app has no row
        of_app |= {name: value for name in ("name", "verified") if (value := getattr(app, name)) is not None}
    kept = {"app": of_app, "retention": retention.extra}
    kept |= {name: getattr(workflow, name) for name in ("tags", "version") if document.get(name)}
    workflow.extra |= {name: value for name, value in kept.items() if value}
    names = tags and [tag.name for tag in tags if tag.name is not None]
    return workflow_row(workflow, app, retention, version, names), app_row(app) if app.id else None
