"""One stream in the warehouse: queries for its crawl, and the transactions that load its runs.

A transaction writes one batch: runs with their children and definitions, rejects, and the checkpoint. If a run that was
thought new already exists, because another stream has just loaded it, the whole batch is upserted. If PostgreSQL
refuses a batch, the batch is halved until the refused runs are found. Their numbers that jsonb cannot hold are
converted to text; a run that is still refused is quarantined. So is a run that another workflow's listing also
contains, if it was stored after this batch was classified.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from asyncpg import exceptions as pg

from etl.db.batch import ID_TAKEN, Batch, Loaded, Reject
from etl.db.erasing import ERASED, FORGOTTEN, blank, find_erased
from etl.db.load import RunWriter, write_definitions, write_owners, write_rejects
from etl.db.refusals import describe_refusal
from etl.db.rollups import update_own_credits
from etl.db.statements import statements
from etl.decode.items import LargeItem
from etl.errors import LockLostError
from etl.normalize.redaction import is_due
from etl.normalize.rows import with_storable_numbers
from etl.plan.order import Order

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    import asyncpg

    from etl.db.erasing import Erased
    from etl.db.session import Seen, Session, StreamState
    from etl.errors import RejectReason
    from etl.events import StreamId
    from etl.normalize.rows import RunRows
    from etl.plan.window import Reconciled, Window

    Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy[Any]

_LOAD = statements("load")
_STATE = statements("state")
_OWN_CREDITS_MIN_AGE: Final = timedelta(seconds=5)
_PAYLOADS_AT_ONCE: Final = 20  # rows of the quarantine per fetch; each may have megabytes


# Errors that a single bad value can cause, in PostgreSQL or in the driver. Lost connections and full disks are not
# among them.
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


class Stored(NamedTuple):
    """The stored state of a run: the columns of `known_runs` in `sql/load.sql`."""

    run_id: str
    digest: bytes | None
    status: str | None
    created_at: datetime | None
    updated_at: datetime | None
    updated_on_day: bool
    gone: bool
    erased: bool
    workflow_id: str | None
    listed_under: str | None
    is_ours: bool
    recent: bool


class Quarantined(NamedTuple):
    """A quarantined item.

    Attributes:
        run_id: id of its run; None if the item has no id.
        reason: reason of the reject.
        recent: whether it was quarantined after the last sync of the stream ended.
    """

    run_id: str | None
    reason: RejectReason
    recent: bool


class Store:
    """One locked stream in the warehouse.

    Args:
        pool: connections to the warehouse.
        session: the session of the process, with its locks and temporary tables.
        stream: the stream.
        state: the state of the stream when it was locked; each write checks its fencing token.
        sync_id: id of this invocation in `etl_syncs`.
        filters: (status, origin) of the listing; counts and comparisons include only runs that match.
        abridge: a function that returns the part of a quarantined item's bytes to keep; None keeps all of them.
        keep_payloads: whether runs whose payloads the API has deleted (retention) keep the stored payloads.
        dry_run: read as usual, but write nothing.
        claim: the claim of a slice (invocation, place in the queue, process), which each write checks; None to write
            to the whole stream.
    """

    def __init__(  # noqa: PLR0913 - most arguments are keyword-only
        self,
        pool: asyncpg.Pool,
        session: Session,
        stream: StreamId,
        state: StreamState,
        *,
        sync_id: int | None,
        filters: tuple[str, str] = ("ALL", "ALL"),
        abridge: Callable[[bytes], bytes] | None = None,
        keep_payloads: bool = True,
        dry_run: bool = False,
        claim: tuple[int, int, str] | None = None,
    ) -> None:
        self._pool = pool
        self._claim = claim
        self.session = session
        self.stream = stream
        self.state = state
        self.filters = filters
        self.is_dry_run = dry_run
        self._sync_id = sync_id
        self._abridge = abridge
        self._writer = RunWriter(keep_payloads=keep_payloads)
        self._gone: frozenset[str] = frozenset()  # in a dry run, which finds them again because it does not mark them
        self.unanswered: list[tuple[str, Loaded]] = []
        """Transactions whose COMMIT may have been sent without an answer: (transaction id, result if committed)."""

    async def known(self, ids: Sequence[str]) -> dict[str, Stored]:
        """Return the stored state of the runs with these ids, by id."""
        asked = (ids, self.state.last_synced_at, *self.stream)
        return {row["id"]: Stored(*row) for row in await self._pool.fetch(_LOAD["known_runs"], *asked)}

    async def begin_pass(self, window: Window) -> Seen:
        """Start recording the items that a pass over the listing sees, as far as runs in `window` are concerned."""
        return await self.session.begin_pass(self.stream, self.filters, window)

    async def open_rejects(self) -> dict[bytes, Quarantined]:
        """Return the unresolved quarantined items of this stream, by digest."""
        rows = await self._pool.fetch(_STATE["open_rejects"], *self.stream, self.state.last_synced_at)
        return {row["digest"]: Quarantined(row["run_id"], row["reason"], recent=row["recent"]) for row in rows}

    async def load(self, batch: Batch) -> tuple[Loaded, list[Reject]]:
        """Load a batch, and quarantine the runs that cannot be stored.

        Returns:
            The result, and the rejects for these runs.

        Raises:
            LockLostError: another process owns the stream; its transaction was rolled back.
        """
        if self.is_dry_run:
            gone = self._gone.union(batch.gone)
            done = Loaded(inserted=len(batch.new), updated=len(batch.changed), gone=len(gone) - len(self._gone))
            self._gone = gone
            return done, []
        async with self._pool.acquire() as connection:
            result = await self._load_or_split(connection, batch)  # type: ignore[arg-type]  # the pool's proxy is one
            with suppress(pg.PostgresError):  # remaining changes stay recorded until the invocation ends
                await update_own_credits(connection, min_age=_OWN_CREDITS_MIN_AGE)
        self.unanswered.clear()
        return result

    async def _load_or_split(self, connection: asyncpg.Connection, batch: Batch) -> tuple[Loaded, list[Reject]]:
        try:
            return await self.commit(connection, batch)
        except REFUSALS as error:
            runs = [*batch.new, *batch.changed]
            if not runs:
                raise
            if len(runs) > 1:
                first, second = batch.halves()
                one, rejects = await self._load_or_split(connection, first)
                other, more = await self._load_or_split(connection, second)
                return one + other, rejects + more
            (rows,) = runs
            storable = with_storable_numbers(rows)
            if storable != rows:
                new, changed = ([storable] if each else [] for each in (batch.new, batch.changed))
                return await self._load_or_split(connection, replace(batch, new=new, changed=changed))
            message = f"PostgreSQL refused it: {describe_refusal(error)}"
            reject = Reject(rows.run_id, batch.items[rows.run_id], "refused_by_database", message)
        resolved = [run_id for run_id in batch.resolved if run_id != rows.run_id]
        others = replace(batch, new=[], changed=[], rejects=[*batch.rejects, reject], resolved=resolved)
        done, _ = await self.commit(connection, others)
        return done, [reject]

    async def commit(self, connection: asyncpg.Connection, batch: Batch) -> tuple[Loaded, list[Reject]]:
        """Write a batch in one transaction.

        Returns:
            The result, and the rejects for the runs that another workflow's listing contains.

        Raises:
            LockLostError: another process owns the stream; nothing was written.
            asyncpg.PostgresError: PostgreSQL refused a row; nothing was written.
        """
        started = perf_counter()
        try:
            done, taken = await self._commit(connection, batch, batch.new, batch.changed)
        except pg.UniqueViolationError:
            # Another stream has just loaded some of the new runs, which this stream lists too.
            staged = [*batch.new, *batch.changed]
            shared = [rows.run_id for rows in staged]
            done, taken = await self._commit(connection, batch, (), staged, shared=shared)
        return replace(done, seconds=perf_counter() - started), taken

    async def _commit(
        self,
        connection: asyncpg.Connection,
        batch: Batch,
        new: Sequence[RunRows],
        staged: Sequence[RunRows],
        *,
        shared: Sequence[str] = (),
    ) -> tuple[Loaded, list[Reject]]:
        async with connection.transaction():
            transaction = await self.begin(connection)
            erased = await find_erased(connection, [*new, *staged], batch.rejects)
            if erased.runs:
                staged = [blank(rows) if rows.run_id in erased.runs else rows for rows in staged]
                staged += [blank(rows) for rows in new if rows.run_id in erased.runs]
                new = [rows for rows in new if rows.run_id not in erased.runs]
            if batch.claimed:
                await connection.execute(_LOAD["restore_runs"], batch.claimed, *self.stream, True)  # noqa: FBT003
            await write_owners(connection, [*new, *staged])
            rows = await write_definitions(connection, [*new, *staged], authoritative=batch.authoritative)
            rows += await self._writer.insert(connection, new)
            merged = await self._writer.merge(connection, staged, erased.runs, authoritative=batch.authoritative)
            restored, gone = await self._write_listing(connection, batch, [*batch.shared, *shared])
            taken = await self._write_quarantine(connection, batch, erased, merged.taken)
            await self._hold(connection, batch)
            done = Loaded(
                inserted=len(new) + merged.inserted,
                updated=merged.updated + restored,
                unchanged=len(staged) - merged.inserted - merged.updated - len(taken),
                gone=gone,
                rows=rows + merged.rows,
            )
            self.unanswered.append((transaction, done))
        return done, taken

    async def begin(self, connection: asyncpg.Connection) -> str:
        """Mark a transaction as one of this stream; return its id.

        The mark is an advisory lock, by which the next process that locks the stream can find and end the transaction
        (see `Session.lock`). This must be the first statement of the transaction.
        """
        transaction: str = await connection.fetchval(_LOAD["begin_commit"], *self.stream)
        return transaction

    async def _write_listing(
        self, connection: asyncpg.Connection, batch: Batch, shared: Sequence[str]
    ) -> tuple[int, int]:
        """Record which runs are listed; return the numbers of restored runs and of runs that are gone."""
        restored, gone = 0, 0
        if batch.restored:
            status = await connection.execute(_LOAD["restore_runs"], batch.restored, *self.stream, False)  # noqa: FBT003
            restored = int(status.rpartition(" ")[2])
        if shared:
            await connection.execute(_LOAD["share_runs"], shared, *self.stream)
        if batch.gone:
            rows = await connection.fetch(_LOAD["mark_gone"], batch.gone, *self.stream)
            gone = sum(row["gone_at"] is not None for row in rows)
        return restored, gone

    async def _write_quarantine(
        self, connection: asyncpg.Connection, batch: Batch, erased: Erased, taken: Mapping[str, str]
    ) -> list[Reject]:
        """Quarantine and resolve items of a batch.

        Args:
            connection: a connection in the transaction that writes the batch.
            batch: the batch.
            erased: the erased items of the batch.
            taken: the runs to quarantine because another workflow lists them: that workflow, by run id.

        Returns:
            The rejects for the runs in `taken`.
        """
        rejects = [
            Reject(run_id, batch.items[run_id], "id_taken", ID_TAKEN.format(workflow_id))
            for run_id, workflow_id in taken.items()
        ]
        digests = erased.rejects
        if rejects:
            digests |= (await find_erased(connection, [], rejects)).rejects
        kept = [self._kept(each, is_erased=each.digest in digests) for each in (*batch.rejects, *rejects)]
        await write_rejects(connection, self.stream, self._sync_id, kept)
        if resolved := [run_id for run_id in batch.resolved if run_id not in taken]:
            await connection.execute(_LOAD["resolve_rejects"], *self.stream, resolved)
        return rejects

    def _kept(self, reject: Reject, *, is_erased: bool) -> tuple[Reject, bytes]:
        """Return the reject and the bytes to store in the quarantine."""
        if is_erased:
            return replace(reject, error=ERASED), FORGOTTEN
        raw = reject.item.raw
        if isinstance(raw, LargeItem):
            return reject, b""
        return reject, bytes(raw) if self._abridge is None else self._abridge(raw)

    async def _hold(self, connection: asyncpg.Connection, batch: Batch) -> None:
        """Check the fencing token, and write the checkpoint if there is one; its row stays locked until the commit."""
        key = (*self.stream, self.state.fence)
        if batch.cursor is not None:
            held = await connection.fetchval(_LOAD["checkpoint"], *key, batch.cursor)
        elif self._claim is not None:
            held = await connection.fetchval(_LOAD["hold_slice"], *key, *self._claim)
        else:
            held = await connection.fetchval(_LOAD["hold"], *key)
        if held is None:
            raise LockLostError(
                f"another process has taken over the stream {self.stream}",
                hint="This process wrote nothing; let the other one finish.",
            )

    async def save_cursor(self, cursor: str) -> None:
        """Store the cursor of a backfill outside of a batch.

        Raises:
            LockLostError: another process owns the stream.
        """
        async with self._pool.acquire() as connection:
            await self._hold(connection, Batch(cursor=cursor))  # type: ignore[arg-type]  # the pool's proxy is one

    async def open_runs(self) -> dict[str, str | None]:
        """Return the status of each listed run that was pending or running when it was loaded, by id.

        The result also has the ids, without a status, of quarantined runs that another workflow no longer lists.
        """
        return {row["id"]: row["status"] for row in await self._pool.fetch(_STATE["open_runs"], *self.stream)}

    async def count(self) -> int:
        """Return how many listed items of the stream are in the warehouse or its quarantine."""
        count: int = await self._pool.fetchval(_STATE["count_listed"], *self.stream, *self.filters)
        return count

    async def count_above(self, order: Order, moment: datetime) -> int:
        """Return how many listed runs precede the runs created at `moment` in a listing sorted by creation."""
        name = "count_after" if order is Order.CREATED_DESC else "count_before"
        count: int = await self._pool.fetchval(_STATE[name], *self.stream, moment)
        return count

    async def left_to_reconcile(self) -> tuple[int, int]:
        """Return how many runs an unfinished reconcile has still to compare, and how many runs have no time."""
        (row,) = await self._pool.fetch(_STATE["left_to_reconcile"], *self.stream, self.state.reconciled_since)
        return row["left"], row["undated"]

    async def slice_start(self, runs: int) -> datetime | None:
        """Return the start of the slice with the next `runs` runs to compare; None if at most that many remain."""
        since = self.state.reconciled_since
        start: datetime | None = await self._pool.fetchval(_STATE["slice_start"], *self.stream, since, runs)
        return start

    async def has_bare_days(self) -> bool:
        """Return whether `updated_at` of a listed run is only a date."""
        return bool(await self._pool.fetchval(_STATE["has_bare_days"], *self.stream))

    async def runs_between(self, order: Order, upper: datetime | None, lower: datetime | None) -> list[str]:
        """Return the ids of the runs in a section of a listing sorted by creation; `lower` is exclusive."""
        earliest, latest = (lower, upper) if order is Order.CREATED_DESC else (upper, lower)
        rows = await self._pool.fetch(_STATE["runs_between"], *self.stream, earliest, latest)
        return [row["id"] for row in rows if lower is None or row["created_at"] != lower]

    async def drop_rejects(self, digests: Sequence[bytes]) -> None:
        """Resolve quarantined items that are no longer listed."""
        if digests and not self.is_dry_run:
            await self._pool.execute(_STATE["drop_rejects"], *self.stream, self.state.fence, list(digests))

    async def remove_due_payloads(self) -> None:
        """Remove payloads whose retention has expired."""
        async with self._pool.acquire() as connection, connection.transaction():
            await self.begin(connection)  # type: ignore[arg-type]  # the pool's proxy is one
            rows = await connection.fetch(_STATE["due_payloads"], *self.stream, self.state.fence)
            if rows:
                await connection.execute(_STATE["remove_payloads"], [row["id"] for row in rows])

    async def finish(
        self,
        *,
        watermark: datetime | None,
        backfilled: bool,
        reconciled: Reconciled,
        api_count: int | None,
        order: Order | None,
        error: str | None,
        hint: str | None,
        run_bytes: int | None = None,
        page_size: int | None = None,
    ) -> None:
        """Record the state of the stream after a crawl that reached the end of the listing.

        Args:
            watermark: the new watermark; an earlier one than the stored one is ignored.
            backfilled: whether the backfill is complete.
            reconciled: the progress of reconciles.
            api_count: number of items according to the API.
            order: order of the listing, if known.
            error: why the stream is incomplete; None if it is complete.
            hint: what to do about the error.
            run_bytes: mean size of a run in bytes, if known.
            page_size: largest page that the API gives, if known.

        Raises:
            LockLostError: another process owns the stream.
        """
        if self.is_dry_run:
            return
        values: tuple[Any, ...] = (watermark, backfilled, reconciled.at, api_count, order, error, *self.filters, hint)
        key, values = (*self.stream, self.state.fence), (*values, run_bytes, reconciled.began, reconciled.since)
        if await self._pool.fetchval(_STATE["finish_stream"], *key, *values) is None:
            raise LockLostError(f"another process has taken over the stream {self.stream}")
        if page_size not in (None, self.state.page_size):
            await self._pool.execute(_STATE["remember_page_size"], self.stream.app_id, page_size)

    async def note_count(self, api_count: int | None) -> None:
        """Record the API's count in the last answer of an attempt that failed; nothing if it is None."""
        if api_count is not None and not self.is_dry_run:
            await self._pool.execute(_STATE["note_count"], *self.stream, self.state.fence, api_count, *self.filters)


async def empty_due_rejects(connection: Connection) -> None:
    """Remove the bytes of quarantined runs whose retention has expired.

    The due date is that in the bytes, or else that of the stored run.

    Args:
        connection: a connection to the warehouse, outside of a transaction.
    """
    async with connection.transaction():
        found = connection.cursor(_STATE["rejects_with_retention"], prefetch=_PAYLOADS_AT_ONCE)
        due = []
        async for row in found:
            payload_is_due = is_due(row["payload"], row["now"])
            if row["run_is_due"] if payload_is_due is None else payload_is_due:
                due.append(row["id"])
        await connection.execute(_STATE["empty_rejects"], due)
