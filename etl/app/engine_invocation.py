"""An invocation whose streams run on the workers of an engine (setting `engine`)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from etl.app.engine_worker import run_worker
from etl.app.shared_state import POLL_S, SharedState, terms_of
from etl.app.sync_invocation import SyncInvocation, known_error
from etl.app.worker_events import receiving
from etl.db.liveness import finish_commit
from etl.db.session import Session
from etl.engine.executors import open_executor
from etl.errors import DatabaseError, EtlError, InterruptedSyncError, SettingsError
from etl.events import SyncStarted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor, Future

STOP_TIMEOUT_S = 5.0
"""How long to wait for workers to finish running commits, in seconds."""


class EngineInvocation(SyncInvocation):
    """An invocation whose streams run on the workers of an engine. This process only finds and queues them."""

    async def _run_streams(self) -> None:
        """Queue the requested streams, start the workers and wait until they have ended."""
        settings, sync_id = self._settings, self._sync_id
        executor, workers = await asyncio.to_thread(open_executor, settings.engine, settings.file)
        self._stack.callback(executor.shutdown, wait=False, cancel_futures=True)
        clients = await self._open_clients()
        self._outcomes.streams = streams = await self._find_streams(clients)
        shared = SharedState(self._warehouse, sync_id)
        await shared.add(terms_of(settings))
        await shared.add_requests(self._summary.requests, self._summary.retries)
        await self._queue(streams)
        self._listener(SyncStarted(self._task.mode, tuple(streams), sync_id))
        await self._stack.enter_async_context(receiving(settings, sync_id, self._listener))
        if not await self._may_split():
            workers = min(workers, len({stream.workflow_id for stream in streams}))
        await self._run_workers(executor, workers, shared)
        await self._compare_again()

    async def _may_split(self) -> bool:
        """Return whether streams may be read in slices, so that more workers than workflows are useful."""
        if not self._settings.engine.split_pages or self._task.window.is_bounded:
            return False
        return self._task.mode != "sync" or await self._warehouse.ask(Session.has_unread_history)

    async def _run_workers(self, executor: Executor, count: int, shared: SharedState) -> None:
        """Start workers, wait until they have ended, and collect their results."""
        task = self._task
        futures = [executor.submit(run_worker, self._sync_id, task.mode, *task.window) for _ in range(count)]
        try:
            await shared.until_stopped(wait_for_workers(futures, shared))
        except DatabaseError:  # the workers notice by themselves
            raise
        except BaseException as error:
            await finish_commit(_stop_workers(futures, shared, error))
            await finish_commit(self._collect(shared))
            raise
        await finish_commit(self._collect(shared))

    async def _collect(self, shared: SharedState) -> None:
        """Read the outcomes and request counts of the workers, and delete the shared state."""
        self._outcomes.ended |= await shared.outcomes()
        self._summary.requests, self._summary.retries = await shared.requests()
        await shared.remove()


async def wait_for_workers(futures: Sequence[Future[None]], shared: SharedState) -> None:
    """Wait until all workflows are finished. The failure of a worker is not an error while others continue.

    Raises:
        EtlError: all workers have failed, or the invocation was asked to stop.
    """
    waiting = {asyncio.wrap_future(future) for future in futures}
    failures: list[BaseException] = []
    while waiting:
        ended, waiting = await asyncio.wait(waiting, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
        failures += [error for each in ended if (error := _failure_of(each)) is not None]
        settings = next((error for error in failures if isinstance(error, SettingsError)), None)
        if settings is not None:
            raise settings
    reason = (await shared.read()).error
    if reason is not None:
        raise reason
    if await shared.is_unfinished():
        first = f": {failures[0]}" if failures else ""
        raise EtlError(f"no worker is left{first}", hint="See the logs of the workers, then run it again.")


def _failure_of(ended: asyncio.Future[None]) -> BaseException | None:
    return EtlError("the engine has given it up") if ended.cancelled() else ended.exception()


async def _stop_workers(futures: Sequence[Future[None]], shared: SharedState, error: BaseException) -> None:
    """Ask the workers to stop, and wait for their running commits."""
    is_interrupted = isinstance(error, asyncio.CancelledError)
    await shared.stop(InterruptedSyncError() if is_interrupted else known_error(cast("Exception", error)))
    pending = [asyncio.wrap_future(future) for future in futures if not future.done()]
    if pending:
        await asyncio.wait(pending, timeout=STOP_TIMEOUT_S)
