"""The session of a process: its advisory locks, row of `etl_syncs` and temporary tables, on one connection.

If this connection breaks, PostgreSQL releases the locks. The next process that locks a stream gets a higher fencing
token, so that this process can no longer commit to the stream.

In a temporary table, the session records the items that a pass has seen, to find runs of the warehouse that it did not
see.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from etl import __version__
from etl.db.connect import LONG_S, connect
from etl.db.refusals import DRIVER_ERRORS
from etl.db.statements import statements
from etl.errors import DatabaseError
from etl.events import StreamId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    import asyncpg

    from etl.plan.window import Window

_SQL = statements("state")
_SHARED = statements("shared_state")
_SEEN = statements("seen")
_ENDING_ATTEMPTS = 20
_ENDING_PAUSE_S = 0.1
_LONG_AGO = datetime.fromtimestamp(0, UTC)

LockName: TypeAlias = tuple[str, ...]
"""The name of an advisory lock, for the SQL function `lock_key`."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """A row of `etl_streams`, as read when the stream was locked.

    `page_size` is the largest page that the API gave for the app, None if unknown; `read_at` is when the row was read,
    by PostgreSQL's clock. Times after that, written while the clock was ahead, are ignored: a reconcile is due, and
    every run counts as recent.
    """

    read_at: datetime
    fence: int = 0
    watermark: datetime | None = None
    backfill_done: bool = False
    backfill_cursor: str | None = None
    last_synced_at: datetime | None = None
    last_reconciled_at: datetime | None = None
    api_count: int | None = None
    listing_order: str | None = None
    last_succeeded_at: datetime | None = None
    reconcile_began_at: datetime | None = None
    reconciled_since: datetime | None = None
    run_bytes: int | None = None
    page_size: int | None = None

    @classmethod
    def of(cls, row: asyncpg.Record) -> StreamState:
        """Return the state in a row."""
        values = {each.name: row[each.name] for each in fields(cls) if row[each.name] is not None}
        if (row["last_synced_at"] or _LONG_AGO) > row["read_at"]:
            values["last_synced_at"] = _LONG_AGO
        if (row["last_reconciled_at"] or _LONG_AGO) > row["read_at"]:
            values["last_reconciled_at"] = None
        return cls(**values)


def states_of(rows: Iterable[asyncpg.Record]) -> dict[StreamId, StreamState]:
    """Return the states of locked streams."""
    return {StreamId(row["app_id"], row["workflow_id"]): StreamState.of(row) for row in rows}


def columns_of(streams: Sequence[StreamId]) -> tuple[list[str], list[str]]:
    """Return the apps and the workflows of streams, as parameters of a statement."""
    return [stream.app_id for stream in streams], [stream.workflow_id for stream in streams]


def _lock_of(sync_id: int) -> LockName:
    """Return the name of the lock of an invocation."""
    return "sync", str(sync_id)


class Session:
    """The connection that holds the locks of a process. Calls are serialized: one statement at a time."""

    _requested: frozenset[str] | None = None

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._busy = asyncio.Lock()
        self.liveness: LockName = ()
        """Name of the lock that shows that this process is alive; empty if it holds none."""
        self.shared: LockName = ()
        """Name of the invocation lock that this process shares with others; empty if it shares none."""
        self._passes = 0

    @classmethod
    async def open(cls, url: str, schema: str, *, timeout_s: float = LONG_S) -> Self:
        """Connect. A statement without an answer for `timeout_s` seconds counts as a lost connection.

        Raises:
            DatabaseError: the database cannot be reached.
        """
        connection = await connect(url, schema, application_name="cortex-etl session", timeout_s=timeout_s)
        return cls(connection)

    async def close(self) -> None:
        """Release all locks and disconnect. PostgreSQL releases the locks of a lost connection later by itself."""
        with suppress(*DRIVER_ERRORS, OSError):  # the connection may be lost, and in use by another task
            await self._connection.execute(_SQL["unlock_all"], timeout=1)
        await self._connection.close()

    async def _value(self, name: str, *args: object) -> Any:
        async with self._busy:
            return await self._connection.fetchval(_SQL[name], *args)

    async def _rows(self, name: str, *args: object) -> Sequence[asyncpg.Record]:
        return await self.fetch(_SQL[name], *args)

    async def fetch(self, statement: str, *args: object) -> Sequence[asyncpg.Record]:
        """Run a statement and return its rows."""
        async with self._busy:
            return await self._connection.fetch(statement, *args)

    async def lock(self, stream: StreamId) -> StreamState | None:
        """Lock a stream; return its state with a new fencing token, or None if another process holds it."""
        return (await self.take([stream])).get(stream)

    async def take(self, streams: Sequence[StreamId]) -> dict[StreamId, StreamState]:
        """Lock the streams that no other process holds; return their states, each with a new fencing token."""
        return states_of(await self._rows("lock_streams", *columns_of(streams)))

    async def read(self, stream: StreamId) -> StreamState:
        """Return the state of a stream without locking it."""
        (row,) = await self._rows("read_stream", *stream)
        return StreamState.of(row)

    async def has_unread_history(self) -> bool:
        """Return whether the backfill of a requested stream is not complete."""
        return bool(await self._value("has_unread_history"))

    async def release(self, *streams: StreamId) -> None:
        """Unlock streams."""
        await self._rows("unlock_streams", *columns_of(streams))

    async def streams_with_due_payloads(self) -> list[StreamId]:
        """Return the streams with runs whose payloads are due to be removed (retention)."""
        return [StreamId(*row) for row in await self._rows("streams_with_due_payloads")]

    async def start_sync(self, mode: str) -> dict[str, Any]:
        """Insert the row of this invocation and return it; mark invocations whose processes died as interrupted."""
        (row,) = await self._rows("start_sync", mode, socket.gethostname(), os.getpid(), __version__)
        self.liveness = _lock_of(row["id"])
        await self._value("lock", self.liveness)
        await self._close_others(row["id"])
        return dict(row)

    async def _close_others(self, sync_id: int) -> None:
        for other in await self._rows("unclosed_syncs", sync_id):
            name = _lock_of(other["id"])
            if await self._value("lock", name):
                await self._value("close_sync", other["id"])
                await self._value("unlock", name)

    async def join_sync(self, name: str, mode: str, terms: str) -> tuple[dict[str, Any], str]:
        """Join the running invocation with a name, or start one.

        The processes of an invocation share its lock; it counts as running while one of them holds the lock.

        Args:
            name: name of the invocation.
            mode: mode of an invocation that is started.
            terms: terms of an invocation that is started, as JSON.

        Returns:
            The row of the invocation in `etl_syncs`, and its terms.
        """
        async with self._busy, self._connection.transaction():
            await self._connection.execute(_SHARED["lock_name"], name)
            row = await self._connection.fetchrow(_SHARED["running"], name)
            while row is not None and not await self._share(row["id"]):
                await asyncio.sleep(_ENDING_PAUSE_S)
                row = await self._connection.fetchrow(_SHARED["running"], name)
            values = await self._start_shared(name, mode, terms) if row is None else dict(row)
        self.shared = _lock_of(values["id"])
        await self._close_others(values["id"])
        return values, values.pop("terms", terms)

    async def _start_shared(self, name: str, mode: str, terms: str) -> dict[str, Any]:
        about = (socket.gethostname(), os.getpid(), __version__)
        (row,) = await self._connection.fetch(_SQL["start_sync"], mode, *about)
        await self._connection.execute(_SHARED["add"], row["id"], name, terms)
        await self._connection.fetchval(_SQL["lock_shared"], _lock_of(row["id"]))
        return dict(row)

    async def _share(self, sync_id: int) -> bool:
        """Share the lock of an invocation. If its processes are dead, close the invocation and return False."""
        name = _lock_of(sync_id)
        if await self._connection.fetchval(_SQL["lock"], name):
            await self._connection.execute(_SQL["close_sync"], sync_id)
            await self._connection.execute(_SQL["unlock"], name)
            return False
        return bool(await self._connection.fetchval(_SQL["lock_shared"], name))

    async def try_lock(self, *name: str) -> bool:
        """Acquire a lock; return False if another process holds it."""
        return bool(await self._value("lock", name))

    async def is_free(self, *name: str) -> bool:
        """Return whether no process holds a lock exclusively."""
        return bool(await self._value("is_free", name))

    async def unlock(self, *name: str) -> None:
        """Release a lock."""
        await self._value("unlock", name)

    async def work_as(self, worker: str) -> None:
        """Hold the liveness lock of a process that works on an invocation of several processes."""
        self.liveness = ("worker", worker)
        await self._value("lock", self.liveness)

    async def succeed(self, lost: Session) -> None:
        """Acquire the liveness locks of a lost session of this process.

        Raises:
            DatabaseError: PostgreSQL does not end the lost session, or another invocation has closed this one.
        """
        if lost.liveness:
            await self.take_over(lost.liveness)
        if lost.shared and not await self._value("lock_shared", lost.shared):
            raise DatabaseError(
                "another invocation closed this one while its connection was lost", hint="Run it again."
            )
        self.shared = lost.shared

    async def take_over(self, liveness: LockName) -> None:
        """Acquire the liveness lock of this process after ending the lost session that holds it.

        PostgreSQL may take a while to notice that a connection is lost, and keeps the session's locks until then.

        Raises:
            DatabaseError: PostgreSQL does not end the lost session.
        """
        self.liveness = liveness
        for _ in range(_ENDING_ATTEMPTS):
            if await self._value("lock", liveness):
                return
            await self._value("end_holder", liveness)
            await asyncio.sleep(_ENDING_PAUSE_S)
        raise DatabaseError(
            "PostgreSQL does not end a lost session of this sync, which still holds its locks",
            hint="Look for a process of PostgreSQL that is stopped or hangs, and end it.",
        )

    async def finish_sync(self, *values: object) -> datetime:
        """Complete a row of `etl_syncs`, with `values` in the order of the statement; return its end time."""
        ended_at: datetime = await self._value("finish_sync", *values)
        await self._value("prune_syncs")
        await self._value("prune_rejects")
        return ended_at

    async def fail_stream(self, stream: StreamId, fence: int | None, error: str, hint: str) -> None:
        """Record why a stream failed; `fence` is None if the stream was not locked."""
        await self._value("fail_stream", *stream, fence, error, hint)

    async def compare_again(self, streams: Mapping[StreamId, StreamState]) -> dict[StreamId, dict[str, Any]]:
        """Compare the counts of succeeded streams again; record those that differ as incomplete, and return them.

        Args:
            streams: the streams, each with its state when it was locked, to which the watermark and the time of the
                last success are reset.
        """
        columns = [
            (*stream, state.fence, state.watermark, state.last_succeeded_at) for stream, state in streams.items()
        ]
        rows = await self._rows("compare_again", *([*column] for column in zip(*columns, strict=True)))
        return {StreamId(row["app_id"], row["workflow_id"]): dict(row) for row in rows}

    async def is_committed(self, transaction: str) -> bool:
        """Return whether a transaction was committed, for one whose COMMIT got no answer."""
        return bool(await self._value("is_committed", transaction))

    async def requested_workflows(self) -> frozenset[str]:
        """Return the ids of the workflows that the settings request, as they are when it is first called."""
        if self._requested is None:  # with thousands of them, each stream would read thousands of rows
            self._requested = frozenset(row["workflow_id"] for row in await self._rows("requested_workflows"))
        return self._requested

    async def begin_pass(self, stream: StreamId, filters: tuple[str, str], window: Window) -> Seen:
        """Start recording the items seen by a pass; see `Seen`."""
        if not self._passes:
            await self.fetch(_SEEN["create"])
        self._passes += 1
        return Seen(self.fetch, self._passes, stream, filters, window)


class Seen:
    """The items that one pass over a listing has seen.

    Args:
        run: runs a statement in the session that holds the temporary table.
        number: number of the pass in this session.
        stream: the stream.
        filters: (status, origin) of the listing; only runs that match are compared.
        window: the creation times read; only runs in it are compared.
    """

    def __init__(
        self,
        run: Callable[..., Awaitable[Sequence[asyncpg.Record]]],
        number: int,
        stream: StreamId,
        filters: tuple[str, str],
        window: Window,
    ) -> None:
        self._run = run
        self._number = number
        self._stream = stream
        self._compared = (*stream, number, *filters, *window)

    async def note(self, keys: Sequence[str]) -> int:
        """Record items as seen; return how many of them were not seen before."""
        rows = await self._run(_SEEN["note"], self._number, list(dict.fromkeys(keys)))
        return int(rows[0]["added"])

    async def unseen_runs(self) -> list[str]:
        """Return the ids of the stream's runs that were not seen, most recently created first."""
        return [row["id"] for row in await self._run(_SEEN["unseen_runs"], *self._compared)]

    async def unseen_elsewhere(self, limit: int) -> dict[str, list[str]]:
        """Return up to `limit` runs that were not seen either, of other apps' listings that are not read any more.

        The result has the apps of these listings by run id.
        """
        rows = await self._run(_SEEN["unseen_elsewhere"], *self._compared, limit)
        return {row["id"]: row["apps"] for row in rows}

    async def unseen_rejects(self) -> list[bytes]:
        """Return the digests of the stream's quarantined items that were not seen."""
        rows = await self._run(_SEEN["unseen_rejects"], *self._stream, self._number)
        return [row["digest"] for row in rows]

    async def forget(self) -> None:
        """Delete the record."""
        await self._run(_SEEN["forget"], self._number)
