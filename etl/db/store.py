"""What one stream asks of the warehouse, and what it writes there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from etl.db.batch import Batch, Loaded, Reject
from etl.db.load import Loader
from etl.db.statements import statements
from etl.errors import LockLostError
from etl.plan import Order

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import asyncpg

    from etl.db.batch import Provenance
    from etl.db.session import Session, StreamState
    from etl.events import StreamId
    from etl.plan import Suspects

_LOAD = statements("load")
_STATE = statements("state")


class Held(NamedTuple):
    """A quarantined item: the run's id where it can be told, and whether no sync has come to its end since."""

    run_id: str | None
    fresh: bool


class Store:
    """One locked stream in the warehouse.

    Args:
        pool: connections to the warehouse.
        session: the process's locks and scratch tables.
        stream: whose rows these are.
        state: as found when the stream was locked; its fencing token guards each write.
        sync_id: the ledger row of this invocation.
        filters: (status, origin) of the listing; counts and comparisons keep to what passes them.
        keep_payloads: see `Loader`.
        dry_run: read as usual, write nothing.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        session: Session,
        stream: StreamId,
        state: StreamState,
        *,
        sync_id: int | None,
        filters: tuple[str, str] = ("ALL", "ALL"),
        keep_payloads: bool = True,
        dry_run: bool = False,
    ) -> None:
        self._pool = pool
        self.session = session
        self.stream = stream
        self.state = state
        self.filters = filters
        self.is_dry_run = dry_run
        self._loader = Loader(stream, fence=state.fence, sync_id=sync_id, keep_payloads=keep_payloads)

    async def known(self, ids: Sequence[str]) -> Mapping[str, asyncpg.Record]:
        """What the warehouse holds of these runs, by id."""
        asked = (ids, self.state.last_synced_at, self.stream.app_id)
        return {row["id"]: row for row in await self._pool.fetch(_LOAD["known_runs"], *asked)}

    async def open_rejects(self) -> dict[bytes, Held]:
        """The quarantine of this stream, by digest."""
        rows = await self._pool.fetch(_STATE["open_rejects"], *self.stream, self.state.last_synced_at)
        return {row["digest"]: Held(row["run_id"], fresh=row["fresh"]) for row in rows}

    async def load(self, batch: Batch, provenance: Provenance) -> tuple[Loaded, list[Reject]]:
        """Commit a batch in one transaction; what PostgreSQL refuses is quarantined alone.

        Returns:
            What was done, and the rejects that PostgreSQL made necessary.
        """
        if self.is_dry_run:
            done = Loaded(inserted=len(batch.new), updated=len(batch.changed), gone=len(batch.gone))
            return done, []
        async with self._pool.acquire() as connection:
            return await self._loader.load_surely(connection, batch, provenance)  # type: ignore[arg-type]  # the pool's proxy is one

    async def open_runs(self) -> dict[str, str]:
        """Runs that were pending or running when last seen: id to status."""
        return {row["id"]: row["status"] for row in await self._pool.fetch(_STATE["open_runs"], *self.stream)}

    async def count(self) -> int:
        """How many of the stream's listed items the warehouse accounts for."""
        count: int = await self._pool.fetchval(_STATE["count_listed"], *self.stream, *self.filters)
        return count

    async def count_above(self, order: Order, key: datetime, *, undated_first: bool) -> int:
        """How many listed runs stand above a place in a listing sorted by creation; those without a time at one end."""
        name = "count_before" if order is Order.CREATED_DESC else "count_after"
        count: int = await self._pool.fetchval(_STATE[name], *self.stream, key, undated_first)
        return count

    async def has_bare_days(self) -> bool:
        """Whether some listed run says no more than the day of its last change."""
        return bool(await self._pool.fetchval(_STATE["has_bare_days"], *self.stream))

    async def runs_in(self, order: Order, stretch: Suspects, *, undated_first: bool) -> dict[str, datetime | None]:
        """The warehouse's listed runs in a stretch of a listing sorted by creation, and when each was created."""
        undated = (stretch.upper if undated_first else stretch.lower) is None
        if order is Order.CREATED_DESC:
            name, bounds = "runs_between", (stretch.lower, stretch.upper)
        else:
            name, bounds = "runs_between_ascending", (stretch.upper, stretch.lower)
        rows = await self._pool.fetch(_STATE[name], *self.stream, *bounds, undated)
        return {row["id"]: row["created_at"] for row in rows}

    async def drop_rejects(self, digests: Sequence[bytes]) -> None:
        """Settle quarantined items that are listed no more."""
        if digests and not self.is_dry_run:
            await self._pool.execute(_STATE["drop_rejects"], *self.stream, self.state.fence, list(digests))

    async def remove_due_payloads(self) -> None:
        """Remove the payloads of runs that are due."""
        async with self._pool.acquire() as connection, connection.transaction():
            await self._loader.begin(connection)  # type: ignore[arg-type]  # the pool's proxy is one
            rows = await connection.fetch(_STATE["due_payloads"], *self.stream, self.state.fence)
            if rows:
                await connection.execute(_STATE["remove_payloads"], [row["id"] for row in rows])

    async def finish(
        self,
        *,
        watermark: datetime | None,
        backfilled: bool,
        reconciled: datetime | None,
        api_count: int | None,
        order: Order | None,
        error: str | None,
    ) -> None:
        """Write down how the stream stands after a crawl that read to its end; `reconciled`: since when it is compared.

        Raises:
            LockLostError: another process owns the stream.
        """
        if self.is_dry_run:
            return
        values: tuple[Any, ...] = (watermark, backfilled, reconciled, api_count, order, error, *self.filters)
        key = (*self.stream, self.state.fence)
        if await self._pool.fetchval(_STATE["finish_stream"], *key, *values) is None:
            raise LockLostError(f"another process has taken over the stream {self.stream}")
