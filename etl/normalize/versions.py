"""Normalization of definitions (saved versions and drafts), with a cache, because thousands of runs repeat them."""

from __future__ import annotations

import hashlib
from math import isinf
from typing import TYPE_CHECKING, Any, Final

from etl.decode.items import digest
from etl.decode.json_text import Json, Number, canonical, parse
from etl.errors import RecordError
from etl.normalize.documents import Document, Each, fields_at
from etl.normalize.fitting import FITTERS, JSON, extra_of, refuse
from etl.normalize.rows import Row, VersionRows, row_maker
from etl.tables import WORKFLOW_STEPS, WORKFLOW_VERSIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from msgspec import Raw

_MAX_BYTES: Final = 8 * 2**20  # size of the cache: documents and their rows
_ROWS_BYTES: Final = 2**13  # estimated size of the rows of a document
_DRAFT_ID_DIGITS: Final = 32
_BODY: Final = ("key", "input", "input_default", "input_options", "steps")

AUTHOR: Final = Document("Author", fields_at(WORKFLOW_VERSIONS, "workflow_version.created_by"))
DISPLAY: Final = Document("Display", fields_at(WORKFLOW_VERSIONS, "workflow_version.input_options.display"))
OPTIONS: Final = Document("InputOptions", (), {"display": DISPLAY})
AUTO: Final = Document("Auto", fields_at(WORKFLOW_STEPS, "workflow_version.steps[*].auto"))
STEP: Final = Document(
    "StepDefinition",
    fields_at(WORKFLOW_STEPS, "workflow_version.steps[*]"),
    {"auto": AUTO, "destinations": FITTERS["text[]"], "position": JSON, "size": JSON},
)
_STEPS: Final = {"steps": Each(STEP, listed=True)}
_VERSION_FIELDS: Final = fields_at(WORKFLOW_VERSIONS, "workflow_version")
VERSION: Final = Document("Version", _VERSION_FIELDS, _STEPS | {"created_by": AUTHOR})
DRAFT: Final = Document("Draft", _VERSION_FIELDS, _STEPS | {"created_by": AUTHOR}, known=_BODY)

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
    content = canonical(parse(text))
    draft_id = hashlib.sha256(workflow_id.encode() + b"\n" + content).hexdigest()[:_DRAFT_ID_DIGITS]
    return _rows(DRAFT.read(text, place), (f"draft:{draft_id}", app_id, workflow_id, True, digest(content)), place)


def _version_rows(text: bytes) -> VersionRows:
    place = "workflow_version"
    version = VERSION.read(text, place)
    if not version.id:
        raise RecordError("invalid_field", f"{place}.id: expected a string that is not empty")
    content = digest(canonical(parse(text)))
    return _rows(version, (version.id, version.app_id, version.workflow_id, False, content), place)


def _rows(definition: Any, identity: tuple[Any, ...], place: str) -> VersionRows:
    author = definition.created_by or AUTHOR.empty
    if author.extra:
        definition.extra = {**(definition.extra or {}), "created_by": author.extra}
    options = OPTIONS.read(definition.input_options, f"{place}.input_options") or OPTIONS.empty
    row = version_row(definition, author, options.display or DISPLAY.empty, *identity, None)
    version_id, content = identity[0], identity[-1]
    steps, links = [], dict[Row, None]()
    for ordinal, step in enumerate(definition.steps or ()):
        at = f"{place}.steps.{ordinal}"
        for to_key, via in _links(step, at):
            links[version_id, step.key, to_key, via] = None
        steps.append(_step_row(version_id, ordinal, step, at))
    return VersionRows(version_id, row, tuple(steps), tuple(links), content)


def _step_row(version_id: str, ordinal: int, step: Any, place: str) -> Row:
    config = step.extra or {}
    if _is_list_of_keys(_parsed(config.get("else"))):
        config.pop("else", None)
    auto = step.auto or AUTO.empty
    places = *_pair(step.position, "position", config, place), *_pair(step.size, "size", config, place)
    if auto.extra:
        config["auto"] = auto.extra
    return step_row(step, auto, version_id, ordinal, *places, extra_of(config))


def _pair(raw: Raw, name: str, config: dict[str, Any], place: str) -> tuple[float | None, float | None]:
    """Return the two columns of a position or a size; values that do not fit are kept in `config`."""
    numbers = _parsed(raw) or []
    if not isinstance(numbers, list):
        refuse(f"{place}.{name}", "an array", numbers)
    for at, number in enumerate(numbers):
        if not isinstance(number, Number | None):
            refuse(f"{place}.{name}.{at}", "a number", number)
    values = [None if number is None or isinf(number) else float(number) for number in numbers[:2]]
    if len(numbers) > 2 or any(
        value is None and number is not None for value, number in zip(values, numbers, strict=False)
    ):
        config[name] = raw
    first, second = (*values, None, None)[:2]
    return first, second


def _links(step: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield the successors of a step: (key of the next step, via)."""
    extra = step.extra or {}
    targets: list[tuple[Json, str, str]] = [(step.destinations, "destination", "destinations")]
    conditions = _parsed(extra.get("conditions"))
    if isinstance(conditions, dict):
        for name, condition in conditions.items():
            destinations = condition.get("destinations") if isinstance(condition, dict) else None
            targets.append((destinations, f"branch:{name}", f"conditions.{name}.destinations"))
    targets.append((_parsed(extra.get("else")), "else", "else"))
    for keys, via, field in targets:
        if not _is_list_of_keys(keys):
            # These fields are documented only for branches.
            if step.type == "branch":
                refuse(f"{place}.{field}", "an array of step keys", keys)
            continue
        if keys and step.key is None:
            refuse(f"{place}.key", "a string", None)
        yield from ((key, via) for key in keys or ())


def _parsed(raw: Raw | None) -> Json:
    return None if raw is None else parse(bytes(raw))


def _is_list_of_keys(value: Json) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(key, str) for key in value))
