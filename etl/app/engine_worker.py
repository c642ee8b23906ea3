"""The function that an engine runs on each worker: read the settings, and process the queue of an invocation."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from etl import __version__
from etl.app.clients import open_clients
from etl.app.joining import Sharing, refuse_other_terms
from etl.app.outcomes import Outcomes
from etl.app.queue_worker import QueueWorker
from etl.app.stream_runner import StreamRunner
from etl.app.warehouse import open_warehouse
from etl.app.worker_events import EventSender
from etl.config import load
from etl.db.sharing import SharedSync
from etl.errors import DatabaseError, EtlError, InterruptedSyncError, explain
from etl.events import Event, RequestSent, tee
from etl.limits import STREAMS_AT_ONCE
from etl.plan.window import Window
from etl.sync import Task

if TYPE_CHECKING:
    from datetime import datetime

    from etl.app.warehouse import Warehouse
    from etl.config import Settings
    from etl.sync.stream import Mode


def run_worker(sync_id: int, mode: Mode, since: datetime | None, until: datetime | None) -> None:
    """Process the queue of an invocation until it is finished.

    Args:
        sync_id: id of the invocation in `etl_syncs`.
        mode: mode of the invocation.
        since: start of the window of creation times.
        until: end of the window.

    Raises:
        EtlError: this process cannot continue; other processes can.
    """
    settings = load()
    sync = settings.sync
    task = Task(mode, lookback=sync.lookback, reconcile_every=sync.reconcile_every, window=Window(since, until))
    asyncio.run(_Worker(settings, task, sync_id).run())


class _Worker:
    """One worker of an invocation."""

    def __init__(self, settings: Settings, task: Task, sync_id: int) -> None:
        self._settings = settings
        self._task = task
        self._sync_id = sync_id
        self._requests = self._retries = 0
        self._sender = EventSender()
        self._listener = tee(self._count, self._sender.listen)

    def _count(self, event: Event) -> None:
        if isinstance(event, RequestSent):
            self._requests += 1
            self._retries += event.is_retry

    async def run(self) -> None:
        """Work until all workflows are finished or the invocation is asked to stop; an error stops all processes."""
        async with AsyncExitStack() as stack:
            opening = open_warehouse(self._settings, self._listener, width=STREAMS_AT_ONCE, migrated=False)
            warehouse = await stack.enter_async_context(opening)
            await stack.enter_async_context(self._sender.sending(self._settings, self._sync_id))
            sharing = Sharing(warehouse, self._sync_id)
            try:
                await self._work(stack, warehouse, sharing)
            except InterruptedSyncError:
                return
            except DatabaseError:
                raise
            except Exception as failure:  # noqa: BLE001 - the caller reports all errors
                await sharing.ask(partial(SharedSync.stop, error=explain(failure)))

    async def _work(self, stack: AsyncExitStack, warehouse: Warehouse, sharing: Sharing) -> None:
        settings = self._settings
        theirs: dict[str, str] = msgspec.json.decode((await sharing.ask(SharedSync.read)).terms)
        ours = {"version": __version__, **settings.agreed()}
        refuse_other_terms(ours, {name: theirs[name] for name in theirs if name in ours or "." in name}, "a worker")
        clients = await open_clients(stack, settings, settings.apps, warehouse.leases, self._listener)
        outcomes = Outcomes()
        runner = StreamRunner(
            settings, self._task, warehouse, clients, self._listener, outcomes.ended, sync_id=self._sync_id
        )
        queue_worker = QueueWorker(
            warehouse,
            runner,
            self._sync_id,
            self._listener,
            width=min(STREAMS_AT_ONCE, settings.api.concurrency),
            sent=lambda: (self._requests, self._retries),
            split_pages=settings.engine.split_pages,
        )
        await warehouse.session.work_as(queue_worker.worker)
        try:
            await sharing.until_stopped(queue_worker.work(), has_caller=True)
        except EtlError:
            await queue_worker.leave(outcomes.ended)
            raise
