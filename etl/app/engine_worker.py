"""The function that an engine runs on each worker: read the settings, and process the queue of an invocation."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from etl.app.clients import open_clients
from etl.app.queue_worker import QueueWorker
from etl.app.shared_state import SharedState, refuse_other_terms, terms_of
from etl.app.summary import SyncSummary
from etl.app.sync_invocation import known_error, task_of
from etl.app.warehouse import open_warehouse
from etl.app.worker_events import EventSender
from etl.config import load
from etl.errors import DatabaseError
from etl.events import tee

if TYPE_CHECKING:
    from datetime import datetime

    from etl.config import Settings
    from etl.sync import Task
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
    asyncio.run(_work(settings, task_of(settings, mode, since, until), sync_id))


async def _work(settings: Settings, task: Task, sync_id: int) -> None:
    """Work until all workflows are finished or the invocation is asked to stop; an error stops all processes."""
    summary, sender = SyncSummary(task.mode, id=sync_id), EventSender()
    listener = tee(summary.listen, sender.listen)
    async with AsyncExitStack() as stack:
        warehouse = await stack.enter_async_context(open_warehouse(settings, listener, migrated=False))
        await stack.enter_async_context(sender.sending(settings, sync_id))
        shared = SharedState(warehouse, sync_id)
        try:
            refuse_other_terms(terms_of(settings), (await shared.read()).terms, "a worker")
            clients = await open_clients(stack, settings, settings.apps, warehouse.leases, listener)
            worker = QueueWorker(settings, task, warehouse, clients, listener, {}, summary=summary, is_shared=True)
            await worker.work_until_stopped(shared, has_caller=True)
        except Exception as failure:
            error = known_error(failure)
            if isinstance(error, DatabaseError):  # other workers can continue
                raise error from failure
            await shared.stop(error)
