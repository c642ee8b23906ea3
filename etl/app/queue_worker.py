"""The work of one process for an invocation: claim queued workflows, run their streams and record the outcomes."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import asyncpg
import msgspec

from etl.app.maintenance import roll_up_loaded
from etl.app.windows import Reading, Windows, encode
from etl.db.queue import Queue
from etl.db.refusals import LOST
from etl.engine.tasks import run_concurrently
from etl.errors import LockLostError
from etl.events import Notice
from etl.sync.intake import Tally

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from etl.app.stream_runner import StreamRunner
    from etl.app.warehouse import Warehouse
    from etl.db.queue import Claim, Unit, WindowClaim
    from etl.events import Listener, StreamId
    from etl.sync import Outcome

Answer = TypeVar("Answer")

WINDOWS_AT_ONCE = 2
"""One is read while another begins or ends. With more, some processes would idle while others read the last windows."""

LOCK_TIMEOUT_S = 1.0
"""How long to wait for locked streams, in seconds. PostgreSQL does not detect immediately that a process is dead."""


class QueueWorker:
    """Runs the queued workflows of an invocation, up to `width` concurrently.

    Args:
        warehouse: the warehouse with the queue.
        runner: runs the streams.
        sync_id: id of the invocation in `etl_syncs`.
        listener: receives events.
        width: maximum number of concurrent workflows.
        sent: returns the numbers of requests and retries that this process has sent.
        split_pages: pages per window when a big stream is split for other processes; 0 to split no streams.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        runner: StreamRunner,
        sync_id: int,
        listener: Listener,
        *,
        width: int,
        sent: Callable[[], tuple[int, int]],
        split_pages: int = 0,
    ) -> None:
        self._warehouse = warehouse
        self._runner = runner
        self._sync_id = sync_id
        self._listener = listener
        self._width = width
        self._sent = sent
        self._reported = sent()
        self._claimed_units: list[Unit] = []
        self._claimed_windows: dict[WindowClaim, Tally] = {}
        self.worker = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(4)}"
        if split_pages:
            runner.windows = Windows(warehouse, sync_id, self.worker, split_pages)

    def unreported(self) -> tuple[int, int]:
        """Return the numbers of requests and retries that are not recorded yet."""
        requests, retries = self._sent()
        return requests - self._reported[0], retries - self._reported[1]

    async def fill(self, streams: Sequence[StreamId]) -> None:
        """Queue the streams of the invocation."""
        await self._ask(lambda queue: queue.fill(streams))

    async def leave(self, ended: Mapping[StreamId, Outcome]) -> None:
        """Record the progress of the claimed streams and windows, because all processes stop."""
        for unit in self._claimed_units:
            outcomes = msgspec.json.encode([ended[stream] for stream in unit.streams if stream in ended])
            await self._ask(partial(Queue.finish, unit=unit, outcomes=outcomes, sent=self._report()))
        for claim, tally in self._claimed_windows.items():
            reading = encode(Reading("interrupted", tally=tally))
            await self._ask(partial(Queue.finish_window, claim=claim, reading=reading, sent=self._report()))

    async def work(self) -> None:
        """Work until all workflows of the queue are finished.

        Streams that another invocation holds are tried again after all others, and then skipped.

        Raises:
            KeyRefusedError, DatabaseError: no stream can continue.
        """
        await run_concurrently(self._width, self._run_unclaimed)
        while left := await self._ask(Queue.unfinished):
            await run_concurrently(WINDOWS_AT_ONCE, self._run_windows)  # others may have split a stream
            # Streams that another process has claimed can be locked only if that process is dead.
            others = any(unit.claimed_by not in {None, self.worker} for unit in left)
            last = not others and all((unit.held_s or 0) >= LOCK_TIMEOUT_S for unit in left)
            work = partial(self._run_remaining, iter(left), last=last)
            await run_concurrently(self._width, work)
            await asyncio.sleep(0 if last else LOCK_TIMEOUT_S if others else LOCK_TIMEOUT_S / 10)

    async def _run_unclaimed(self) -> None:
        while (claim := await self._ask(Queue.claim)) is not None:
            await self._run(claim)

    async def _run_windows(self) -> None:
        while (claim := await self._ask(Queue.claim_window)) is not None:
            await self._read_window(claim)

    async def _run_remaining(self, units: Iterator[Unit], *, last: bool) -> None:
        for unit in units:
            claim = await self._ask(partial(Queue.claim_again, unit=unit, last=last))
            if claim is not None:
                await self._run(claim)

    async def _run(self, claim: Claim) -> None:
        """Run the streams of a workflow one after another, as apps may list the same runs; record the outcomes."""
        unit = claim.unit
        self._claimed_units.append(unit)
        outcomes = await self._runner.run(unit.streams, claim.states, claim.session)
        await self._ask(partial(Queue.finish, unit=unit, outcomes=msgspec.json.encode(outcomes), sent=self._report()))
        self._claimed_units.remove(unit)
        changed = sum(each.tally.runs_inserted + each.tally.runs_updated for each in outcomes)
        await roll_up_loaded(self._warehouse, unit.workflow_id, changed, self._listener)

    async def _read_window(self, claim: WindowClaim) -> None:
        """Read a window of a stream that another process has claimed."""
        session = self._warehouse.session
        tally = self._claimed_windows[claim] = Tally()
        try:
            reading = await self._runner.read_window(claim, tally)
            await self._ask(partial(Queue.finish_window, claim=claim, reading=encode(reading), sent=self._report()))
        except LockLostError:  # another process has claimed the window or the stream, and continues
            pass
        except (*LOST, asyncpg.TransactionRollbackError) as error:
            await self._ask(partial(Queue.give_up, claim=claim))
            self._listener(Notice("database.lost", {"stream": str(claim.stream), "error": str(error)}, level="warning"))
            if isinstance(error, LOST) and self._warehouse.session is session:
                await self._warehouse.reconnect(session)
        del self._claimed_windows[claim]
        await roll_up_loaded(
            self._warehouse, claim.stream.workflow_id, tally.runs_inserted + tally.runs_updated, self._listener
        )

    def _report(self) -> tuple[int, int]:
        """Return the numbers of requests and retries to record now, and count them as recorded."""
        requests, retries = self.unreported()
        self._reported = (self._reported[0] + requests, self._reported[1] + retries)
        return requests, retries

    async def _ask(self, question: Callable[[Queue], Awaitable[Answer]]) -> Answer:
        return await self._warehouse.ask(lambda session: question(Queue(session, self._sync_id, self.worker)))


async def read_only(warehouse: Warehouse, runner: StreamRunner, streams: Sequence[StreamId], *, width: int) -> None:
    """Run streams for a dry run, up to `width` workflows concurrently, without a queue or locks."""
    by_workflow: dict[str, list[StreamId]] = {}
    for stream in streams:
        by_workflow.setdefault(stream.workflow_id, []).append(stream)
    units = iter(by_workflow.values())

    async def work() -> None:
        for unit in units:
            session = warehouse.session
            await runner.run(unit, {stream: await session.read(stream) for stream in unit}, session)

    await run_concurrently(width, work)
