"""The work of one process for an invocation: claim queued workflows, run their streams and record the outcomes."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
import msgspec

from etl.app.split_streams import SliceOutcome, SplitStreams, encode
from etl.app.stream_runner import StreamRunner, lost
from etl.db.queue import Queue
from etl.db.refusals import LOST
from etl.engine import run_concurrently
from etl.errors import DatabaseError, EtlError, LockLostError
from etl.limits import STREAMS_AT_ONCE
from etl.sync.intake import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from etl.api.client import CortexClient
    from etl.app.shared_state import SharedState
    from etl.app.summary import SyncSummary
    from etl.app.warehouse import Warehouse
    from etl.config import Settings
    from etl.db.queue import Claim, SliceClaim, Unit
    from etl.events import Listener, StreamId
    from etl.sync import Outcome, Task

SLICES_AT_ONCE = 2
"""One is read while another begins or ends. With more, some processes would idle while others read the last slices."""

LOCK_TIMEOUT_S = 1.0
"""How long to wait for locked streams, in seconds. PostgreSQL does not detect immediately that a process is dead."""


class QueueWorker:
    """Runs the queued workflows of an invocation, several concurrently.

    Args:
        task: the mode and the window.
        warehouse: the warehouse with the queue.
        clients: API clients by app id.
        outcomes: filled with the outcomes of the streams that this process has run.
        summary: the summary of the invocation; its requests and retries are those of this process.
        is_shared: whether other processes work on the invocation too. Then big streams are split into slices.
    """

    def __init__(
        self,
        settings: Settings,
        task: Task,
        warehouse: Warehouse,
        clients: Mapping[str, CortexClient],
        listener: Listener,
        outcomes: dict[StreamId, Outcome],
        *,
        summary: SyncSummary,
        is_shared: bool = False,
    ) -> None:
        assert summary.id is not None  # noqa: S101 - only a dry run has none
        self._warehouse = warehouse
        self._listener = listener
        self._summary = summary
        self._recorded = (summary.requests, summary.retries)
        self._width = workflows_at_once(settings)
        self._claimed_units: list[Unit] = []
        self._claimed_slices: dict[SliceClaim, Tally] = {}
        name = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(4)}"
        self._queue = Queue(warehouse.ask, summary.id, name)
        split_streams = SplitStreams(self._queue, settings.engine.split_pages if is_shared else 0)
        self._runner = StreamRunner(
            settings, task, warehouse, clients, listener, outcomes, sync_id=summary.id, split_streams=split_streams
        )

    async def work_until_stopped(self, shared: SharedState, *, has_caller: bool = False) -> None:
        """Work until all workflows of the queue are finished, or the invocation is asked to stop.

        Args:
            shared: the shared state of the invocation.
            has_caller: see `SharedState.until_stopped`.

        Raises:
            KeyRefusedError, DatabaseError: no stream can continue.
            EtlError: the reason to stop.
        """
        await self._warehouse.ask(lambda session: session.work_as(self._queue.worker))
        try:
            await shared.until_stopped(self.work(), has_caller=has_caller)
        except DatabaseError:  # other processes continue
            raise
        except EtlError as error:
            await shared.stop(error)
            await self._leave()
            raise

    async def _leave(self) -> None:
        """Record the progress of the claimed streams and slices, because all processes stop."""
        for unit in self._claimed_units:
            await self._finish(unit, [ended for each in unit.streams if (ended := self._runner.outcomes.get(each))])
        for claim, tally in self._claimed_slices.items():
            await self._finish_slice(claim, SliceOutcome("interrupted", tally=tally))

    async def work(self) -> None:
        """Work until all workflows of the queue are finished.

        Streams that another invocation holds are tried again after all others, and then skipped. If runs have moved
        from one workflow to another, which was read before, that one is read again.

        Raises:
            KeyRefusedError, DatabaseError: no stream can continue.
        """
        await self._work()
        if await self._queue.requeue():
            await self._work()

    async def _work(self) -> None:
        await run_concurrently(self._width, self._run_unclaimed)
        while left := await self._queue.unfinished():
            await run_concurrently(SLICES_AT_ONCE, self._run_slices)  # others may have split a stream
            # Streams that another process has claimed can be locked only if that process is dead.
            others = any(unit.claimed_by not in {None, self._queue.worker} for unit in left)
            last = not others and all((unit.held_s or 0) >= LOCK_TIMEOUT_S for unit in left)
            work = partial(self._run_remaining, iter(left), last=last)
            await run_concurrently(self._width, work)
            await asyncio.sleep(0 if last else LOCK_TIMEOUT_S if others else LOCK_TIMEOUT_S / 10)

    async def _run_unclaimed(self) -> None:
        while (claim := await self._queue.claim()) is not None:
            await self._run(claim)

    async def _run_slices(self) -> None:
        while (claim := await self._queue.claim_slice()) is not None:
            await self._read_slice(claim)

    async def _run_remaining(self, units: Iterator[Unit], *, last: bool) -> None:
        for unit in units:
            claim = await self._queue.claim_again(unit, last=last)
            if claim is not None:
                await self._run(claim)

    async def _run(self, claim: Claim) -> None:
        """Run the streams of a workflow one after another, as apps may list the same runs; record the outcomes."""
        unit = claim.unit
        self._claimed_units.append(unit)
        outcomes = await self._runner.run(unit.streams, claim.states, claim.session)
        await self._finish(unit, outcomes)
        self._claimed_units.remove(unit)

    async def _read_slice(self, claim: SliceClaim) -> None:
        """Read a slice of a stream that another process has claimed."""
        session = self._warehouse.session
        tally = self._claimed_slices[claim] = Tally()
        try:
            await self._finish_slice(claim, await self._runner.read_slice(claim, tally))
        except LockLostError:  # another process has claimed the slice or the stream, and continues
            pass
        except (*LOST, asyncpg.TransactionRollbackError) as error:
            await self._queue.give_up(claim)
            self._listener(lost(claim.stream, error))
            if isinstance(error, LOST) and self._warehouse.session is session:
                await self._warehouse.reconnect(session)
        del self._claimed_slices[claim]

    async def _finish(self, unit: Unit, outcomes: Sequence[Outcome]) -> None:
        await self._queue.finish(unit, msgspec.json.encode(outcomes), self.unrecorded_requests())

    async def _finish_slice(self, claim: SliceClaim, outcome: SliceOutcome) -> None:
        await self._queue.finish_slice(claim, encode(outcome), self.unrecorded_requests())

    def unrecorded_requests(self) -> tuple[int, int]:
        """Return how many requests and retries this process has sent since the last call, to record them."""
        before, self._recorded = self._recorded, (self._summary.requests, self._summary.retries)
        return self._recorded[0] - before[0], self._recorded[1] - before[1]


def workflows_at_once(settings: Settings) -> int:
    """Return how many workflows a process reads concurrently."""
    return min(STREAMS_AT_ONCE, settings.api.concurrency)


async def read_only(runner: StreamRunner, warehouse: Warehouse, streams: Sequence[StreamId], *, width: int) -> None:
    """Run streams for a dry run, several workflows concurrently, without a queue or locks."""
    by_workflow: dict[str, list[StreamId]] = {}
    for stream in streams:
        by_workflow.setdefault(stream.workflow_id, []).append(stream)
    units = iter(by_workflow.values())

    async def work() -> None:
        for unit in units:
            session = warehouse.session
            await runner.run(unit, {stream: await session.read(stream) for stream in unit}, session)

    await run_concurrently(width, work)
