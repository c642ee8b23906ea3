"""What a process does for an invocation: claim workflow after workflow, run their streams, record how they ended."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec

from etl.app.upkeep import roll_up_loaded
from etl.db.queue import Queue
from etl.engine.local import run_side_by_side

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from etl.app.stream_runner import StreamRunner
    from etl.app.warehouse import Warehouse
    from etl.db.queue import Claim, Unit
    from etl.events import Listener, StreamId
    from etl.sync import Outcome

Answer = TypeVar("Answer")

STREAMS_AT_ONCE = 4
"""More gain nothing: the rate limit or PostgreSQL is busy with fewer, and each holds pages in memory."""

LOCK_PATIENCE_S = 1.0
"""How long to wait for held streams: PostgreSQL takes a moment to notice that a process is dead."""


class Shift:
    """Works off the queue of an invocation, `width` workflows at once.

    Args:
        warehouse: where the queue is.
        runner: runs the streams.
        sync_id: the row of `etl_syncs`.
        listener: receives events.
        width: number of workflows.
        sent: tells how many requests and retries this process has sent.
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
    ) -> None:
        self._warehouse = warehouse
        self._runner = runner
        self._sync_id = sync_id
        self._listener = listener
        self._width = width
        self._sent = sent
        self._reported = sent()
        self._in_hand: list[Unit] = []
        self.worker = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(4)}"

    def unreported(self) -> tuple[int, int]:
        """Return the numbers of requests and retries since those recorded with the last workflow that ended."""
        requests, retries = self._sent()
        return requests - self._reported[0], retries - self._reported[1]

    async def fill(self, streams: Sequence[StreamId]) -> None:
        """Queue the streams of the invocation."""
        await self._ask(lambda queue: queue.fill(streams))

    async def leave(self, ended: Mapping[StreamId, Outcome]) -> None:
        """Record how far the streams in hand came, because all processes stop."""
        for unit in self._in_hand:
            outcomes = msgspec.json.encode([ended[stream] for stream in unit.streams if stream in ended])
            requests, retries = self.unreported()
            self._reported = self._sent()
            finish = partial(Queue.finish, unit=unit, outcomes=outcomes, requests=requests, retries=retries)
            await self._ask(finish)

    async def work(self) -> None:
        """Work until every workflow of the queue has ended.

        Streams that another invocation holds are tried once more after all others, and then skipped.

        Raises:
            KeyRefusedError, DatabaseError: no stream can go on.
        """
        await run_side_by_side(self._width, self._work_off_free)
        while left := await self._ask(Queue.unfinished):
            # The streams of what others have claimed can be locked only if their process is dead.
            others = any(unit.claimed_by not in {None, self.worker} for unit in left)
            last = not others and all((unit.held_s or 0) >= LOCK_PATIENCE_S for unit in left)
            work = partial(self._work_off_left, iter(left), last=last)
            await run_side_by_side(self._width, work)
            await asyncio.sleep(0 if last else LOCK_PATIENCE_S if others else LOCK_PATIENCE_S / 10)

    async def _work_off_free(self) -> None:
        while (claim := await self._ask(Queue.claim)) is not None:
            await self._run(claim)

    async def _work_off_left(self, units: Iterator[Unit], *, last: bool) -> None:
        for unit in units:
            claim = await self._ask(partial(Queue.claim_again, unit=unit, last=last))
            if claim is not None:
                await self._run(claim)

    async def _run(self, claim: Claim) -> None:
        """Run the streams of a workflow in turn, as several apps may list the same runs; record how they ended."""
        unit = claim.unit
        self._in_hand.append(unit)
        outcomes = await self._runner.run(unit.streams, claim.states, claim.session)
        requests, retries = self.unreported()
        self._reported = (self._reported[0] + requests, self._reported[1] + retries)
        finish = partial(Queue.finish, requests=requests, retries=retries)
        await self._ask(partial(finish, unit=unit, outcomes=msgspec.json.encode(outcomes)))
        self._in_hand.remove(unit)
        changed = sum(each.tally.runs_inserted + each.tally.runs_updated for each in outcomes)
        await roll_up_loaded(self._warehouse, unit.workflow_id, changed, self._listener)

    async def _ask(self, question: Callable[[Queue], Awaitable[Answer]]) -> Answer:
        return await self._warehouse.ask(lambda session: question(Queue(session, self._sync_id, self.worker)))


async def read_only(warehouse: Warehouse, runner: StreamRunner, streams: Sequence[StreamId], *, width: int) -> None:
    """Run streams for a dry run, `width` workflows at once, without a queue and without locks."""
    by_workflow: dict[str, list[StreamId]] = {}
    for stream in streams:
        by_workflow.setdefault(stream.workflow_id, []).append(stream)
    units = iter(by_workflow.values())

    async def work() -> None:
        for unit in units:
            session = warehouse.session
            await runner.run(unit, {stream: await session.read(stream) for stream in unit}, session)

    await run_side_by_side(width, work)
