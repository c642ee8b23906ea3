"""Write the rows of a batch, within a transaction of `etl.db.store`.

New runs are copied directly into their tables. Changed runs are staged in a temporary table, anti-joined with the
stored rows, and upserted; their children are replaced. Of the version documents that runs refer to, the newest copy is
kept.

A new run is written after its app, workflow and version, and its children after the run, in one transaction that locks
the referenced rows that existed before. The foreign key checks would then look up each referenced row again, which
takes a quarter of PostgreSQL's time in a load. They are skipped if the role may set `session_replication_role`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from etl.db.erasing import KEPT
from etl.db.rollups import note_changes
from etl.db.statements import statements
from etl.decode.items import size_of
from etl.decode.json_text import clean_text
from etl.normalize.rows import effective_updated_at
from etl.tables import (
    CHILD_RUNS,
    RUN_STEP_CALLS,
    RUN_STEPS,
    RUN_USAGE_CALLS,
    RUNS,
    WORKFLOW_STEP_LINKS,
    WORKFLOW_STEPS,
    WORKFLOW_VERSIONS,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Container, Iterable, Mapping, Sequence
    from datetime import datetime

    import asyncpg

    from etl.db.batch import Reject
    from etl.events import StreamId
    from etl.normalize.rows import RunRows, VersionRows
    from etl.tables import Table

    Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy[Any]

_SQL = statements("load")
_STAGED = (*RUNS.names, "emptied", "erased")
_STREAM = ("stream_app_id", "listed_under_app_id", "listed_under_workflow_id")
_APP, _WORKFLOW = RUNS.names.index("workflow_app_id"), RUNS.names.index("workflow_id")
_GRANTABLE_SINCE = 15  # first version of PostgreSQL in which the privilege to set a parameter can be granted


class Merged(NamedTuple):
    """The result of upserting runs.

    Attributes:
        inserted: number of runs inserted.
        updated: number of runs updated.
        rows: number of rows written.
        taken: the runs that are in the listing of another workflow and were not written: that workflow, by run id.
    """

    inserted: int = 0
    updated: int = 0
    rows: int = 0
    taken: Mapping[str, str] = MappingProxyType({})


class RunWriter:
    """Writes runs and their children within a transaction of the caller.

    Args:
        keep_payloads: whether runs whose payloads the API has deleted (retention) keep the stored payloads.
    """

    def __init__(self, *, keep_payloads: bool) -> None:
        self._keep = keep_payloads
        self._checks = ForeignKeyChecks()

    async def insert(self, connection: asyncpg.Connection, new: Sequence[RunRows]) -> int:
        """Insert runs that are not in the warehouse; return the number of rows written.

        Raises:
            asyncpg.UniqueViolationError: the warehouse contains one of the runs.
        """
        if not new:
            return 0
        async with self._checks.skipped(connection):
            await copy_rows(connection, RUNS, [rows.run for rows in new])
            count = await _copy_children(connection, new)
        await note_changes(connection, _with_children(new))
        return len(new) + count

    async def merge(
        self,
        connection: asyncpg.Connection,
        staged: Sequence[RunRows],
        erased: Container[str],
        *,
        authoritative: bool = False,
    ) -> Merged:
        """Upsert runs that are new, or newer than the stored ones.

        Args:
            connection: a connection in a transaction.
            staged: the runs.
            erased: ids of blanked runs.
            authoritative: whether to replace stored runs regardless of their age; see `Batch`.
        """
        if not staged:
            return Merged()
        await connection.execute(_STAGE)
        await connection.copy_records_to_table(
            "staged_runs",
            schema_name="pg_temp",
            columns=_STAGED,
            records=[(*rows.run, rows.emptied, rows.run_id in erased) for rows in staged],
        )
        kept: set[str] = set()
        if self._keep and any(rows.emptied for rows in staged):
            kept = {row["id"] for row in await connection.fetch(_SQL["keep_payloads"])}
        outcome = {row["id"]: row["inserted"] for row in await connection.fetch(_UPSERT, authoritative)}
        taken: dict[str, str] = {}
        if len(outcome) < len(staged):
            taken = {row["id"]: row["listed_under"] for row in await connection.fetch(_TAKEN)}
        await connection.execute("DROP TABLE pg_temp.staged_runs")
        written = [rows for rows in staged if rows.run_id in outcome]
        replaced = [rows for rows in written if rows.run_id not in kept]
        inserted = sum(outcome.values())
        changed = _with_children(written)
        if len(written) > inserted:
            stale = [rows.run_id for rows in replaced]
            former = await connection.fetch(_SQL["delete_children"], stale, [rows.run_id for rows in written])
            changed.update(row["run_id"] for row in former)
        await note_changes(connection, changed)
        count = len(written)
        if replaced:
            async with self._checks.skipped(connection):
                count += await _copy_children(connection, replaced)
        for rows in written:
            if rows.run_id in kept:
                count += await _refresh_kept(connection, rows)
        return Merged(inserted, len(outcome) - inserted, count, taken)


async def write_rejects(
    connection: asyncpg.Connection, stream: StreamId, sync_id: int | None, rejects: Iterable[tuple[Reject, bytes]]
) -> None:
    """Quarantine items.

    Args:
        connection: a connection in a transaction.
        stream: the stream that listed the items.
        sync_id: the sync that read them.
        rejects: the items, each with the bytes to store.
    """
    for reject, payload in rejects:
        run_id = None if reject.run_id is None else clean_text(reject.run_id)
        if run_id is not None:
            await connection.execute(_SQL["supersede_rejects"], *stream, run_id, reject.digest)
        place = (clean_text(reject.item.url), reject.item.page)
        details = (reject.reason, clean_text(reject.error), payload, reject.digest, size_of(reject.item.raw))
        await connection.execute(_SQL["quarantine"], sync_id, *stream, run_id, *place, *details)


async def write_owners(connection: asyncpg.Connection, runs: Sequence[RunRows]) -> None:
    """Ensure that the apps and workflows of runs have rows, and lock these rows."""
    await hold_owners(connection, {rows.run[_APP] for rows in runs}, {rows.run[_WORKFLOW] for rows in runs})


async def _copy_children(connection: asyncpg.Connection, runs: Sequence[RunRows]) -> int:
    """COPY the children of runs that this transaction has written; return the number of rows."""
    steps = list(chain.from_iterable(rows.steps for rows in runs))
    calls = list(chain.from_iterable(rows.calls for rows in runs))
    usage = list(chain.from_iterable(rows.usage for rows in runs))
    started = list(chain.from_iterable(rows.child_runs for rows in runs))
    await copy_rows(connection, RUN_STEPS, steps)
    await copy_rows(connection, RUN_STEP_CALLS, calls)
    await copy_rows(connection, RUN_USAGE_CALLS, usage)
    await copy_rows(connection, CHILD_RUNS, started)
    return len(steps) + len(calls) + len(usage) + len(started)


def _with_children(runs: Iterable[RunRows]) -> set[str]:
    """Return the ids of runs and of the runs that they started."""
    child = CHILD_RUNS.names.index("run_id")
    return {rows.run_id for rows in runs} | {row[child] for rows in runs for row in rows.child_runs}


async def _refresh_kept(connection: asyncpg.Connection, rows: RunRows) -> int:
    """Update the credits of a run that keeps its stored payloads and steps; return the number of rows."""
    total = RUN_STEPS.names.index("credits")
    step_key = RUN_STEPS.names.index("step_key")
    keys = [row[step_key] for row in rows.steps]
    await connection.execute(_SQL["clear_kept_usage"], rows.run_id, keys)
    await connection.executemany(
        _SQL["merge_kept_step"], [(rows.run_id, row[step_key], row[total]) for row in rows.steps]
    )
    await copy_rows(connection, RUN_USAGE_CALLS, rows.usage)
    return len(rows.steps) + len(rows.usage)


def _columns(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _assignments(table: Table, *, but: Iterable[str]) -> str:
    return ", ".join(f'"{name}" = excluded."{name}"' for name in table.names if name not in (*table.key, *but))


_STAGE = (
    "CREATE TEMPORARY TABLE staged_runs ("
    + ", ".join(f'"{name}" {kind}' for name, kind in RUNS.types.items())
    + ", emptied boolean, erased boolean, kept boolean NOT NULL DEFAULT false) ON COMMIT DROP"
)


def _is_older(staged: str) -> str:
    """Return an SQL condition: the copy in `staged` is older than the stored one.

    It is false if $1 (authoritative) is true, or if one of the copies has no time or a time more than a day ahead.
    """
    key = """CASE WHEN {0}.updated_at > now() + interval '1 day' THEN NULL
        WHEN {0}.updated_on_day THEN {0}.updated_at + interval '86399.999999 s' ELSE {0}.updated_at END"""
    return f"coalesce(NOT $1::boolean AND {key.format('runs')} > {key.format(staged)}, false)"


def _listed_under(table: str) -> str:
    """Return an SQL expression: the workflow whose listing contains the run."""
    return f"coalesce({table}.listed_under_workflow_id, {table}.workflow_id)"


def _is_unchanged(staged: str) -> str:
    """Return an SQL condition: the copy in `staged` is unchanged.

    Erased runs have no hash, so their columns are compared.
    """
    names = [name for name in KEPT if name not in ("id", "own_credits", *_STREAM)]
    stored, incoming = (", ".join(f'{table}."{name}"' for name in names) for table in ("runs", staged))
    return (
        f"(runs.content_hash = {staged}.content_hash OR runs.erased_at IS NOT NULL AND {staged}.erased"
        f" AND ({stored}) IS NOT DISTINCT FROM ({incoming}))"
    )


_FIRST_APP = "CASE WHEN runs.gone_at IS NULL THEN coalesce(runs.listed_under_app_id, runs.stream_app_id) END"

# Unchanged runs and older copies are excluded before the upsert, because ON CONFLICT locks the row even if its WHERE
# clause is false. That clause handles rows that another stream commits in between: a run stays with the workflow whose
# listing contained it first.
_UPSERT = f"""
INSERT INTO runs ({_columns(RUNS.names)}, erased_at)
SELECT {_columns(RUNS.names)}, CASE WHEN staged.erased THEN now() END FROM pg_temp.staged_runs AS staged
WHERE NOT EXISTS (
    SELECT FROM runs
    WHERE runs.id = staged.id AND (({_is_unchanged("staged")} AND runs.gone_at IS NULL) OR {_is_older("staged")})
)
ON CONFLICT (id) DO UPDATE SET {_assignments(RUNS, but=["stream_app_id", "listed_under_app_id", "own_credits"])},
    stream_app_id = CASE WHEN excluded.listed_under_workflow_id IS NULL
        THEN coalesce({_FIRST_APP}, excluded.stream_app_id) END,
    listed_under_app_id = CASE WHEN excluded.listed_under_workflow_id IS NOT NULL
        THEN coalesce({_FIRST_APP}, excluded.listed_under_app_id) END,
    gone_at = NULL, payload_removed_at = NULL, last_synced_at = now(),
    -- The own credits of an erased parent stay: its child runs, from which they were computed, are deleted.
    own_credits = CASE WHEN runs.erased_at IS NULL OR runs.own_credits IS NOT DISTINCT FROM runs.credits
        THEN excluded.own_credits ELSE runs.own_credits END,
    erased_at = coalesce(runs.erased_at, excluded.erased_at)
WHERE NOT {_is_older("excluded")} AND (runs.erased_at IS NULL OR excluded.erased_at IS NOT NULL)
    AND (runs.gone_at IS NOT NULL OR {_listed_under("runs")} = {_listed_under("excluded")})
RETURNING id, xmax = 0 AS inserted
"""  # noqa: S608 - made from the descriptors alone

# After the upsert, which waits for the other streams that write these runs.
_TAKEN = f"""
SELECT id, {_listed_under("runs")} AS listed_under
FROM runs JOIN pg_temp.staged_runs AS staged USING (id)
WHERE runs.gone_at IS NULL AND {_listed_under("runs")} <> {_listed_under("staged")}
"""  # noqa: S608 - made from constants alone


async def write_definitions(
    connection: asyncpg.Connection, runs: Iterable[RunRows], *, authoritative: bool = False
) -> int:
    """Write the definitions that runs refer to, if they are new or newer than the stored ones.

    Stored definitions are locked against deletion until the transaction ends.

    Args:
        connection: a connection in the transaction that writes the runs.
        runs: the runs.
        authoritative: whether to replace stored definitions regardless of their age; see `Batch`.

    Returns:
        The number of rows written.
    """
    wanted: dict[str, tuple[VersionRows, datetime | None]] = {}
    for rows in runs:
        as_of = effective_updated_at(rows.updated_at, rows.updated_on_day)
        for version in rows.versions:
            newest = wanted.get(version.id)
            if newest is None or _supersedes(as_of, newest[1]):
                wanted[version.id] = (version, as_of)
    if not wanted:
        return 0
    stored = {row["id"]: row for row in await connection.fetch(_SQL["hold_versions"], list(wanted))}
    new: list[tuple[VersionRows, datetime | None]] = []
    replaced: list[tuple[VersionRows, datetime | None]] = []
    for key, (version, as_of) in sorted(wanted.items()):  # the same order in all transactions prevents deadlocks
        row = stored.get(key)
        if row is None:
            new.append((version, as_of))
        elif row["content_hash"] == version.digest:
            if _later(as_of, row["as_of"]):
                await connection.execute(_SQL["touch_version"], key, as_of)
        elif authoritative or _supersedes(as_of, row["as_of"]):
            replaced.append((version, as_of))
    return await _write_versions(connection, new, replaced)


async def _write_versions(
    connection: asyncpg.Connection,
    new: Sequence[tuple[VersionRows, datetime | None]],
    replaced: Sequence[tuple[VersionRows, datetime | None]],
) -> int:
    if new:
        await copy_rows(connection, WORKFLOW_VERSIONS, [(*version.row[:-1], as_of) for version, as_of in new])
    if replaced:
        await connection.executemany(_UPDATE_VERSION, [(*version.row[:-1], as_of) for version, as_of in replaced])
        await connection.execute(_SQL["delete_version_parts"], [version.id for version, _ in replaced])
    both = [version for version, _ in (*new, *replaced)]
    await copy_rows(connection, WORKFLOW_STEPS, [row for version in both for row in version.steps])
    await copy_rows(connection, WORKFLOW_STEP_LINKS, [row for version in both for row in version.links])
    return len(both) + sum(len(version.steps) + len(version.links) for version in both)


def _later(one: datetime | None, other: datetime | None) -> bool:
    return one is not None and (other is None or one > other)


def _supersedes(incoming: datetime | None, stored: datetime | None) -> bool:
    """Return whether a copy that was received later replaces the stored one: not if its time is earlier."""
    return incoming is None or stored is None or incoming >= stored


async def copy_rows(connection: asyncpg.Connection, table: Table, records: Sequence[tuple[Any, ...]]) -> None:
    """COPY rows into a table, with values in the order of its columns."""
    if records:
        await connection.copy_records_to_table(table.name, columns=table.names, records=records)


_ASSIGNED = ", ".join(f'"{name}" = ${place}' for place, name in enumerate(WORKFLOW_VERSIONS.names, 1) if name != "id")
_UPDATE_VERSION = f"UPDATE workflow_versions SET {_ASSIGNED} WHERE id = $1"  # noqa: S608 - from the descriptors alone


async def hold_owners(connection: Connection, apps: Iterable[str | None], workflows: Iterable[str | None]) -> None:
    """Ensure that apps and workflows have rows, and lock these rows until the transaction ends.

    A row created here has only an id. Ids are inserted in sorted order, apps first, to prevent deadlocks.
    """
    missing = {("app", each) for each in apps if each is not None}
    missing |= {("workflow", each) for each in workflows if each is not None}
    for _ in range(2):  # the second round locks rows added concurrently by another transaction
        ids = {kind: sorted(each for of, each in missing if of == kind) for kind in ("app", "workflow")}
        missing -= {tuple(row) for row in await connection.fetch(_SQL["hold_owners"], *ids.values())}
        if not missing:
            break
        for kind, name in (("app", "add_apps"), ("workflow", "add_workflows")):
            await connection.execute(_SQL[name], sorted(each for of, each in missing if of == kind))


class ForeignKeyChecks:
    """Skips foreign key checks if the role has the privilege, which is checked once."""

    def __init__(self) -> None:
        self._may_skip: bool | None = None

    @asynccontextmanager
    async def skipped(self, connection: asyncpg.Connection) -> AsyncIterator[None]:
        """Skip foreign key checks inside the block, for COPY of runs and their children.

        Nothing is skipped if these tables have triggers or foreign keys that the migrations did not create.

        Args:
            connection: a connection in a transaction that has written or locked the referenced rows.
        """
        if self._may_skip is None:
            grantable = connection.get_server_version().major >= _GRANTABLE_SINCE
            self._may_skip = await connection.fetchval(_SQL["may_skip" if grantable else "may_skip_14"])
        are_skipped = self._may_skip and await connection.execute(_SQL["skip"]) == "SELECT 1"
        yield
        if are_skipped:  # after an error, the rollback resets the setting
            await connection.execute(_SQL["check_again"])
