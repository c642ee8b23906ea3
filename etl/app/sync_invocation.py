"""One invocation of sync, backfill or reconcile: open the warehouse, find the streams, run them, record the result.

The streams are run by this process, together with other processes that join the invocation, or by the workers of an
engine.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import msgspec

from etl.app.clients import open_clients
from etl.app.discovery import chosen_apps, discover, only, record_discovery
from etl.app.engine_worker import receiving, run_worker
from etl.app.queue_worker import QueueWorker, read_only, workflows_at_once
from etl.app.shared_state import POLL_S, SharedState, refuse_other_terms, terms_of
from etl.app.stream_runner import StreamRunner, task_of
from etl.app.summary import Outcomes, SyncSummary
from etl.app.warehouse import compute_own_credits, open_unchanged, open_warehouse, remove_due_payloads, roll_up_all
from etl.db.health import record_app_errors
from etl.db.liveness import finish_commit
from etl.db.queue import Queue
from etl.db.refusals import LOST, known_error
from etl.db.session import Session
from etl.errors import DatabaseError, EtlError, InterruptedSyncError, SettingsError
from etl.events import StreamId, SyncFinished, SyncStarted, ignore, tee
from etl.normalize.redaction import redactor_of
from etl.sync import Outcome, Task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from concurrent.futures import Executor, Future
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

STOP_TIMEOUT_S = 5.0
"""How long to wait for workers to finish running commits, in seconds."""

_UNFINISHED = EtlError(
    "the process reading it ended or lost its connection to PostgreSQL",
    hint="Run it again; it continues where it stopped.",
)
"""For streams without an outcome although nothing else has failed: their invocation must not count as succeeded."""


async def run_sync(  # noqa: PLR0913 - the options of the commands
    settings: Settings,
    mode: Mode,
    *,
    apps: Sequence[str] = (),
    workflows: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    dry_run: bool = False,
    join: str | None = None,
    listener: Listener = ignore,
    policy: RetryPolicy | None = None,
) -> SyncSummary:
    """Sync, backfill or reconcile.

    Args:
        mode: `sync`, `backfill` or `reconcile`.
        apps: ids of the apps to sync; empty for all configured apps.
        workflows: ids of the workflows to sync; empty for all.
        since: with `backfill`, load runs created at or after this time.
        until: with `backfill`, load runs created before this time.
        dry_run: whether to fetch and normalize only, without writing.
        join: name of the invocation to join, or to start if it is not running; None for an invocation of this process.
        policy: the retry policy; None for the default.

    Returns:
        The summary. It is returned in all cases: `cause` is the error that ended the invocation, or an interruption if
        the task was cancelled.
    """
    task = task_of(settings, mode, since, until)
    options: dict[str, Any] = {"apps": apps, "workflows": workflows, "policy": policy}
    if join is not None:
        return await JoinedInvocation(settings, task, listener, name=join, **options).run()
    if settings.engine.kind != "local" and not dry_run:
        return await EngineInvocation(settings, task, listener, **options).run()
    return await SyncInvocation(settings, task, listener, dry_run=dry_run, **options).run()


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


class JoinedInvocation(SyncInvocation):
    """An invocation in one of the copies that share it. If a copy ends early, the others take over its streams.

    Args:
        task: the mode and the window.
        name: name of the invocation to join, or to start if it is not running.
        options: see `SyncInvocation`.
    """

    _shared: SharedState

    def __init__(self, settings: Settings, task: Task, listener: Listener, *, name: str, **options: Any) -> None:
        super().__init__(settings, task, listener, **options)
        self._name = name

    async def _begin(self) -> None:
        """Join the running invocation, or start one.

        Raises:
            SettingsError: the running invocation has other terms.
        """
        task, apps, workflows = self._task, sorted(self._selected_apps), sorted(self._selected_workflows)
        window = {"--since": str(task.window.since), "--until": str(task.window.until)}
        options = {"mode": task.mode, "--app": str(apps), "--workflow": str(workflows)} | window
        ours = terms_of(self._settings, options)
        row, theirs = await self._warehouse.session.join_sync(self._name, task.mode, ours)
        refuse_other_terms(ours, theirs, f"the running invocation {self._name}")
        self._summary.begin(row)
        self._shared = SharedState(self._warehouse, self._sync_id)

    async def _run_streams(self) -> None:
        """Queue the workflows if no other copy has, and work until all are finished."""
        clients = await self._open_clients()
        async with self._shared.lead() as state:
            if not state.is_queued:
                streams = await self._find_streams(clients)
                await self._shared.queue_ended(self._outcomes.ended.values())
                await self._shared.add_requests(self._summary.requests, self._summary.retries)
                await self._queue(streams)
        self._apps = []
        self._listener(SyncStarted(self._task.mode, tuple(await self._shared.streams()), self._sync_id))
        worker = self._queue_worker(clients, is_shared=True)
        try:
            await worker.work_until_stopped(self._shared)
        except asyncio.CancelledError:  # ends only this copy
            with suppress(DatabaseError, *LOST):
                recording = self._shared.add_requests(*worker.unrecorded_requests())
                await asyncio.wait_for(recording, RECORD_TIMEOUT_S)
            raise

    async def _end(self) -> None:
        """Record the end of the invocation, or read the summary if another copy has recorded it."""
        cause = self._summary.cause
        if isinstance(cause, (InterruptedSyncError, DatabaseError)):  # ends only this copy
            self._conclude()
            return
        if cause is not None:
            await self._shared.stop(cause)
        async with self._shared.lead() as state:
            if state.summary is not None:
                self._summary = SyncSummary.from_json(state.summary)
                self._summary.cause = state.error
                return
            self._outcomes = Outcomes(await self._shared.streams(), await self._shared.outcomes())
            if cause is None:
                await self._caught(self._compare_again())
            self._summary.requests, self._summary.retries = await self._shared.requests()
            await super()._end()
            await self._shared.end(msgspec.json.encode(self._summary.as_dict()))


class EngineInvocation(SyncInvocation):
    """An invocation whose streams run on the workers of an engine. This process only finds and queues them."""

    async def _run_streams(self) -> None:
        """Queue the requested streams, start the workers and wait until they have ended."""
        from etl.engine.executors import open_executor  # noqa: PLC0415 - for start-up time: it loads `multiprocessing`

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
    return EtlError("the engine cancelled the worker") if ended.cancelled() else ended.exception()


async def _stop_workers(futures: Sequence[Future[None]], shared: SharedState, error: BaseException) -> None:
    """Ask the workers to stop, and wait for their running commits."""
    is_interrupted = isinstance(error, asyncio.CancelledError)
    await shared.stop(InterruptedSyncError() if is_interrupted else known_error(cast("Exception", error)))
    pending = [asyncio.wrap_future(future) for future in futures if not future.done()]
    if pending:
        await asyncio.wait(pending, timeout=STOP_TIMEOUT_S)
