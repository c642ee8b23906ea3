"""A script that distributes a warehouse over a Citus cluster, generated from the table descriptions.

Runs are distributed by id and their child rows by run_id, so that all rows of a run are on one node. Definitions are
replicated to every node. Bookkeeping tables are local tables of the coordinator. If they were replicated, each update
would lock the whole table, and processes would wait for each other at each commit, claim and lease.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from etl.db.connect import quote_identifier
from etl.db.statements import statements
from etl.tables import APPS, DEFINITIONS, ENTITIES, RUN_CHILDREN, RUNS, WORKFLOW_VERSIONS, WORKFLOWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from etl.tables import Table

_SQL = statements("citus")
_TRIGGERS = ("runs_inserted", "runs_updated", "runs_deleted", "runs_truncated")


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key of the warehouse, with the name given by the migrations."""

    name: str
    table: str
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]
    on_delete: str | None = "CASCADE"

    @property
    def definition(self) -> str:
        """The definition for ALTER TABLE."""
        text = f"FOREIGN KEY ({', '.join(self.columns)}) REFERENCES {self.target} ({', '.join(self.target_columns)})"
        return f"{text} ON DELETE {self.on_delete}" if self.on_delete else text


def foreign_keys() -> tuple[ForeignKey, ...]:
    """Return all foreign keys of the warehouse, in an order in which they can be created."""
    version, runs = WORKFLOW_VERSIONS, RUNS.name
    return (
        ForeignKey("workflows_app_fkey", WORKFLOWS.name, ("app_id",), APPS.name, APPS.key, on_delete=None),
        ForeignKey("runs_app_fkey", runs, ("workflow_app_id",), APPS.name, APPS.key, on_delete=None),
        ForeignKey("runs_workflow_fkey", runs, ("workflow_id",), WORKFLOWS.name, WORKFLOWS.key, on_delete=None),
        ForeignKey("runs_version_fkey", runs, ("workflow_version_id",), version.name, version.key, on_delete=None),
        ForeignKey("runs_draft_fkey", runs, ("workflow_draft_id",), version.name, version.key, on_delete=None),
        *(_to_parent(table) for table in ENTITIES if table.parent is not None),
        ForeignKey("etl_rejects_sync_fkey", "etl_rejects", ("sync_id",), "etl_syncs", ("id",), on_delete="SET NULL"),
    )


def _to_parent(table: Table) -> ForeignKey:
    parent = next(each for each in ENTITIES if each.name == table.parent)
    noun = parent.name.rpartition("_")[2].removesuffix("s")
    return ForeignKey(f"{table.name}_{noun}_fkey", table.name, table.key[: len(parent.key)], parent.name, parent.key)


def citus_script(schema: str) -> str:
    """Return the script for psql, to be run once as the owner of the schema on the coordinator."""
    return "\n".join(_lines(schema)) + "\n"


def _lines(schema: str) -> Iterator[str]:
    yield "-- Distributes the warehouse over a Citus cluster. Add the nodes and apply the migrations, then run this"
    yield "-- on the coordinator while no sync is running: cortex-etl migrate --citus | psql -v ON_ERROR_STOP=1 URL"
    yield ""
    yield "BEGIN;"
    yield f"SET LOCAL search_path TO {quote_identifier(schema)}, public;"
    yield ""
    yield "-- Citus cannot distribute a table that a local table refers to."
    for key in reversed(foreign_keys()):
        yield f"ALTER TABLE {key.table} DROP CONSTRAINT {key.name};"
    yield ""
    yield "-- Citus does not support these triggers. Rollups depend on them, so the views are computed from the runs."
    for trigger in _TRIGGERS:
        yield f"DROP TRIGGER {trigger} ON {RUNS.name};"
    yield _SQL["count_from_runs"] + ";"
    yield ""
    yield "-- Replicated to every node."
    for table in (APPS, WORKFLOWS, *DEFINITIONS):
        yield f"SELECT create_reference_table('{table.name}');"
    yield ""
    yield "-- Distributed, each run together with its child rows."
    yield f"SELECT create_distributed_table('{RUNS.name}', '{RUNS.key[0]}');"
    for table in RUN_CHILDREN:
        yield f"SELECT create_distributed_table('{table.name}', '{table.key[0]}', colocate_with => '{RUNS.name}');"
    yield ""
    for key in foreign_keys():
        yield f"ALTER TABLE {key.table} ADD CONSTRAINT {key.name} {key.definition};"
    yield "COMMIT;"
