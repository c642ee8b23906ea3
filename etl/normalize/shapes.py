"""The documents of a run as typed structs: what the fast path takes, field for field as in `etl.models`.

Free-form JSON stays raw, as do numbers whose digits matter. Whatever differs in any way (an unknown field, another
type) does not decode, and the run takes the careful path.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec
from msgspec import Raw

NULL: Final = Raw(b"null")
Milliseconds: TypeAlias = int | float | None


class _Shape(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A document without unknown fields. None of these can be in a cycle, so the garbage collector need not look."""


class StepCallShape(_Shape):
    """As `models.StepCall`."""

    id: str | None = None
    status: str | None = None
    index: int | None = None
    key: str | None = None
    type: str | None = None
    output: Raw = NULL
    logs: Raw = NULL
    start: Milliseconds = None
    end: Milliseconds = None
    error: str | None = None


class StepShape(_Shape):
    """As `models.StepOutput`."""

    status: str | None = None
    type: str | None = None
    key: str | None = None
    output: Raw = NULL
    logs: Raw = NULL
    calls: list[StepCallShape] | None = None
    start: Milliseconds = None
    end: Milliseconds = None
    error: str | None = None


class CallUsageShape(_Shape):
    """As `models.CallUsage`."""

    id: str | None = None
    total: Raw = NULL
    calls: list[CallUsageShape] | None = None


class UsageShape(_Shape):
    """As `models.Usage`."""

    total: Raw = NULL
    calls: list[CallUsageShape] | None = None


class RunUsageShape(_Shape):
    """As `models.RunUsage`."""

    total: Raw = NULL
    calls: list[CallUsageShape] | None = None
    steps: dict[str, UsageShape | None] | None = None


class RetentionShape(_Shape):
    """As `models.Retention`."""

    max_age_in_seconds: int | None = None
    preserve_on_failure: bool | None = None


class RunShape(_Shape):
    """As `models.Run`; `output` is a map, in its older form a list."""

    id: str
    app_id: str | None = None
    workflow_app_id: str | None = None
    workflow_id: str | None = None
    workflow_version: Raw = NULL
    workflow_version_draft: Raw = NULL
    version: int | None = None
    status: str | None = None
    origin: str | None = None
    error: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    created_at: str | None = None
    updated_at: str | None = None
    collection_id: str | None = None
    record_id: str | None = None
    input: Raw = NULL
    result: Raw = NULL
    output: dict[str, StepShape | None] | list[StepShape] | None = None
    usage: RunUsageShape | None = None
    retention: RetentionShape | None = None
    retention_due_at: str | None = None


class ModelOutputShape(msgspec.Struct, gc=False):
    """What a column holds of the output of a model step."""

    provider: str | None = None
    model: str | None = None


class HttpOutputShape(msgspec.Struct, gc=False):
    """What a column holds of the output of an http_request or browser step."""

    status: int | None = None


class WorkflowOutputShape(msgspec.Struct, gc=False):
    """What a column holds of the output of a workflow step."""

    run_id: str | None = None


RUN: Final = msgspec.json.Decoder(RunShape)
MODEL_OUTPUT: Final = msgspec.json.Decoder(ModelOutputShape)
HTTP_OUTPUT: Final = msgspec.json.Decoder(HttpOutputShape)
WORKFLOW_OUTPUT: Final = msgspec.json.Decoder(WorkflowOutputShape)
