"""An invocation that several copies of a command share (`--join`)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from etl.app.joining import Sharing, refuse_other_terms, summary_of, terms_of
from etl.app.outcomes import Outcomes
from etl.app.sync_invocation import LEDGER_TIMEOUT_S, SyncInvocation
from etl.app.warehouse import open_warehouse
from etl.db.liveness import finish_commit
from etl.db.sharing import SharedSync
from etl.errors import DatabaseError, InterruptedSyncError
from etl.events import SyncStarted
from etl.limits import STREAMS_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etl.api.retry import RetryPolicy
    from etl.app.warehouse import Warehouse
    from etl.config import Settings
    from etl.events import Listener, StreamId
    from etl.sync import Outcome, Task


class JoinedInvocation(SyncInvocation):
    """One of several copies of a command that share an invocation."""

    def __init__(
        self, settings: Settings, task: Task, listener: Listener, *, name: str, policy: RetryPolicy | None
    ) -> None:
        super().__init__(settings, task, listener, policy=policy)
        self._name = name
        self._split_pages = settings.engine.split_pages

    async def _run(self, apps: Sequence[str], workflows: Sequence[str]) -> None:
        self._choose(apps)
        async with AsyncExitStack() as stack:
            opening = open_warehouse(self._settings, self._listener, width=STREAMS_AT_ONCE)
            warehouse = await stack.enter_async_context(opening)
            ours = terms_of(self._settings, self._task, apps, workflows)
            terms = msgspec.json.encode(ours).decode()
            row, theirs = await warehouse.session.join_sync(self._name, self._task.mode, terms)
            refuse_other_terms(ours, msgspec.json.decode(theirs), f"the running invocation {self._name}")
            self._summary.begin(row)
            sharing = Sharing(warehouse, row["id"])
            await self._caught(self._take_part(stack, warehouse, sharing, workflows))
            await self._end(warehouse, sharing)

    async def _take_part(
        self, stack: AsyncExitStack, warehouse: Warehouse, sharing: Sharing, workflows: Sequence[str]
    ) -> None:
        """Queue the workflows if no other copy has, and work until all are finished."""
        clients = await self._open_clients(stack, warehouse)
        async with sharing.lead() as notes:
            if not notes.is_queued:
                found: dict[StreamId, Outcome] = {}
                streams = await self._find_streams(warehouse, clients, workflows, found)
                ended = [(each.stream.app_id, msgspec.json.encode([each])) for each in found.values()]
                await sharing.ask(lambda shared: shared.queue_ended(ended))
                sent = (self._summary.requests, self._summary.retries)
                await sharing.ask(lambda shared: shared.add_requests(*sent))
                await self._queue_worker(warehouse, self._runner(warehouse, clients)).fill(streams)
        self._apps = []
        streams = await sharing.ask(SharedSync.streams)
        self._listener(SyncStarted(self._task.mode, tuple(streams), self._summary.id))
        queue_worker = self._queue_worker(warehouse, self._runner(warehouse, clients))
        await warehouse.session.work_as(queue_worker.worker)
        try:
            await sharing.until_stopped(queue_worker.work())
        except asyncio.CancelledError:
            adding = sharing.ask(lambda shared: shared.add_requests(*queue_worker.unreported()))
            await finish_commit(asyncio.wait_for(adding, LEDGER_TIMEOUT_S))
            raise

    async def _end(self, warehouse: Warehouse, sharing: Sharing) -> None:
        """Record the end of the invocation, or read the summary if another copy has recorded it."""
        cause = self._summary.cause
        if isinstance(cause, (InterruptedSyncError, DatabaseError)):  # affects only this copy: the others continue
            self._conclude()
            return
        if cause is not None:
            await sharing.ask(partial(SharedSync.stop, error=cause))
        async with sharing.lead() as notes:
            if notes.summary is not None:
                self._summary, cause = summary_of(notes.summary), notes.error
                self._summary.cause = cause
                return
            streams, outcomes = await sharing.ask(SharedSync.streams), await sharing.outcomes()
            self._outcomes = Outcomes(streams, {each.stream: each for each in outcomes})
            if cause is None and not self._task.window.is_bounded:
                await self._caught(self._outcomes.compare_again(warehouse, self._listener))
            self._summary.requests, self._summary.retries = await sharing.ask(SharedSync.requests)
            self._conclude()
            if self._summary.cause is None:
                await self._caught(self._keep_in_order(warehouse))
            await finish_commit(self._record_end(warehouse))
            summary = msgspec.json.encode(self._summary.as_dict())
            await sharing.ask(lambda shared: shared.end(summary))
