"""Runs, their steps and their credits."""

from __future__ import annotations

from typing import Any

from etl.models.fields import Date, Document, Flag, Items, Numeric, Object, Text


class Usage(Document):
    """The credits of a run, a step or a part of one; `calls` are validated one by one as `CallUsage`."""

    total: Numeric | None = None
    calls: Items | None = None


class CallUsage(Usage):
    """A node of the credit tree; the API gives ids on every second level."""

    id: Text | None = None


class RunUsage(Usage):
    """The credits of a run, with those of its steps by step key."""

    steps: dict[str, Usage | None] | None = None


class StepCall(Document):
    """One loop iteration or tool call; `start` and `end` are epoch milliseconds."""

    id: Text | None = None
    status: Text | None = None
    index: Numeric | None = None
    key: Text | None = None
    type: Text | None = None
    output: Any = None
    logs: Any = None
    start: Numeric | None = None
    end: Numeric | None = None
    error: Text | None = None


class StepOutput(Document):
    """What a step of a run did; `start` and `end` are epoch milliseconds."""

    status: Text | None = None
    type: Text | None = None
    key: Text | None = None
    output: Any = None
    logs: Any = None
    calls: list[StepCall] | None = None
    start: Numeric | None = None
    end: Numeric | None = None
    error: Text | None = None


class Retention(Document):
    """How long runs are kept; -1: for ever."""

    max_age_in_seconds: Numeric | None = None
    preserve_on_failure: Flag | None = None


class Run(Document):
    """A workflow run. Its definitions are validated apart, because thousands of runs repeat the same one."""

    id: Text
    app_id: Text | None = None
    workflow_app_id: Text | None = None
    workflow_id: Text | None = None
    workflow_version: Object | None = None
    workflow_version_draft: Object | None = None
    version: Numeric | None = None
    status: Text | None = None
    origin: Text | None = None
    error: Text | None = None
    started_at: Date | None = None
    ended_at: Date | None = None
    created_at: Date | None = None
    updated_at: Date | None = None
    collection_id: Text | None = None
    record_id: Text | None = None
    input: Any = None
    result: Any = None
    output: dict[str, StepOutput | None] | None = None
    usage: RunUsage | None = None
    retention: Retention | None = None
    retention_due_at: Date | None = None
