"""The work queue of an invocation, from which its processes claim workflows one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from asyncpg import UniqueViolationError

from etl.db.session import columns_of, states_of
from etl.db.statements import statements
from etl.events import StreamId
from etl.plan.window import Window

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    import asyncpg

    from etl.db.session import Session, StreamState

_SQL = statements("queue")

Answer = TypeVar("Answer")


class Ask(Protocol):
    """Calls a function with the session of this process, again after a lost connection; see `Warehouse.ask`."""

    def __call__(self, question: Callable[[Session], Awaitable[Answer]], /) -> Awaitable[Answer]:
        """Call the function."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A workflow with all apps that list it.

    Attributes:
        place: position in the queue.
        workflow_id: id of the workflow.
        app_ids: the apps that list it.
        claimed_by: the process that has claimed it; None if no process has.
        held_s: seconds since another invocation was first found to hold one of its streams; None if none was.
    """

    place: int
    workflow_id: str
    app_ids: Sequence[str]
    claimed_by: str | None = None
    held_s: float | None = None

    @property
    def streams(self) -> list[StreamId]:
        """The streams of the workflow, to be read one after another."""
        return [StreamId(app_id, self.workflow_id) for app_id in self.app_ids]


@dataclass(frozen=True, slots=True)
class Claim:
    """A workflow that this process has claimed, with the states of the streams that `session` has locked."""

    unit: Unit
    states: Mapping[StreamId, StreamState]
    session: Session


@dataclass(frozen=True, slots=True)
class SliceClaim:
    """A slice of a big stream that this process has claimed.

    Attributes:
        stream: the stream.
        window: its creation times.
        state: the state of the stream, with the fencing token of the process that has locked the stream.
        key: the claim: (invocation, place in the queue, process).
    """

    stream: StreamId
    window: Window
    state: StreamState
    key: tuple[int, int, str]


class Queue:
    """The queue of an invocation.

    Args:
        ask: gives access to the session, which holds the locks of this process.
        sync_id: id of the invocation in `etl_syncs`.
        worker: name of this process.
    """

    def __init__(self, ask: Ask, sync_id: int, worker: str) -> None:
        self.worker = worker
        self._ask = ask
        self._sync_id = sync_id

    async def _rows(self, name: str, *values: object) -> Sequence[asyncpg.Record]:
        return await self._ask(lambda session: session.fetch(_SQL[name], self._sync_id, *values))

    async def fill(self, streams: Sequence[StreamId]) -> None:
        """Queue the streams of the invocation."""
        apps, workflows = ([stream[place] for stream in streams] for place in (0, 1))
        await self._rows("fill", apps, workflows)

    async def claim(self) -> Claim | None:
        """Claim and lock the next unclaimed workflow. Workflows that another invocation holds are postponed."""
        while (claim := await self._ask(self._claim)) is not None:
            if len(claim.states) == len(claim.unit.streams):
                return claim
            await claim.session.release(*claim.states)
            await self._put_back(claim.unit)
        return None

    async def _claim(self, session: Session) -> Claim | None:
        rows = await session.fetch(_SQL["claim"], self._sync_id, self.worker)
        if not rows:
            return None
        unit = Unit(rows[0]["place"], rows[0]["queued_workflow_id"], rows[0]["app_ids"])
        return Claim(unit, states_of(row for row in rows if row["app_id"] is not None), session)

    async def unfinished(self) -> list[Unit]:
        """Return the workflows that are not finished."""
        return [Unit(*row) for row in await self._rows("unfinished")]

    async def claim_again(self, unit: Unit, *, last: bool) -> Claim | None:
        """Claim a workflow that was postponed, or whose process is dead.

        Args:
            last: whether to claim it even if another invocation holds some of its streams.
        """
        claim = await self._ask(partial(_lock, unit=unit, partly=last))
        if claim is None:
            await self._put_back(unit)
        elif not await self._rows("claim_again", self.worker, unit.place):
            await claim.session.release(*claim.states)  # another process has finished it
            return None
        return claim

    async def finish(self, unit: Unit, outcomes: bytes, sent: tuple[int, int]) -> None:
        """Record the outcomes of a workflow's streams and release them.

        Args:
            sent: numbers of requests and retries that this process has sent since it last finished a workflow or
                slice.
        """
        await self._finish(unit.place, outcomes, sent, unit.streams)

    async def _finish(
        self, place: int, outcome: bytes, sent: tuple[int, int], streams: Sequence[StreamId] = ()
    ) -> None:
        values = (self._sync_id, self.worker, place, outcome.decode(), *sent)
        await self._ask(lambda session: session.fetch(_SQL["finish"], *values, *columns_of(streams)))

    async def requeue(self) -> bool:
        """Queue workflows again that list runs whose ids another workflow has given up since; return whether any do."""
        return bool(await self._rows("requeue"))

    async def _put_back(self, unit: Unit) -> None:
        await self._rows("put_back", self.worker, unit.place)

    async def split(self, stream: StreamId, fence: int, slices: Sequence[Window]) -> None:
        """Queue the slices of a stream that this process has locked; `fence` is its fencing token."""
        columns = [[*column] for column in zip(*slices, strict=True)]
        while True:
            try:
                await self._rows("add_slices", *stream, fence, *columns)
            except UniqueViolationError:  # another process has just queued the slices of another stream
                continue
            return

    async def adopt(self, stream: StreamId, fence: int) -> datetime | None:
        """Take over the slices that a former owner of the stream has queued.

        Returns:
            The start of the invocation; None if there are no slices.
        """
        rows = await self._rows("adopt_slices", *stream, fence)
        began: datetime | None = rows[0][0] if rows else None
        return began

    async def claim_slice(self, stream: StreamId | None = None, fence: int | None = None) -> SliceClaim | None:
        """Claim the next slice of a stream that this process has locked; without arguments, of any stream."""
        of = (None, None) if stream is None else stream
        rows = await self._rows("claim_slice", *of, fence, self.worker)
        return await self._slice_claim(rows[0]) if rows else None

    async def slices(self, stream: StreamId, fence: int) -> list[tuple[Window, str | None, str | None]]:
        """Return the slices of a stream: (slice, process that has claimed it, outcome as JSON) of each."""
        rows = await self._rows("slices", *stream, fence)
        return [(Window(since, until), by, outcomes) for since, until, by, outcomes in rows]

    async def finish_slice(self, claim: SliceClaim, outcome: bytes, sent: tuple[int, int] = (0, 0)) -> None:
        """Record the outcome of a slice, as JSON; see `finish`."""
        await self._finish(claim.key[1], outcome, sent)

    async def give_up(self, claim: SliceClaim) -> None:
        """Release a slice, so that a process can claim it and read it from its start."""
        await self._rows("free_slices", self.worker, claim.key[1])

    async def free_slices_of_the_dead(self, workers: Iterable[str]) -> None:
        """Release the slices of those processes in `workers` that are dead."""
        for worker in workers:
            if await self._ask(partial(_is_dead, worker=worker)):
                await self._rows("free_slices", worker, None)

    async def void_slices(self, stream: StreamId, fence: int, outcome: bytes) -> None:
        """Finish all unfinished slices of a stream, so that processes that read them can no longer commit."""
        await self._rows("void_slices", *stream, fence, outcome.decode())

    async def _slice_claim(self, row: asyncpg.Record) -> SliceClaim:
        place, workflow_id, (app_id,), fence, since, until = row
        stream = StreamId(app_id, workflow_id)
        state = replace(await self._ask(lambda session: session.read(stream)), fence=fence)
        return SliceClaim(stream, Window(since, until), state, (self._sync_id, place, self.worker))


async def _lock(session: Session, unit: Unit, *, partly: bool = False) -> Claim | None:
    """Lock the streams of a workflow; return None if another invocation holds one and `partly` is false."""
    states = await session.take(unit.streams)
    if partly or len(states) == len(unit.streams):
        return Claim(unit, states, session)
    await session.release(*states)
    return None


async def _is_dead(session: Session, worker: str) -> bool:
    if await session.try_lock("worker", worker):
        await session.unlock("worker", worker)
        return True
    return False
