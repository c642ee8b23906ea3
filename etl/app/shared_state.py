"""The state that the processes of one invocation share, possibly on several hosts.

It consists of the terms on which they must agree, a request to stop, the outcomes of streams, and the summary.

With `--join`, the processes share the lock of the invocation, which therefore counts as running while one of them is
alive. A second lock, the lead, is held by the process that finds the workflows or records the end for all.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from etl import __version__
from etl.app.split_streams import decode
from etl.db.statements import statements
from etl.engine import task_group
from etl.errors import (
    EXIT_DATABASE,
    EXIT_INTERRUPTED,
    EXIT_KEY_REFUSED,
    EXIT_SETTINGS,
    DatabaseError,
    EtlError,
    InterruptedSyncError,
    KeyRefusedError,
    SettingsError,
)
from etl.events import StreamId
from etl.sync import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence

    import asyncpg

    from etl.app.warehouse import Warehouse
    from etl.config import Settings

POLL_S = 0.5
"""Interval at which a process checks whether it must stop, in seconds."""

ABSENCE_S = 1.0
"""How long the lock of an invocation may be free before its workers stop, in seconds: the command that started them may
have lost its connection, and open a new one."""

OUTAGE_ABSENCE_S = 10.0
"""The same if a worker has lost its own connection: PostgreSQL may have been restarted."""

_SQL = statements("shared_state")
_KINDS = {EXIT_SETTINGS: SettingsError, EXIT_KEY_REFUSED: KeyRefusedError, EXIT_DATABASE: DatabaseError}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The shared state as it was read. `terms` and, after the end of the invocation, `summary` are JSON."""

    terms: str
    is_queued: bool
    stop_code: int | None
    stop_error: str | None
    stop_hint: str | None
    summary: str | None

    @property
    def error(self) -> EtlError | None:
        """The error with which all processes must end; None if they need not stop."""
        if self.stop_code is None:
            return None
        if self.stop_code == EXIT_INTERRUPTED:
            return InterruptedSyncError()
        kind = _KINDS.get(self.stop_code, EtlError)
        return kind(self.stop_error or "", hint=self.stop_hint or "")


class SharedState:
    """The shared state of an invocation. All methods reconnect if the connection to PostgreSQL is lost.

    Args:
        sync_id: id of the invocation in `etl_syncs`.
    """

    def __init__(self, warehouse: Warehouse, sync_id: int) -> None:
        self._warehouse = warehouse
        self._sync_id = sync_id

    async def _rows(self, name: str, *args: object) -> Sequence[asyncpg.Record]:
        return await self._warehouse.ask(lambda session: session.fetch(_SQL[name], self._sync_id, *args))

    async def add(self, terms: str) -> None:
        """Share an invocation that this process has started."""
        await self._rows("add", None, terms)

    async def remove(self) -> None:
        """Delete the shared state, after all processes have ended or were asked to."""
        await self._rows("remove")

    async def read(self) -> Snapshot:
        """Read the shared state.

        Raises:
            DatabaseError: another invocation has closed this one.
        """
        rows = await self._rows("read")
        if not rows:
            raise DatabaseError(
                "another invocation closed this one while its connection was lost", hint="Run it again."
            )
        return Snapshot(*rows[0])

    @asynccontextmanager
    async def lead(self) -> AsyncIterator[Snapshot]:
        """Hold the lead inside the block; yield the shared state."""
        while not await self._warehouse.ask(lambda session: session.try_lock("lead", str(self._sync_id))):  # noqa: ASYNC110
            await asyncio.sleep(POLL_S / 2)  # there is no notification when another process releases the lead
        try:
            yield await self.read()
        finally:
            await self._warehouse.ask(lambda session: session.unlock("lead", str(self._sync_id)))

    async def stop(self, error: EtlError) -> None:
        """Ask all processes to end with an error."""
        await self._rows("stop", error.exit_code, error.message, error.hint or None)

    async def until_stopped(self, work: Coroutine[None, None, None], *, has_caller: bool = False) -> None:
        """Await `work`, and cancel it if the invocation is asked to stop.

        Args:
            work: the coroutine.
            has_caller: whether to stop also if no process holds the lock of the invocation any more, because the one
                that started the workers has ended.

        Raises:
            EtlError: the reason to stop; a `DatabaseError` does not stop other processes.
        """
        ended = asyncio.Event()
        async with task_group() as group:
            group.create_task(self._watch(ended, has_caller=has_caller))
            await work
            ended.set()

    async def _watch(self, ended: asyncio.Event, *, has_caller: bool) -> None:
        """Raise the reason to stop, if there is one before the work has ended."""
        session, give_up_at = self._warehouse.session, monotonic() + ABSENCE_S
        while not ended.is_set():
            is_absent = has_caller and await self._warehouse.ask(lambda each: each.is_free("sync", str(self._sync_id)))
            if self._warehouse.session is not session:
                session, give_up_at = self._warehouse.session, monotonic() + OUTAGE_ABSENCE_S
            elif not is_absent:
                give_up_at = monotonic() + ABSENCE_S
            elif monotonic() > give_up_at:
                raise DatabaseError(
                    "the command that started this worker has ended or lost its connection to PostgreSQL",
                    hint="Run it again; it continues where it stopped.",
                )
            error = (await self.read()).error
            if error is not None:
                raise error
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), POLL_S)

    async def add_requests(self, requests: int, retries: int) -> None:
        """Count requests that do not belong to a workflow."""
        await self._rows("add_requests", requests, retries)

    async def requests(self) -> tuple[int, int]:
        """Return the numbers of requests and of retries of all processes."""
        (row,) = await self._rows("requests")
        return row["requests"], row["retries"]

    async def streams(self) -> list[StreamId]:
        """Return the streams in the queue."""
        return [StreamId(*row) for row in await self._rows("streams")]

    async def is_unfinished(self) -> bool:
        """Return whether a workflow is not finished."""
        return bool(await self._rows("unfinished"))

    async def queue_ended(self, outcomes: Iterable[Outcome]) -> None:
        """Record the outcomes of apps whose workflows could not be listed."""
        for place, outcome in enumerate(outcomes, 1):
            text = msgspec.json.encode([outcome]).decode()
            await self._rows("queue_ended", -place, outcome.stream.app_id, text)

    async def outcomes(self) -> dict[StreamId, Outcome]:
        """Return the outcomes of streams from all processes; streams of dead processes were interrupted."""
        rows = await self._rows("outcomes")
        texts = [row["outcomes"] for row in rows if not row["is_slice"]]
        ended = {each.stream: each for text in texts for each in msgspec.json.decode(text, type=list[Outcome])}
        for row in rows:
            if row["is_slice"]:
                stream = StreamId(row["app_id"], row["workflow_id"])
                outcome = ended.setdefault(stream, Outcome(stream, "interrupted"))
                outcome.tally.add(decode(row["outcomes"]).tally)
        return ended

    async def end(self, summary: bytes) -> None:
        """Store the summary of the invocation, as JSON, for the other processes."""
        await self._rows("end", summary.decode())


def terms_of(settings: Settings, options: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the values that must be equal in all processes of an invocation, by their names in messages, as JSON."""
    return msgspec.json.encode({"version": __version__, **options, **settings.agreed()}).decode()


def refuse_other_terms(ours: str, theirs: str, what: str) -> None:
    """Compare the terms of two processes.

    Raises:
        SettingsError: the terms differ.
    """
    mine, other = msgspec.json.decode(ours), msgspec.json.decode(theirs)
    for name in mine | other:
        if mine.get(name) != other.get(name):
            raise SettingsError(
                f"{what} differs in {name}",
                hint="Start all with the same version, options and settings, or wait until that one has ended.",
            )
