"""Workflows and their definitions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from etl.models.fields import Date, Document, Flag, Numeric, Object, Text
from etl.models.runs import Retention  # noqa: TC001 - pydantic reads it at run time


class Author(Document):
    """Who made a version."""

    id: Text | None = None
    name: Text | None = None


class Display(Document):
    """How the input form is shown."""

    field: Text | None = None
    container: Text | None = None
    hidden: Flag | None = None


class InputOptions(Document):
    """Options of the input form."""

    display: Display | None = None


class Auto(Document):
    """What the editor chose by itself for a step."""

    provider: Text | None = None
    model: Text | None = None
    temperature: Numeric | None = None


class Step(Document):
    """The definition of a step; the fields of its type are among the unknown ones."""

    type: Text | None = None
    key: Text | None = None
    display: Text | None = None
    conditional: Text | None = None
    loop: Text | None = None
    throw_on_error: Flag | None = None
    input_connected: Flag | None = None
    destinations: list[Text] | None = None
    position: list[Numeric | None] | None = None
    size: list[Numeric | None] | None = None
    auto: Auto | None = None
    note: Text | None = None


class VersionBody(Document):
    """A workflow's definition: what a draft consists of."""

    key: Text | None = None
    input: Any = None
    input_default: Any = None
    input_options: Object | None = None
    steps: list[Step] | None = None


class Version(VersionBody):
    """A saved definition."""

    id: Annotated[Text, Field(min_length=1)]
    app_id: Text | None = None
    workflow_id: Text | None = None
    description: Text | None = None
    version: Numeric | None = None
    rollback_version: Numeric | None = None
    notes: Text | None = None
    created_by: Author | None = None
    created_at: Date | None = None


class App(Document):
    """The app that a workflow belongs to."""

    id: Text | None = None
    name: Text | None = None
    verified: Flag | None = None


class Tag(Document):
    """A label of a workflow."""

    name: Text | None = None


class Workflow(Document):
    """A workflow; the fields of its current draft are among the unknown ones."""

    id: Text
    name: Text | None = None
    description: Text | None = None
    app: App | None = None
    version: Object | None = None
    tags: list[Tag] | None = None
    template_id: Text | None = None
    runs_count: Numeric | None = None
    retention: Retention | None = None
    enabled: Flag | None = None
    deleted: Flag | None = None
    created_at: Date | None = None
    updated_at: Date | None = None
