"""Write the rows of a batch, within a transaction of `etl.db.store`.

New runs are copied directly into their tables. Changed runs are staged in a temporary table, anti-joined with the
stored rows, and upserted; their children are replaced.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from etl.db.definitions import copy_rows
from etl.db.erasing import KEPT
from etl.db.foreign_keys import ForeignKeyChecks, hold_owners
from etl.db.own_credits import note_changes
from etl.db.statements import statements
from etl.decode.items import size_of
from etl.decode.json_text import clean_text
from etl.tables import CHILD_RUNS, RUN_STEP_CALLS, RUN_STEPS, RUN_USAGE_CALLS, RUNS

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    import asyncpg

    from etl.db.batch import Reject
    from etl.events import StreamId
    from etl.normalize.rows import RunRows
    from etl.tables import Table

_SQL = statements("load")
_STAGED = (*RUNS.names, "emptied", "erased")
_STREAM = ("stream_app_id", "listed_under_app_id", "listed_under_workflow_id")
_APP, _WORKFLOW = RUNS.names.index("workflow_app_id"), RUNS.names.index("workflow_id")


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
    ) -> tuple[int, int, int]:
        """Upsert runs that are new, or newer than the stored ones.

        Args:
            connection: a connection in a transaction.
            staged: the runs.
            erased: ids of blanked runs.
            authoritative: whether to replace stored runs regardless of their age; see `Batch`.

        Returns:
            The numbers of runs inserted, runs updated, and rows written.
        """
        if not staged:
            return 0, 0, 0
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
        return inserted, len(outcome) - inserted, count


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
