"""A workflow's definition (a saved version or a draft) as rows."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from etl.decode import Json, canonical, digest
from etl.errors import RecordError
from etl.models import Auto, Display, InputOptions, Step, Version, VersionBody, describe, validated
from etl.normalize.columns import INT4, Leftovers, exact, jsonb
from etl.normalize.rows import Row, VersionRows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from decimal import Decimal

_DRAFT_ID_DIGITS: Final = 32


def draft_id(workflow_id: str, text: bytes) -> str:
    """The id of a draft: `text` is its canonical JSON."""
    content = hashlib.sha256(workflow_id.encode() + b"\n" + text)
    return f"draft:{content.hexdigest()[:_DRAFT_ID_DIGITS]}"


def version_rows(document: Json) -> VersionRows:
    """The rows of a saved version, already cleaned.

    Raises:
        RecordError: `invalid_field`.
    """
    version = validated(Version, document, "workflow_version")
    author, leftovers = version.created_by, Leftovers(version.unknown)
    if author is not None:
        leftovers.put_unknown(("created_by",), author.unknown)
    head = (
        version.id,
        version.app_id,
        version.workflow_id,
        False,
        leftovers.integer(version.version, INT4, "version"),
        leftovers.integer(version.rollback_version, INT4, "rollback_version"),
        version.description,
        version.notes,
        version.key,
        author.id if author else None,
        author.name if author else None,
        leftovers.moment(version.created_at, "created_at"),
    )
    return _definition_rows(head, version, leftovers, digest(canonical(document)), "workflow_version")


def draft_rows(document: Json, app_id: str | None, workflow_id: str) -> VersionRows:
    """The rows of a draft, already cleaned, of a workflow of the app `app_id`.

    Raises:
        RecordError: `invalid_field`.
    """
    draft = validated(VersionBody, document, "workflow_version_draft")
    text = canonical(document)
    head = (
        draft_id(workflow_id, text),
        app_id,
        workflow_id,
        True,
        *(None, None, None, None),
        draft.key,
        *(None, None, None),
    )
    return _definition_rows(head, draft, Leftovers(draft.unknown), digest(text), "workflow_version_draft")


def _definition_rows(head: Row, body: VersionBody, leftovers: Leftovers, content: bytes, place: str) -> VersionRows:
    options = validated(InputOptions, body.input_options or {}, f"{place}.input_options")
    display = options.display or Display()
    row = (
        *head,
        jsonb(body.input),
        jsonb(body.input_default),
        jsonb(body.input_options),
        display.field,
        display.container,
        display.hidden,
        leftovers.jsonb(),
        content,
        None,
    )
    version_id: str = head[0]
    steps, links = [], dict[Row, None]()
    for ordinal, step in enumerate(body.steps or ()):
        steps.append(_step_row(version_id, ordinal, step))
        for to_key, via in _links(step, f"{place}.steps.{ordinal}"):
            links[version_id, step.key, to_key, via] = None
    return VersionRows(version_id, row, tuple(steps), tuple(links), content)


def _step_row(version_id: str, ordinal: int, step: Step) -> Row:
    config = Leftovers(step.unknown)
    if _is_list_of_keys(config.fields.get("else")):
        config.fields.pop("else", None)
    auto = step.auto or Auto()
    config.put_unknown(("auto",), auto.unknown)
    return (
        version_id,
        ordinal,
        step.key,
        step.type,
        step.display,
        step.conditional,
        step.loop,
        step.throw_on_error,
        step.input_connected,
        *_pair(step.position, "position", config),
        *_pair(step.size, "size", config),
        auto.provider,
        auto.model,
        exact(auto.temperature),
        step.note,
        config.jsonb(),
    )


def _pair(numbers: list[Decimal | None] | None, name: str, config: Leftovers) -> tuple[float | None, float | None]:
    """The two columns of a place or a size; what they cannot hold is kept whole in the configuration."""
    numbers = numbers or []
    values = [config.double(number) for number in numbers[:2]]
    if len(numbers) > 2 or any(
        value is None and number is not None for value, number in zip(values, numbers, strict=False)
    ):
        config.put((name,), numbers)
    first, second = (*values, None, None)[:2]
    return first, second


def _links(step: Step, place: str) -> Iterator[tuple[str, str]]:
    """Where a step leads: (key of the next step, via)."""
    targets: list[tuple[Json, str, str]] = [(step.destinations, "destination", "destinations")]
    conditions = step.unknown.get("conditions")
    if isinstance(conditions, dict):
        for name, condition in conditions.items():
            destinations = condition.get("destinations") if isinstance(condition, dict) else None
            targets.append((destinations, f"branch:{name}", f"conditions.{name}.destinations"))
    targets.append((step.unknown.get("else"), "else", "else"))
    for keys, via, field in targets:
        if not _is_list_of_keys(keys):
            # Of a branch these fields are documented; what they mean in steps of other types nobody has said.
            if step.type == "branch":
                raise RecordError("invalid_field", f"{place}.{field}: expected a list of keys, found {describe(keys)}")
            continue
        if keys and step.key is None:
            raise RecordError("invalid_field", f"{place}.key: expected text, found nothing")
        yield from ((key, via) for key in keys or ())


def _is_list_of_keys(value: Json) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(key, str) for key in value))
