"""The single description of all columns that a load fills.

Decoding (`etl.normalize`), the order of values in rows, COPY, upserts, the fields that redaction can replace, and the
set of known fields are all derived from these tables. To store another field of a run, add its column to `migrations/`
and one line here; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, slots=True)
class Column:
    """A column and its field in the API's document.

    Attributes:
        name: name of the column.
        type: PostgreSQL type of the column.
        path: path of the field in the run, or for `apps` and `workflows` in the listed workflow. `*` stands for a step
            key, `[*]` for each item of a list. Empty if cortex-etl computes the value.
        fit: name of the fitter in `etl.normalize.fitting`, if it is not that of the type.
        step_types: for a field of a step's output, the types of steps that have the field.
    """

    name: str
    type: str
    path: str = ""
    fit: str = ""
    step_types: tuple[str, ...] = ()

    @property
    def fitter(self) -> str:
        """The name of the fitter."""
        return self.fit or self.type

    @property
    def parent(self) -> str:
        """The path of the object that contains the field."""
        return self.path.rpartition(".")[0]

    @property
    def field(self) -> str:
        """The name of the field in its object."""
        return self.path.rpartition(".")[2]


@dataclass(frozen=True)
class Table:
    """A warehouse table that the loader fills.

    Attributes:
        name: name of the table.
        columns: the columns in COPY order, except generated columns and those that only SQL statements set.
        key: the columns of the primary key.
        parent: the table that the first columns of the key reference.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    parent: str | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The column names in COPY order."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def types(self) -> dict[str, str]:
        """The PostgreSQL type of each column, in COPY order."""
        return {column.name: column.type for column in self.columns}


LONGEST_ID_BYTES = 1000
"""Longer ids may exceed the maximum size of an index entry in PostgreSQL."""

MODEL = ("model",)
HTTP = ("http_request", "browser")
CHILD = ("workflow",)

APPS = Table(
    "apps",
    (
        Column("id", "text", "app.id"),
        Column("name", "text", "app.name"),
        Column("verified", "boolean", "app.verified"),
    ),
    ("id",),
)

WORKFLOWS = Table(
    "workflows",
    (
        Column("id", "text", "id"),
        Column("app_id", "text", "app.id"),
        Column("name", "text", "name"),
        Column("description", "text", "description"),
        Column("enabled", "boolean", "enabled"),
        Column("deleted", "boolean", "deleted"),
        Column("runs_count", "bigint", "runs_count"),
        Column("template_id", "text", "template_id"),
        Column("retention_max_age_s", "bigint", "retention.max_age_in_seconds"),
        Column("retention_preserve_on_failure", "boolean", "retention.preserve_on_failure"),
        Column("tags", "text[]", "tags[*].name", "text"),
        Column("current_version_id", "text", "version.id"),
        Column("created_at", "timestamptz", "created_at"),
        Column("updated_at", "timestamptz", "updated_at"),
        Column("extra", "jsonb"),
    ),
    ("id",),
)

WORKFLOW_VERSIONS = Table(
    "workflow_versions",
    (
        Column("id", "text", "workflow_version.id"),
        Column("app_id", "text", "workflow_version.app_id"),
        Column("workflow_id", "text", "workflow_version.workflow_id"),
        Column("is_draft", "boolean"),
        Column("version", "integer", "workflow_version.version"),
        Column("rollback_version", "integer", "workflow_version.rollback_version"),
        Column("description", "text", "workflow_version.description"),
        Column("notes", "text", "workflow_version.notes"),
        Column("key", "text", "workflow_version.key"),
        Column("created_by_id", "text", "workflow_version.created_by.id"),
        Column("created_by_name", "text", "workflow_version.created_by.name"),
        Column("created_at", "timestamptz", "workflow_version.created_at"),
        Column("input", "jsonb", "workflow_version.input"),
        Column("input_default", "jsonb", "workflow_version.input_default"),
        Column("input_options", "jsonb", "workflow_version.input_options"),
        Column("display_field", "text", "workflow_version.input_options.display.field"),
        Column("display_container", "text", "workflow_version.input_options.display.container"),
        Column("display_hidden", "boolean", "workflow_version.input_options.display.hidden"),
        Column("extra", "jsonb"),
        # The hash of the document, and the effective updated_at of the newest run that contained it. If runs contain
        # different copies of a version, the copy of the newest run is kept, regardless of the order of loading.
        Column("content_hash", "bytea"),
        Column("as_of", "timestamptz"),
    ),
    ("id",),
)

WORKFLOW_STEPS = Table(
    "workflow_steps",
    (
        Column("workflow_version_id", "text"),
        Column("ordinal", "integer"),
        Column("key", "text", "workflow_version.steps[*].key"),
        Column("type", "text", "workflow_version.steps[*].type"),
        Column("display", "text", "workflow_version.steps[*].display"),
        Column("conditional", "text", "workflow_version.steps[*].conditional"),
        Column("loop", "text", "workflow_version.steps[*].loop"),
        Column("throw_on_error", "boolean", "workflow_version.steps[*].throw_on_error"),
        Column("input_connected", "boolean", "workflow_version.steps[*].input_connected"),
        Column("position_x", "double precision", "workflow_version.steps[*].position.0"),
        Column("position_y", "double precision", "workflow_version.steps[*].position.1"),
        Column("width", "double precision", "workflow_version.steps[*].size.0"),
        Column("height", "double precision", "workflow_version.steps[*].size.1"),
        Column("auto_provider", "text", "workflow_version.steps[*].auto.provider"),
        Column("auto_model", "text", "workflow_version.steps[*].auto.model"),
        Column("auto_temperature", "numeric", "workflow_version.steps[*].auto.temperature"),
        Column("note", "text", "workflow_version.steps[*].note"),
        Column("config", "jsonb"),
    ),
    ("workflow_version_id", "ordinal"),
    parent="workflow_versions",
)

WORKFLOW_STEP_LINKS = Table(
    "workflow_step_links",
    (
        Column("workflow_version_id", "text"),
        Column("from_key", "text"),
        Column("to_key", "text"),
        Column("via", "text"),
    ),
    ("workflow_version_id", "from_key", "to_key", "via"),
    parent="workflow_versions",
)

RUNS = Table(
    "runs",
    (
        Column("id", "text", "id"),
        Column("app_id", "text", "app_id"),
        Column("workflow_app_id", "text", "workflow_app_id"),
        Column("workflow_id", "text", "workflow_id"),
        Column("workflow_version_id", "text"),
        Column("workflow_draft_id", "text"),
        Column("version", "integer", "version"),
        Column("status", "text", "status"),
        Column("origin", "text", "origin"),
        Column("error", "text", "error"),
        Column("started_at", "timestamptz", "started_at"),
        Column("ended_at", "timestamptz", "ended_at"),
        Column("created_at", "timestamptz", "created_at"),
        Column("updated_at", "timestamptz", "updated_at"),
        # True if updated_at is a day without a time; it then counts as the end of that day.
        Column("updated_on_day", "boolean", "updated_at"),
        Column("collection_id", "text", "collection_id"),
        Column("record_id", "text", "record_id"),
        Column("input", "jsonb", "input", "payload"),
        Column("result", "jsonb", "result", "payload"),
        Column("credits", "numeric", "usage.total"),
        # The loader subtracts the credits of child runs once they are loaded (`etl.db.rollups`).
        Column("own_credits", "numeric", "usage.total"),
        Column("retention_max_age_s", "bigint", "retention.max_age_in_seconds"),
        Column("retention_preserve_on_failure", "boolean", "retention.preserve_on_failure"),
        Column("retention_due_at", "timestamptz", "retention_due_at"),
        Column("extra", "jsonb"),
        Column("content_hash", "bytea"),
        # The app whose listing contained the run first; with workflow_id, it identifies the stream (etl_streams). If
        # the listing of another workflow contains the run, it is null, and the next two columns identify the stream.
        Column("stream_app_id", "text"),
        Column("listed_under_app_id", "text"),
        Column("listed_under_workflow_id", "text"),
    ),
    ("id",),
)

RUN_STEPS = Table(
    "run_steps",
    (
        Column("run_id", "text"),
        Column("step_key", "text"),
        Column("ordinal", "integer"),
        Column("type", "text", "output.*.type"),
        Column("status", "text", "output.*.status"),
        Column("started_at", "timestamptz", "output.*.start", "epoch_ms"),
        Column("ended_at", "timestamptz", "output.*.end", "epoch_ms"),
        Column("error", "text", "output.*.error"),
        Column("output", "jsonb", "output.*.output", "payload"),
        Column("logs", "jsonb", "output.*.logs", "payload"),
        Column("provider", "text", "output.*.output.provider", step_types=MODEL),
        Column("model", "text", "output.*.output.model", step_types=MODEL),
        Column("input_tokens", "bigint", "output.*.output.raw", "input_tokens", MODEL),
        Column("output_tokens", "bigint", "output.*.output.raw", "output_tokens", MODEL),
        Column("http_status", "integer", "output.*.output.status", step_types=HTTP),
        Column("child_run_id", "text", "output.*.output.run_id", step_types=CHILD),
        Column("looped", "boolean"),
        Column("credits", "numeric", "usage.steps.*.total"),
        Column("extra", "jsonb"),
    ),
    ("run_id", "step_key"),
    parent="runs",
)

RUN_STEP_CALLS = Table(
    "run_step_calls",
    (
        Column("run_id", "text"),
        Column("step_key", "text"),
        Column("ordinal", "integer"),
        Column("call_id", "text", "output.*.calls[*].id"),
        Column("index", "bigint", "output.*.calls[*].index"),
        Column("key", "text", "output.*.calls[*].key"),
        Column("type", "text", "output.*.calls[*].type"),
        Column("status", "text", "output.*.calls[*].status"),
        Column("started_at", "timestamptz", "output.*.calls[*].start", "epoch_ms"),
        Column("ended_at", "timestamptz", "output.*.calls[*].end", "epoch_ms"),
        Column("error", "text", "output.*.calls[*].error"),
        Column("output", "jsonb", "output.*.calls[*].output", "payload"),
        Column("logs", "jsonb", "output.*.calls[*].logs", "payload"),
        Column("provider", "text", "output.*.calls[*].output.provider", step_types=MODEL),
        Column("model", "text", "output.*.calls[*].output.model", step_types=MODEL),
        Column("input_tokens", "bigint", "output.*.calls[*].output.raw", "input_tokens", MODEL),
        Column("output_tokens", "bigint", "output.*.calls[*].output.raw", "output_tokens", MODEL),
        Column("child_run_id", "text", "output.*.calls[*].output.run_id", step_types=CHILD),
        Column("extra", "jsonb"),
    ),
    ("run_id", "step_key", "ordinal"),
    parent="run_steps",
)

RUN_USAGE_CALLS = Table(
    "run_usage_calls",
    (
        Column("run_id", "text"),
        Column("step_key", "text"),
        Column("path", "text"),
        Column("parent_path", "text"),
        Column("depth", "integer"),
        Column("call_id", "text", "usage.calls[*].id"),
        Column("credits", "numeric", "usage.calls[*].total"),
    ),
    ("run_id", "step_key", "path"),
    parent="runs",
)

CHILD_RUNS = Table(
    "child_runs",
    (
        Column("parent_run_id", "text"),
        Column("parent_step_key", "text"),
        Column("run_id", "text"),
    ),
    ("parent_run_id", "parent_step_key", "run_id"),
    parent="runs",
)

DEFINITIONS = (WORKFLOW_VERSIONS, WORKFLOW_STEPS, WORKFLOW_STEP_LINKS)
"""Tables whose rows many runs share. They are loaded before the runs that refer to them."""

RUN_CHILDREN = (RUN_STEPS, RUN_STEP_CALLS, RUN_USAGE_CALLS, CHILD_RUNS)
"""Tables whose rows belong to one run and are replaced with it, parents first."""

ENTITIES = (APPS, WORKFLOWS, *DEFINITIONS, RUNS, *RUN_CHILDREN)
"""All entity tables, parents first."""
