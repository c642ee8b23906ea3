"""An invocation whose streams run on the workers of an engine (setting `engine`)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import msgspec

from etl import __version__
from etl.app.engine_worker import run_worker
from etl.app.joining import POLL_S, Sharing
from etl.app.sync_invocation import SyncInvocation, known_error
from etl.app.worker_events import receiving
from etl.db.liveness import finish_commit
from etl.db.session import Session
from etl.db.sharing import SharedSync
from etl.engine.executors import open_executor
from etl.errors import EtlError, InterruptedSyncError, SettingsError
from etl.events import SyncStarted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from contextlib import AsyncExitStack

    from etl.app.warehouse import Warehouse

STOP_TIMEOUT_S = 5.0
"""How long a caller waits for its workers to finish running commits, in seconds."""


class EngineInvocation(SyncInvocation):
    """An invocation whose streams run on the workers of an engine."""

    async def _run_streams(self, stack: AsyncExitStack, warehouse: Warehouse, workflows: Sequence[str]) -> None:
        settings, sync_id, window = self._settings, self._summary.id, self._task.window
        assert sync_id is not None  # noqa: S101 - this is no dry run
        executor, workers = await asyncio.to_thread(open_executor, settings.engine, settings.file)
        stack.callback(executor.shutdown, wait=False, cancel_futures=True)
        clients = await self._open_clients(stack, warehouse)
        streams = await self._find_streams(warehouse, clients, workflows, self._outcomes.ended)
        self._outcomes.streams = streams
        sharing = Sharing(warehouse, sync_id)
        terms = msgspec.json.encode({"version": __version__, **settings.agreed()}).decode()
        await sharing.ask(lambda shared: shared.add(terms))
        await sharing.ask(lambda shared: shared.add_requests(self._summary.requests, self._summary.retries))
        await self._queue_worker(warehouse, self._runner(warehouse, clients)).fill(streams)
        self._listener(SyncStarted(self._task.mode, tuple(streams), sync_id))
        await stack.enter_async_context(receiving(settings, sync_id, self._listener))
        if not await self._may_split(warehouse):
            workers = min(workers, len({stream.workflow_id for stream in streams}))
        futures = [executor.submit(run_worker, sync_id, self._task.mode, *window) for _ in range(workers)]
        try:
            await sharing.until_stopped(_wait_for(futures, sharing))
        except BaseException as error:
            await finish_commit(self._stop_workers(futures, sharing, error))
            raise
        finally:
            await finish_commit(self._collect(sharing))
        if not window.is_bounded:
            await self._outcomes.compare_again(warehouse, self._listener)

    async def _may_split(self, warehouse: Warehouse) -> bool:
        """Return whether streams may be read in windows, so that more workers than workflows are useful."""
        if not self._settings.engine.split_pages or self._task.window.is_bounded:
            return False
        return self._task.mode != "sync" or await warehouse.ask(Session.has_unread_history)

    async def _stop_workers(self, futures: Sequence[Future[None]], sharing: Sharing, error: BaseException) -> None:
        """Ask the workers to stop, and wait for their running commits."""
        is_interrupted = isinstance(error, asyncio.CancelledError)
        reason = InterruptedSyncError() if is_interrupted else known_error(cast("Exception", error))
        await sharing.ask(lambda shared: shared.stop(reason))
        pending = [asyncio.wrap_future(future) for future in futures if not future.done()]
        if pending:
            await asyncio.wait(pending, timeout=STOP_TIMEOUT_S)

    async def _collect(self, sharing: Sharing) -> None:
        """Read the outcomes and request counts of the workers, and delete the shared state."""
        self._outcomes.ended |= {each.stream: each for each in await sharing.outcomes()}
        self._summary.requests, self._summary.retries = await sharing.ask(SharedSync.requests)
        await sharing.ask(SharedSync.remove)


async def _wait_for(futures: Sequence[Future[None]], sharing: Sharing) -> None:
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
    notes = await sharing.ask(SharedSync.read)
    if notes.error is not None:
        raise notes.error
    if await sharing.ask(SharedSync.is_unfinished):
        reason = f": {failures[0]}" if failures else ""
        raise EtlError(f"no worker is left{reason}", hint="See the logs of the workers, then run it again.")


def _failure_of(shift: asyncio.Future[None]) -> BaseException | None:
    return EtlError("the engine has given it up") if shift.cancelled() else shift.exception()
