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
from etl.app.queue_worker import QueueWorker, read_only
from etl.app.stream_runner import StreamRunner
from etl.app.summary import SyncSummary
from etl.app.warehouse import open_unchanged, open_warehouse
from etl.db.health import record_app_errors
from etl.db.liveness import finish_commit
from etl.db.refusals import DRIVER_ERRORS, LOST, unusable
from etl.errors import DISK_FULL, EtlError, InterruptedSyncError, SettingsError, explain
from etl.events import RequestSent, StreamId, SyncFinished, SyncStarted, tee
from etl.limits import STREAMS_AT_ONCE
from etl.normalize.redaction import redactor_of
from etl.sync import Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from etl.api.client import CortexClient
    from etl.api.retry import RetryPolicy
    from etl.app.warehouse import Warehouse
    from etl.config import AppSettings, Settings
    from etl.events import Event, Listener
    from etl.sync import Task

LEDGER_TIMEOUT_S = 2.0
"""Time limit for recording the end of an invocation in `etl_syncs`, in seconds."""


_UNFINISHED = EtlError(
    "the process that read it lost the database or ended", hint="Run it again; it continues where it stopped."
)
"""For streams without an outcome although nothing else has failed: their invocation must not count as succeeded."""


class SyncInvocation:
    """One invocation of sync, backfill or reconcile."""

    def __init__(
        self, settings: Settings, task: Task, listener: Listener, *, dry_run: bool = False, policy: RetryPolicy | None
    ) -> None:
        self._settings = settings
        self._task = task
        self._dry_run = dry_run
        self._policy = policy
        self._listener = tee(self._count, listener)
        self._summary = SyncSummary(task.mode, dry_run=dry_run)
        self._outcomes = Outcomes()
        self._apps: list[AppSettings] = []  # apps whose streams are not known yet
        self._split_pages = 0  # a single process does not split streams

    def _count(self, event: Event) -> None:
        if isinstance(event, RequestSent):
            self._summary.requests += 1
            self._summary.retries += event.is_retry

    async def run(self, apps: Sequence[str], workflows: Sequence[str]) -> SyncSummary:
        """Run the invocation; see `run_sync`."""
        started = monotonic()
        await self._caught(self._run(apps, workflows))
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

    def _choose(self, apps: Sequence[str]) -> None:
        self._apps = chosen_apps(self._settings, apps)
        for app in self._apps:
            self._settings.require_key(app)  # before anything is opened

    async def _run(self, apps: Sequence[str], workflows: Sequence[str]) -> None:
        self._choose(apps)
        async with AsyncExitStack() as stack:
            opening = open_unchanged if self._dry_run else open_warehouse
            warehouse = await stack.enter_async_context(opening(self._settings, self._listener, width=STREAMS_AT_ONCE))
            if not self._dry_run:
                self._summary.begin(await warehouse.session.start_sync(self._task.mode))
            await self._caught(self._run_streams(stack, warehouse, workflows))
            self._conclude()
            if not self._dry_run:
                if self._summary.cause is None:
                    await self._caught(self._keep_in_order(warehouse))
                await finish_commit(asyncio.wait_for(self._record_end(warehouse), LEDGER_TIMEOUT_S))

    async def _run_streams(self, stack: AsyncExitStack, warehouse: Warehouse, workflows: Sequence[str]) -> None:
        clients = await self._open_clients(stack, warehouse)
        outcomes = self._outcomes
        outcomes.streams = streams = await self._find_streams(warehouse, clients, workflows, outcomes.ended)
        self._listener(SyncStarted(self._task.mode, tuple(streams), self._summary.id, self._dry_run))
        runner = self._runner(warehouse, clients)
        if self._dry_run:
            await read_only(warehouse, runner, streams, width=self._width)
            return
        queue_worker = self._queue_worker(warehouse, runner)
        await queue_worker.fill(streams)
        await queue_worker.work()
        if not self._task.window.is_bounded:
            await outcomes.compare_again(warehouse, self._listener)

    async def _open_clients(self, stack: AsyncExitStack, warehouse: Warehouse) -> dict[str, CortexClient]:
        return await open_clients(stack, self._settings, self._apps, warehouse.leases, self._listener, self._policy)

    @property
    def _width(self) -> int:
        return min(STREAMS_AT_ONCE, self._settings.api.concurrency)

    def _runner(self, warehouse: Warehouse, clients: dict[str, CortexClient]) -> StreamRunner:
        ended, sync_id = self._outcomes.ended, self._summary.id
        return StreamRunner(self._settings, self._task, warehouse, clients, self._listener, ended, sync_id=sync_id)

    def _queue_worker(self, warehouse: Warehouse, runner: StreamRunner) -> QueueWorker:
        assert self._summary.id is not None  # noqa: S101 - only a dry run has none
        return QueueWorker(
            warehouse,
            runner,
            self._summary.id,
            self._listener,
            width=self._width,
            sent=lambda: (self._summary.requests, self._summary.retries),
            split_pages=self._split_pages,
        )

    def _conclude(self) -> None:
        """Complete the summary with the outcomes of the streams."""
        cause = self._summary.cause
        self._outcomes.end_with(cause or _UNFINISHED)
        for outcome in self._outcomes.ended.values():
            self._summary.add(outcome)
        if cause is None:
            self._summary.conclude()

    async def _keep_in_order(self, warehouse: Warehouse) -> None:
        """Remove expired payloads, compute remaining own credits, and roll up changed days."""
        if self._settings.payloads.retention == "honour" and self._summary.status != "skipped":
            await remove_due_payloads(warehouse)
        await compute_own_credits(warehouse, self._listener)
        await roll_up_all(warehouse, self._listener)

    async def _find_streams(
        self,
        warehouse: Warehouse,
        clients: dict[str, CortexClient],
        workflows: Sequence[str],
        outcomes: dict[StreamId, Outcome],
    ) -> list[StreamId]:
        """Find the requested streams; an app whose workflows cannot be listed completely gets an outcome `APP/*`."""
        pool = None if self._dry_run else warehouse.pool
        redactor, size = redactor_of(self._settings.payloads), self._settings.api.usual_page_size
        found = await discover(self._apps, clients, pool, self._listener, size=size, redactor=redactor)
        if pool is not None:
            await record_discovery(pool, self._settings, self._apps, found)
        self._apps = []
        streams = only(found.streams, workflows, all_listed=not found.problems)
        has_all_selected = bool(workflows) and {stream.workflow_id for stream in streams} == set(workflows)
        for app_id, problem in found.problems.items():
            whole_app, status = StreamId(app_id, "*"), "partial" if problem.is_partial else "failed"
            if not (problem.is_partial and has_all_selected):
                outcomes[whole_app] = Outcome(whole_app, status, error=problem.error, hint=problem.hint)
        return streams

    async def _record_end(self, warehouse: Warehouse) -> None:
        """Record the end of the invocation, over a new connection if the old one was lost."""
        try:
            await self._write_end(warehouse)
        except LOST:
            await warehouse.reconnect(warehouse.session)
            await self._write_end(warehouse)

    async def _write_end(self, warehouse: Warehouse) -> None:
        """Complete the invocation's row, and record the streams and apps that failed because the invocation ended."""
        self._summary.ended_at = await warehouse.session.finish_sync(*self._summary.ledger_values())
        cause = self._summary.cause
        if cause is not None and not isinstance(cause, (InterruptedSyncError, SettingsError)):
            await self._outcomes.record_failures(warehouse)
            await record_app_errors(warehouse.pool, [(app.id, cause.message, cause.hint) for app in self._apps])


def known_error(error: Exception) -> EtlError:
    """Convert an exception to an EtlError with a hint. An OSError without a file name means a lost connection."""
    is_file_error = isinstance(error, OSError) and (error.filename is not None or error.errno in DISK_FULL)
    if isinstance(error, (*DRIVER_ERRORS, *LOST, TimeoutError)) and not is_file_error:
        return unusable(error)
    return explain(error)
