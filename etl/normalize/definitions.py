"""Normalization of definitions, that is of saved versions and drafts, and of listed workflows with their apps.

Definitions are cached, because thousands of runs repeat them.
"""

from __future__ import annotations

import hashlib
from math import isinf
from typing import TYPE_CHECKING, Any, Final

from etl.decode.items import digest
from etl.decode.json_text import Json, Number, canonical, dump, parse
from etl.errors import RecordError
from etl.normalize.documents import Document, Each, fields_at, parse_object
from etl.normalize.fitting import FITTERS, JSON, extra_of, refuse
from etl.normalize.rows import Row, VersionRows, row_maker
from etl.tables import APPS, WORKFLOW_STEPS, WORKFLOW_VERSIONS, WORKFLOWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from etl.normalize.redaction import Redactor

_MAX_BYTES: Final = 8 * 2**20  # size of the cache: documents and their rows
_ROWS_BYTES: Final = 2**13  # estimated size of the rows of a document
_DRAFT_ID_DIGITS: Final = 32

AUTHOR: Final = Document("Author", fields_at(WORKFLOW_VERSIONS, "workflow_version.created_by"))
DISPLAY: Final = Document("Display", fields_at(WORKFLOW_VERSIONS, "workflow_version.input_options.display"))
OPTIONS: Final = Document("InputOptions", (), {"display": DISPLAY})
AUTO: Final = Document("Auto", fields_at(WORKFLOW_STEPS, "workflow_version.steps[*].auto"))
STEP: Final = Document(
    "StepDefinition",
    fields_at(WORKFLOW_STEPS, "workflow_version.steps[*]"),
    {"auto": AUTO, "destinations": FITTERS["text[]"]},
)
_COLUMNS: Final = fields_at(WORKFLOW_VERSIONS, "workflow_version")
_OTHERS: Final = {"created_by": AUTHOR, "steps": Each(STEP, listed=True)}
VERSION: Final = Document("Version", _COLUMNS, _OTHERS)
DRAFT: Final = Document("Draft", _COLUMNS, _OTHERS, known=("key", "input", "input_default", "input_options", "steps"))

version_row: Final = row_maker(
    WORKFLOW_VERSIONS,
    "version_, author, display, id, app_id, workflow_id, is_draft, content_hash, as_of",
    {
        "workflow_version": "version_",
        "workflow_version.created_by": "author",
        "workflow_version.input_options.display": "display",
    },
)
step_row: Final = row_maker(
    WORKFLOW_STEPS,
    "step, auto, workflow_version_id, ordinal, position_x, position_y, width, height, config",
    {"workflow_version.steps[*]": "step", "workflow_version.steps[*].auto": "auto"},
)

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


class Definitions:
    """A cache of the definitions that the runs of a stream use."""

    def __init__(self) -> None:
        self._cache: dict[tuple[bytes, str | None, str | None], VersionRows] = {}
        self._bytes = 0

    def rows(self, text: bytes, app_id: str | None = None, draft_of: str | None = None) -> VersionRows | None:
        """Return the rows of a definition; None for null.

        Args:
            text: the definition as JSON text.
            app_id: for a draft, the app of its workflow.
            draft_of: for a draft, the id of its workflow; None for a saved version.

        Raises:
            RecordError: the definition is invalid; the error names the first reason.
        """
        if text == b"null":
            return None
        key = (text, app_id, draft_of)
        rows = self._cache.get(key)
        if rows is None:
            rows = _version_rows(text) if draft_of is None else _draft_rows(text, app_id, draft_of)
            self._bytes += len(text) + _ROWS_BYTES
            if self._bytes > _MAX_BYTES:
                self._cache.clear()
                self._bytes = len(text) + _ROWS_BYTES
            self._cache[key] = rows
        return rows


def _draft_rows(text: bytes, app_id: str | None, workflow_id: str) -> VersionRows:
    place = "workflow_version_draft"
    draft, document = DRAFT.read(text, place), parse(text)
    content = canonical(document)
    draft_id = hashlib.sha256(workflow_id.encode() + b"\n" + content).hexdigest()[:_DRAFT_ID_DIGITS]
    return _rows(draft, document, (f"draft:{draft_id}", app_id, workflow_id, True, digest(content)), place)


def _version_rows(text: bytes) -> VersionRows:
    place = "workflow_version"
    version, document = VERSION.read(text, place), parse(text)
    if not version.id:
        raise RecordError("invalid_field", f"{place}.id: expected a string that is not empty")
    identity = (version.id, version.app_id, version.workflow_id, False, digest(canonical(document)))
    return _rows(version, document, identity, place)


def _rows(definition: Any, document: dict[str, Json], identity: tuple[Any, ...], place: str) -> VersionRows:
    author = definition.created_by or AUTHOR.empty
    if author.extra:
        definition.extra["created_by"] = author.extra
    options = OPTIONS.read(definition.input_options, f"{place}.input_options") or OPTIONS.empty
    row = version_row(definition, author, options.display or DISPLAY.empty, *identity, None)
    version_id, content = identity[0], identity[-1]
    steps, links = [], dict[Row, None]()
    for ordinal, step in enumerate(definition.steps or ()):
        at, of_step = f"{place}.steps.{ordinal}", document["steps"][ordinal]
        for to_key, via in _links(step, of_step, at):
            links[version_id, step.key, to_key, via] = None
        steps.append(_step_row(version_id, ordinal, step, of_step, at))
    return VersionRows(version_id, row, tuple(steps), tuple(links), content)


def _step_row(version_id: str, ordinal: int, step: Any, document: dict[str, Json], place: str) -> Row:
    config = step.extra
    if _is_list_of_keys(document.get("else")):
        config.pop("else", None)
    auto = step.auto or AUTO.empty
    if auto.extra:
        config["auto"] = auto.extra
    places = [value for name in ("position", "size") for value in _pair(name, document, config, place)]
    return step_row(step, auto, version_id, ordinal, *places, extra_of(config))


def _pair(name: str, document: dict[str, Json], config: dict[str, Any], place: str) -> list[float | None]:
    """Return the two columns of a position or a size; remove it from `config` if they hold all of it."""
    numbers = document.get(name) or []
    if not isinstance(numbers, list):
        refuse(f"{place}.{name}", "an array", numbers)
    for at, number in enumerate(numbers):
        if not isinstance(number, Number | None):
            refuse(f"{place}.{name}.{at}", "a number", number)
    values = [None if number is None or isinf(number) else float(number) for number in numbers]
    if len(values) <= 2 and [value is None for value in values] == [number is None for number in numbers]:
        config.pop(name, None)
    return [*values, None, None][:2]


def _links(step: Any, document: dict[str, Json], place: str) -> Iterator[tuple[str, str]]:
    """Yield the successors of a step: (key of the next step, via)."""
    conditions = document.get("conditions")
    targets = [("destination", "destinations", step.destinations)]
    for name, condition in conditions.items() if isinstance(conditions, dict) else ():
        keys = condition.get("destinations") if isinstance(condition, dict) else None
        targets.append((f"branch:{name}", f"conditions.{name}.destinations", keys))
    targets.append(("else", "else", document.get("else")))
    for via, field, keys in targets:
        if not _is_list_of_keys(keys):
            # These fields are documented only for branches.
            if step.type == "branch":
                refuse(f"{place}.{field}", "an array of step keys", keys)
            continue
        if keys and step.key is None:
            refuse(f"{place}.key", "a string", None)
        yield from ((key, via) for key in keys or ())


def _is_list_of_keys(value: Json) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(key, str) for key in value))


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
