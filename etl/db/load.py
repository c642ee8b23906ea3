"""Loading: one transaction takes a batch of runs, their children, definitions and rejects, and the checkpoint.

Runs that the warehouse does not hold go straight to their tables by binary COPY. Changed ones are staged in a temporary
table, anti-joined against what is already stored, and upserted; their children are replaced. Where a run turns out to
exist after all (another stream listed it at the same moment), the whole batch takes the second way.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from time import perf_counter
from typing import TYPE_CHECKING

from asyncpg import exceptions as pg

from etl.db.batch import Loaded, Reject
from etl.db.definitions import copy_rows, supersedes, write_definitions
from etl.db.erasing import FORGOTTEN, KEPT, blank, find_erased
from etl.db.foreign_keys import References, hold_owners
from etl.db.statements import statements
from etl.errors import LockLostError
from etl.normalize import effective_updated_at
from etl.tables import (
    RUN_STEP_CALLS,
    RUN_STEPS,
    RUN_USAGE_CALLS,
    RUNS,
)

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    import asyncpg

    from etl.db.batch import Batch, Provenance
    from etl.events import StreamId
    from etl.normalize import RunRows
    from etl.tables import Table

_SQL = statements("load")
_STAGED = (*RUNS.names, "emptied", "erased")
_APP, _WORKFLOW = RUNS.names.index("workflow_app_id"), RUNS.names.index("workflow_id")

REFUSED_BY_DATABASE = "refused_by_database"
"""Reject reason of a run whose rows PostgreSQL does not take."""

# What a single bad value can provoke, on either side of the wire. A lost connection or a full disk is none of these.
REFUSALS = (
    pg.DataError,
    pg.ProgramLimitExceededError,
    pg.StatementTooComplexError,
    pg.IntegrityConstraintViolationError,
    pg.InternalServerError,
    ValueError,
    OverflowError,
    TypeError,
)


class Loader:
    """Writes batches of one stream.

    Args:
        stream: whose runs these are.
        fence: the token of the lock held; a commit without it is refused by `LockLostError`.
        sync_id: the ledger row that rejects point at.
        keep_payloads: whether emptied payloads of due runs leave the stored ones in place.
    """

    def __init__(
        self,
        stream: StreamId,
        *,
        fence: int,
        sync_id: int | None,
        keep_payloads: bool = True,
    ) -> None:
        self._stream = stream
        self._fence = fence
        self._sync_id = sync_id
        self._keep = keep_payloads
        self._references = References()

    async def begin(self, connection: asyncpg.Connection) -> None:
        """Say in a transaction's first statement whose it is, so that a successor can end it (see `end_commits`)."""
        await connection.execute(_SQL["begin_commit"], *self._stream)

    async def load(self, connection: asyncpg.Connection, batch: Batch) -> Loaded:
        """Commit a batch.

        Returns:
            What was done.

        Raises:
            LockLostError: another process owns the stream; nothing was written.
            asyncpg.PostgresError: anything PostgreSQL refuses; nothing was written.
        """
        started = perf_counter()
        try:
            done = await self._commit(connection, batch, straight=True)
        except pg.UniqueViolationError:
            done = await self._commit(connection, batch, straight=False)
        return Loaded(**done, seconds=perf_counter() - started)

    async def load_surely(
        self, connection: asyncpg.Connection, batch: Batch, provenance: Provenance
    ) -> tuple[Loaded, list[Reject]]:
        """Commit a batch; runs that PostgreSQL refuses are found by halving it and quarantined alone.

        Args:
            connection: to the warehouse.
            batch: what to load.
            provenance: where each run in it came from.

        Returns:
            What was done, and the rejects made.
        """
        try:
            return await self.load(connection, batch), []
        except REFUSALS as error:
            runs = [*batch.new, *batch.changed]
            if not runs:
                raise
            if len(runs) == 1:
                return await self._reject(connection, batch, runs[0], error, provenance)
            first, second = batch.halves()
            one, rejects = await self.load_surely(connection, first, provenance)
            other, more = await self.load_surely(connection, second, provenance)
            return one + other, rejects + more

    async def _reject(
        self,
        connection: asyncpg.Connection,
        batch: Batch,
        rows: RunRows,
        error: BaseException,
        provenance: Provenance,
    ) -> tuple[Loaded, list[Reject]]:
        payload, url, page = provenance(rows.run_id)
        message = f"PostgreSQL refused it: {error}"
        reject = Reject(rows.run_id, url, page, REFUSED_BY_DATABASE, message[:2000], payload, rows.digest)
        batch.new, batch.changed, batch.rejects = [], [], [*batch.rejects, reject]
        batch.settled = [run_id for run_id in batch.settled if run_id != rows.run_id]
        return await self.load(connection, batch), [reject]

    async def _commit(self, connection: asyncpg.Connection, batch: Batch, *, straight: bool) -> dict[str, int]:
        new = batch.new if straight else []
        staged = batch.changed if straight else [*batch.new, *batch.changed]
        async with connection.transaction():
            await self.begin(connection)
            erased = await find_erased(connection, [*new, *staged], batch.rejects)
            if erased.runs:
                blanked = [blank(rows) for rows in (*staged, *new) if rows.run_id in erased.runs]
                new = [rows for rows in new if rows.run_id not in erased.runs]
                staged = [*(rows for rows in staged if rows.run_id not in erased.runs), *blanked]
            await _hold_owners(connection, [*new, *staged])
            rows = await write_definitions(connection, [*new, *staged])
            rows += await self._insert(connection, new)
            inserted, updated, merged = await self._merge(connection, staged, erased.runs)
            restored = 0
            if batch.restored:
                status = await connection.execute(_SQL["restore_runs"], batch.restored, self._stream.app_id)
                restored = int(status.rpartition(" ")[2])
            # Without the straight way, another stream loaded some of the runs at the same moment.
            if shared := batch.shared if straight else [*batch.shared, *(rows.run_id for rows in staged)]:
                await connection.execute(_SQL["share_runs"], shared, *self._stream)
            gone = await self._mark_gone(connection, batch.gone)
            await self._rejects(connection, batch, erased.rejects)
            await self._check_fence(connection, batch)
        unchanged = len(staged) - inserted - updated
        return {
            "inserted": len(new) + inserted,
            "updated": updated + restored,
            "unchanged": unchanged,
            "gone": gone,
            "rows": rows + merged,
        }

    async def _mark_gone(self, connection: asyncpg.Connection, runs: Sequence[str]) -> int:
        if not runs:
            return 0
        rows = await connection.fetch(_SQL["mark_gone"], runs, *self._stream)
        return sum(row["gone_at"] is not None for row in rows)

    async def _check_fence(self, connection: asyncpg.Connection, batch: Batch) -> None:
        key = (self._stream.app_id, self._stream.workflow_id, self._fence)
        if batch.moves_cursor:
            held = await connection.fetchval(_SQL["checkpoint"], *key, batch.cursor)
        else:
            held = await connection.fetchval(_SQL["hold"], *key)
        if held is None:
            raise LockLostError(
                f"another process has taken over the stream {self._stream}",
                hint="Nothing was written by this one; let the other finish.",
            )

    async def _insert(self, connection: asyncpg.Connection, new: Sequence[RunRows]) -> int:
        if not new:
            return 0
        async with self._references.unchecked(connection):
            await copy_rows(connection, RUNS, [rows.run for rows in new])
            return len(new) + await _copy_children(connection, new)

    async def _merge(
        self, connection: asyncpg.Connection, staged: Sequence[RunRows], erased: Container[str]
    ) -> tuple[int, int, int]:
        if not staged:
            return 0, 0, 0
        latest = _latest(staged)
        await connection.execute(_STAGE)
        await connection.copy_records_to_table(
            "staged_runs",
            schema_name="pg_temp",
            columns=_STAGED,
            records=[(*rows.run, rows.emptied, rows.run_id in erased) for rows in latest],
        )
        kept: set[str] = set()
        if self._keep and any(rows.emptied for rows in latest):
            kept = {row["id"] for row in await connection.fetch(_SQL["keep_payloads"])}
        outcome = {row["id"]: row["inserted"] for row in await connection.fetch(_UPSERT)}
        await connection.execute("DROP TABLE pg_temp.staged_runs")
        written = [rows for rows in latest if rows.run_id in outcome]
        replaced = [rows for rows in written if rows.run_id not in kept]
        inserted = sum(outcome.values())
        if len(written) > inserted:
            stale = [rows.run_id for rows in replaced]
            await connection.execute(_SQL["delete_children"], stale, [rows.run_id for rows in written])
        count = len(written)
        if replaced:
            async with self._references.unchecked(connection):
                count += await _copy_children(connection, replaced)
        for rows in written:
            if rows.run_id in kept:
                count += await _refresh_kept(connection, rows)
        return inserted, len(outcome) - inserted, count

    async def _rejects(self, connection: asyncpg.Connection, batch: Batch, erased: Container[bytes]) -> None:
        where = (self._stream.app_id, self._stream.workflow_id)
        for item in batch.rejects:
            reject = replace(item, payload=FORGOTTEN, error="erased") if item.digest in erased else item
            if reject.run_id is not None:
                await connection.execute(_SQL["supersede_rejects"], *where, _storable(reject.run_id), reject.digest)
            text = (
                _storable(reject.run_id),
                _storable(reject.url),
                reject.page,
                reject.reason,
                _storable(reject.error),
            )
            await connection.execute(_SQL["quarantine"], self._sync_id, *where, *text, reject.payload, reject.digest)
        if batch.settled:
            await connection.execute(_SQL["resolve_rejects"], *where, batch.settled)


async def _hold_owners(connection: asyncpg.Connection, runs: Sequence[RunRows]) -> None:
    await hold_owners(connection, {rows.run[_APP] for rows in runs}, {rows.run[_WORKFLOW] for rows in runs})


def _latest(staged: Sequence[RunRows]) -> list[RunRows]:
    """One copy a run: the newer by updated_at, the later received where they tie."""
    latest: dict[str, RunRows] = {}
    for rows in staged:
        at_hand = latest.get(rows.run_id)
        if at_hand is None or supersedes(
            effective_updated_at(rows.updated_at, rows.updated_on_day),
            effective_updated_at(at_hand.updated_at, at_hand.updated_on_day),
        ):
            latest[rows.run_id] = rows
    return list(latest.values())


def _storable(text: str | None) -> str | None:
    """Text that PostgreSQL takes: NUL and lone surrogates become U+FFFD."""
    if text is None:
        return None
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


async def _copy_children(connection: asyncpg.Connection, runs: Sequence[RunRows]) -> int:
    """Write what belongs to runs that this transaction wrote."""
    steps = list(chain.from_iterable(rows.steps for rows in runs))
    calls = list(chain.from_iterable(rows.calls for rows in runs))
    usage = list(chain.from_iterable(rows.usage for rows in runs))
    await copy_rows(connection, RUN_STEPS, steps)
    await copy_rows(connection, RUN_STEP_CALLS, calls)
    await copy_rows(connection, RUN_USAGE_CALLS, usage)
    return len(steps) + len(calls) + len(usage)


async def _refresh_kept(connection: asyncpg.Connection, rows: RunRows) -> int:
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
    + ", ".join(f'"{name}" {kind}' for name, kind in RUNS.columns.items())
    + ", emptied boolean, erased boolean, kept boolean NOT NULL DEFAULT false) ON COMMIT DROP"
)


def _older(staged: str) -> str:
    """SQL: the copy in `staged` is older than the stored one (false where either has no time)."""
    key = "CASE WHEN {0}.updated_on_day THEN {0}.updated_at + interval '86399.999999 s' ELSE {0}.updated_at END"
    return f"coalesce({key.format('runs')} > {key.format(staged)}, false)"


def _same(staged: str) -> str:
    """SQL: the copy in `staged` says nothing new. An erased run has no hash; what is kept of it is compared."""
    names = [name for name in KEPT if name not in ("id", "stream_app_id")]
    stored, incoming = (", ".join(f'{table}."{name}"' for name in names) for table in ("runs", staged))
    return (
        f"(runs.content_hash = {staged}.content_hash OR runs.erased_at IS NOT NULL AND {staged}.erased"
        f" AND ({stored}) IS NOT DISTINCT FROM ({incoming}))"
    )


# Unchanged runs and older copies are left out before the upsert (a conflict would cost a row version even where nothing
# is assigned); the guard on the update is for a copy that another stream commits in between.
_UPSERT = f"""
INSERT INTO runs ({_columns(RUNS.names)}, erased_at)
SELECT {_columns(RUNS.names)}, CASE WHEN staged.erased THEN now() END FROM pg_temp.staged_runs AS staged
WHERE NOT EXISTS (
    SELECT FROM runs
    WHERE runs.id = staged.id AND (({_same("staged")} AND runs.gone_at IS NULL) OR {_older("staged")})
)
ON CONFLICT (id) DO UPDATE SET {_assignments(RUNS, but=["stream_app_id"])},
    stream_app_id = CASE WHEN runs.gone_at IS NULL THEN runs.stream_app_id ELSE excluded.stream_app_id END,
    gone_at = NULL, payload_removed_at = NULL, last_synced_at = now(),
    erased_at = coalesce(runs.erased_at, excluded.erased_at)
WHERE NOT {_older("excluded")} AND (runs.erased_at IS NULL OR excluded.erased_at IS NOT NULL)
RETURNING id, xmax = 0 AS inserted
"""  # noqa: S608 - made from the descriptors alone
