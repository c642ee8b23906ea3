"""One invocation: open the warehouse, find the streams, run them, and record the result."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from time import monotonic
from typing import TYPE_CHECKING

from etl.app.clients import open_clients
from etl.app.discovery import chosen_apps, discover, only, record_discovery
from etl.app.maintenance import compute_own_credits, remove_due_payloads, roll_up_all
from etl.app.outcomes import Outcomes
from etl.app.queue_worker import QueueWorker, read_only, workflows_at_once
from etl.app.stream_runner import StreamRunner
from etl.app.summary import SyncSummary
from etl.app.warehouse import open_unchanged, open_warehouse
from etl.db.health import record_app_errors
from etl.db.liveness import finish_commit
from etl.db.queue import Queue
from etl.db.refusals import DRIVER_ERRORS, LOST, unusable
from etl.errors import DISK_FULL, EtlError, InterruptedSyncError, SettingsError, explain
from etl.events import StreamId, SyncFinished, SyncStarted, tee
from etl.normalize.redaction import redactor_of
from etl.plan.window import Window
from etl.sync import Outcome, Task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from datetime import datetime

    from etl.api.client import CortexClient
    from etl.api.retry import RetryPolicy
    from etl.app.discovery import Discovery
    from etl.app.warehouse import Warehouse
    from etl.config import AppSettings, Settings
    from etl.events import Listener
    from etl.sync.stream import Mode

RECORD_TIMEOUT_S = 2.0
"""Time limit for recording the end of an invocation in `etl_syncs`, in seconds."""

_UNFINISHED = EtlError(
    "the process that read it lost the database or ended", hint="Run it again; it continues where it stopped."
)
"""For streams without an outcome although nothing else has failed: their invocation must not count as succeeded."""


class SyncInvocation:
    """One invocation of sync, backfill or reconcile, in one process.

    `run` opens the warehouse, then begins the invocation, runs its streams and ends it; subclasses replace these three
    steps to share the work with other processes.

    Args:
        task: the mode and the window.
        apps: ids of the apps to sync; empty for all configured apps.
        workflows: ids of the workflows to sync; empty for all.
        dry_run: whether to fetch and normalize only, without writing.
        policy: the retry policy; None for the default.
    """

    _stack: AsyncExitStack
    _warehouse: Warehouse

    def __init__(
        self,
        settings: Settings,
        task: Task,
        listener: Listener,
        *,
        apps: Sequence[str] = (),
        workflows: Sequence[str] = (),
        dry_run: bool = False,
        policy: RetryPolicy | None = None,
    ) -> None:
        self._settings = settings
        self._task = task
        self._selected_apps = apps
        self._selected_workflows = workflows
        self._dry_run = dry_run
        self._policy = policy
        self._summary = SyncSummary(task.mode, dry_run=dry_run)
        self._listener = tee(self._summary.listen, listener)
        self._outcomes = Outcomes()
        self._apps: list[AppSettings] = []  # apps whose streams are not known yet

    async def run(self) -> SyncSummary:
        """Run the invocation; see `run_sync`."""
        started = monotonic()
        await self._caught(self._run())
        self._summary.seconds = round(monotonic() - started, 3)
        if not isinstance(self._summary.cause, SettingsError):  # after such an error, nothing was started
            self._listener(SyncFinished(self._summary.as_dict()))
        return self._summary

    async def _caught(self, work: Awaitable[None]) -> None:
        """Await `work`, and record an error in the summary."""
        try:
            await work
        except asyncio.CancelledError:
            self._summary.end_with(InterruptedSyncError())
        except Exception as error:  # noqa: BLE001 - the summary reports all errors
            self._summary.end_with(known_error(error))

    async def _run(self) -> None:
        self._apps = chosen_apps(self._settings, self._selected_apps)
        for app in self._apps:
            self._settings.require_key(app)  # before anything is opened
        opening = open_unchanged if self._dry_run else open_warehouse
        async with AsyncExitStack() as self._stack:
            self._warehouse = await self._stack.enter_async_context(opening(self._settings, self._listener))
            await self._begin()
            await self._caught(self._run_streams())
            await self._end()

    async def _begin(self) -> None:
        """Insert the invocation's row in `etl_syncs`."""
        if not self._dry_run:
            self._summary.begin(await self._warehouse.session.start_sync(self._task.mode))

    async def _run_streams(self) -> None:
        """Find the requested streams and sync them."""
        clients = await self._open_clients()
        streams = await self._find_streams(clients)
        self._outcomes.streams = streams
        self._listener(SyncStarted(self._task.mode, tuple(streams), self._summary.id, self._dry_run))
        if self._dry_run:
            parts = (self._settings, self._task, self._warehouse, clients, self._listener, self._outcomes.ended)
            runner, width = StreamRunner(*parts, sync_id=None), workflows_at_once(self._settings)
            await read_only(runner, self._warehouse, streams, width=width)
            return
        await self._queue(streams)
        await self._queue_worker(clients).work()
        await self._compare_again()

    async def _end(self) -> None:
        """Complete the summary, and record it in the invocation's row."""
        self._conclude()
        if not self._dry_run:
            if self._summary.cause is None:
                await self._caught(self._maintain())
            await finish_commit(asyncio.wait_for(self._record_end(), RECORD_TIMEOUT_S))

    async def _open_clients(self) -> dict[str, CortexClient]:
        leases = self._warehouse.leases
        return await open_clients(self._stack, self._settings, self._apps, leases, self._listener, self._policy)

    async def _find_streams(self, clients: dict[str, CortexClient]) -> list[StreamId]:
        """Find the requested streams; an app whose workflows cannot be listed completely gets an outcome `APP/*`."""
        workflows = self._selected_workflows
        found = await self._warehouse.ask(lambda _: self._discover(clients))
        self._apps = []
        streams = only(found.streams, workflows, all_listed=not found.problems)
        has_all_selected = bool(workflows) and {stream.workflow_id for stream in streams} == set(workflows)
        for app_id, problem in found.problems.items():
            whole_app, status = StreamId(app_id, "*"), "partial" if problem.is_partial else "failed"
            if not (problem.is_partial and has_all_selected):
                outcome = Outcome(whole_app, status, error=problem.error, hint=problem.hint)
                self._outcomes.ended[whole_app] = outcome
        return streams

    async def _discover(self, clients: dict[str, CortexClient]) -> Discovery:
        """Find the streams of the apps, and record what the settings request."""
        pool = None if self._dry_run else self._warehouse.pool
        redactor, size = redactor_of(self._settings.payloads), self._settings.api.usual_page_size
        found = await discover(self._apps, clients, pool, self._listener, size=size, redactor=redactor)
        if pool is not None:
            await record_discovery(pool, self._settings, self._apps, found)
        return found

    async def _queue(self, streams: Sequence[StreamId]) -> None:
        """Queue the streams for the workers of the invocation."""
        await Queue(self._warehouse.ask, self._sync_id, "").fill(streams)

    def _queue_worker(self, clients: dict[str, CortexClient], *, is_shared: bool = False) -> QueueWorker:
        return QueueWorker(
            self._settings,
            self._task,
            self._warehouse,
            clients,
            self._listener,
            self._outcomes.ended,
            summary=self._summary,
            is_shared=is_shared,
        )

    @property
    def _sync_id(self) -> int:
        assert self._summary.id is not None  # noqa: S101 - only a dry run has none
        return self._summary.id

    async def _compare_again(self) -> None:
        if not self._task.window.is_bounded:
            await self._outcomes.compare_again(self._warehouse, self._listener)

    def _conclude(self) -> None:
        """Complete the summary with the outcomes of the streams."""
        cause = self._summary.cause
        self._outcomes.end_with(cause or _UNFINISHED)
        for outcome in self._outcomes.ended.values():
            self._summary.add(outcome)
        if cause is None:
            self._summary.conclude()

    async def _maintain(self) -> None:
        """Remove expired payloads, compute remaining own credits, and roll up changed days."""
        if self._settings.payloads.retention == "honour" and self._summary.status != "skipped":
            await remove_due_payloads(self._warehouse)
        await compute_own_credits(self._warehouse, self._listener)
        await roll_up_all(self._warehouse, self._listener)

    async def _record_end(self) -> None:
        """Complete the invocation's row, and record the streams and apps that failed because the invocation ended."""
        values, cause = self._summary.row_values(), self._summary.cause
        self._summary.ended_at = await self._warehouse.ask(lambda session: session.finish_sync(*values))
        if cause is not None and not isinstance(cause, (InterruptedSyncError, SettingsError)):
            await self._outcomes.record_failures(self._warehouse)
            errors = [(app.id, cause.message, cause.hint) for app in self._apps]
            await record_app_errors(self._warehouse.pool, errors)


def task_of(settings: Settings, mode: Mode, since: datetime | None, until: datetime | None) -> Task:
    """Return what an invocation does with each stream; `since` and `until` are its window of creation times."""
    sync = settings.sync
    return Task(mode, lookback=sync.lookback, reconcile_every=sync.reconcile_every, window=Window(since, until))


def known_error(error: Exception) -> EtlError:
    """Convert an exception to an EtlError with a hint. An OSError without a file name means a lost connection."""
    is_file_error = isinstance(error, OSError) and (error.filename is not None or error.errno in DISK_FULL)
    if isinstance(error, (*DRIVER_ERRORS, *LOST, TimeoutError)) and not is_file_error:
        return unusable(error)
    return explain(error)
