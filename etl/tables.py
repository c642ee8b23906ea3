"""One descriptor a table: columns, PostgreSQL types, key, parent.

The COPY, upsert and delete statements of the loader are made from these, and `migrations/` creates exactly these
columns (a test compares both). Column order here is the order of the tuples that `normalize` yields.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """A warehouse table that the loader fills.

    `columns` maps column name to PostgreSQL type and leaves out generated columns and those that only the loader
    sets in SQL; `key` is the primary key; `parent` names the table that the first key column references.
    """

    name: str
    columns: dict[str, str]
    key: tuple[str, ...]
    parent: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The column names in COPY order."""
        return tuple(self.columns)


APPS = Table("apps", {"id": "text", "name": "text", "verified": "boolean"}, ("id",))

WORKFLOWS = Table(
    "workflows",
    {
        "id": "text",
        "app_id": "text",
        "name": "text",
        "description": "text",
        "enabled": "boolean",
        "deleted": "boolean",
        "runs_count": "bigint",
        "template_id": "text",
        "retention_max_age_s": "bigint",
        "retention_preserve_on_failure": "boolean",
        "tags": "text[]",
        "current_version_id": "text",
        "created_at": "timestamptz",
        "updated_at": "timestamptz",
        "extra": "jsonb",
    },
    ("id",),
)

WORKFLOW_VERSIONS = Table(
    "workflow_versions",
    {
        "id": "text",
        "app_id": "text",
        "workflow_id": "text",
        "is_draft": "boolean",
        "version": "integer",
        "rollback_version": "integer",
        "description": "text",
        "notes": "text",
        "key": "text",
        "created_by_id": "text",
        "created_by_name": "text",
        "created_at": "timestamptz",
        "input": "jsonb",
        "input_default": "jsonb",
        "input_options": "jsonb",
        "display_field": "text",
        "display_container": "text",
        "display_hidden": "boolean",
        "extra": "jsonb",
        # The digest of the document as received, and the (effective) updated_at of the newest run that carried it:
        # where runs disagree on a version's text, the newest run's copy stands, in whatever order they arrive.
        "content_hash": "bytea",
        "as_of": "timestamptz",
    },
    ("id",),
)

WORKFLOW_STEPS = Table(
    "workflow_steps",
    {
        "workflow_version_id": "text",
        "ordinal": "integer",
        "key": "text",
        "type": "text",
        "display": "text",
        "conditional": "text",
        "loop": "text",
        "throw_on_error": "boolean",
        "input_connected": "boolean",
        "position_x": "double precision",
        "position_y": "double precision",
        "width": "double precision",
        "height": "double precision",
        "auto_provider": "text",
        "auto_model": "text",
        "auto_temperature": "numeric",
        "note": "text",
        "config": "jsonb",
    },
    ("workflow_version_id", "ordinal"),
    parent="workflow_versions",
)

WORKFLOW_STEP_LINKS = Table(
    "workflow_step_links",
    {"workflow_version_id": "text", "from_key": "text", "to_key": "text", "via": "text"},
    ("workflow_version_id", "from_key", "to_key", "via"),
    parent="workflow_versions",
)

RUNS = Table(
    "runs",
    {
        "id": "text",
        "app_id": "text",
        "workflow_app_id": "text",
        "workflow_id": "text",
        "workflow_version_id": "text",
        "workflow_draft_id": "text",
        "version": "integer",
        "status": "text",
        "origin": "text",
        "error": "text",
        "started_at": "timestamptz",
        "ended_at": "timestamptz",
        "created_at": "timestamptz",
        "updated_at": "timestamptz",
        # True where the API gave updated_at as a bare day: it then counts as the end of that day.
        "updated_on_day": "boolean",
        "collection_id": "text",
        "record_id": "text",
        "input": "jsonb",
        "result": "jsonb",
        "credits": "numeric",
        "retention_max_age_s": "bigint",
        "retention_preserve_on_failure": "boolean",
        "retention_due_at": "timestamptz",
        "extra": "jsonb",
        "content_hash": "bytea",
        # The app in whose listing the run was found first: with workflow_id it names a stream (row of etl_streams).
        "stream_app_id": "text",
    },
    ("id",),
)

RUN_STEPS = Table(
    "run_steps",
    {
        "run_id": "text",
        "step_key": "text",
        "ordinal": "integer",
        "type": "text",
        "status": "text",
        "started_at": "timestamptz",
        "ended_at": "timestamptz",
        "error": "text",
        "output": "jsonb",
        "logs": "jsonb",
        "provider": "text",
        "model": "text",
        "http_status": "integer",
        "child_run_id": "text",
        "credits": "numeric",
        "extra": "jsonb",
    },
    ("run_id", "step_key"),
    parent="runs",
)

RUN_STEP_CALLS = Table(
    "run_step_calls",
    {
        "run_id": "text",
        "step_key": "text",
        "ordinal": "integer",
        "call_id": "text",
        "index": "bigint",
        "key": "text",
        "type": "text",
        "status": "text",
        "started_at": "timestamptz",
        "ended_at": "timestamptz",
        "error": "text",
        "output": "jsonb",
        "logs": "jsonb",
        "provider": "text",
        "model": "text",
        "child_run_id": "text",
        "extra": "jsonb",
    },
    ("run_id", "step_key", "ordinal"),
    parent="run_steps",
)

RUN_USAGE_CALLS = Table(
    "run_usage_calls",
    {
        "run_id": "text",
        "step_key": "text",
        "path": "text",
        "parent_path": "text",
        "depth": "integer",
        "call_id": "text",
        "credits": "numeric",
    },
    ("run_id", "step_key", "path"),
    parent="runs",
)

DEFINITIONS = (WORKFLOW_VERSIONS, WORKFLOW_STEPS, WORKFLOW_STEP_LINKS)
"""What many runs share: loaded before the runs that point at it."""

RUN_CHILDREN = (RUN_STEPS, RUN_STEP_CALLS, RUN_USAGE_CALLS)
"""What belongs to one run and is replaced with it, parents first."""

ENTITIES = (APPS, WORKFLOWS, *DEFINITIONS, RUNS, *RUN_CHILDREN)
"""Every entity table, parents first."""
