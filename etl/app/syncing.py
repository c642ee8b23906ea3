"""sync, backfill and reconcile: open the warehouse, find the streams, run them, and record the result."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from etl.app.clients import open_clients
from etl.app.discovery import chosen_apps, discover, only, record_discovery
from etl.app.joining import Sharing, refuse_other_terms, summary_of, terms_of
from etl.app.outcomes import Outcomes
from etl.app.shift import STREAMS_AT_ONCE, Shift, read_only
from etl.app.stream_runner import StreamRunner
from etl.app.summary import SyncSummary
from etl.app.upkeep import compute_own_credits, remove_due_payloads, roll_up_all
from etl.app.warehouse import open_unchanged, open_warehouse
from etl.db.health import record_app_errors
from etl.db.liveness import finish_commit
from etl.db.refusals import DRIVER_ERRORS, LOST, unusable
from etl.db.sharing import SharedSync
from etl.errors import DISK_FULL, DatabaseError, EtlError, InterruptedSyncError, SettingsError, explain
from etl.events import RequestRetried, RequestSent, StreamId, SyncFinished, SyncStarted, ignore, tee
from etl.normalize.redaction import redactor_of
from etl.plan.window import Window
from etl.sync import Outcome, Task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from datetime import datetime

    from etl.api.client import CortexClient
    from etl.api.retry import RetryPolicy
    from etl.app.warehouse import Warehouse
    from etl.config import AppSettings, Settings
    from etl.events import Event, Listener
    from etl.sync.stream import Mode

LEDGER_PATIENCE_S = 2.0
"""How long the end of an invocation waits for its row of `etl_syncs`."""


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
        settings: all of them.
        mode: which of the three.
        apps: only these of the configured apps.
        workflows: only these of their workflows.
        since: backfill runs created at or after.
        until: backfill runs created before.
        dry_run: fetch and normalize, write nothing.
        join: name of an invocation whose copies, on any hosts, share the work; None for one of this process alone.
        listener: receives every event.
        policy: how requests are retried; None for the default.

    Returns:
        The summary, whatever happened: an error that ended the invocation and an interruption (a cancelled task) are
        in it as `cause`.
    """
    sync = settings.sync
    task = Task(mode, lookback=sync.lookback, reconcile_every=sync.reconcile_every, window=Window(since, until))
    if join is not None:
        return await _Copy(settings, task, listener, name=join, policy=policy).run(apps, workflows)
    return await _Invocation(settings, task, listener, dry_run=dry_run, policy=policy).run(apps, workflows)


class _Invocation:
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
        self._apps: list[AppSettings] = []  # whose streams are not known yet

    def _count(self, event: Event) -> None:
        if isinstance(event, RequestSent):
            self._summary.requests += 1
        elif isinstance(event, RequestRetried):
            self._summary.retries += 1

    async def run(self, apps: Sequence[str], workflows: Sequence[str]) -> SyncSummary:
        """Run it; see `run_sync`."""
        started = monotonic()
        await self._caught(self._run(apps, workflows))
        self._summary.seconds = round(monotonic() - started, 3)
        if not isinstance(self._summary.cause, SettingsError):  # with these nothing began
            self._listener(SyncFinished(self._summary.as_dict()))
        return self._summary

    async def _caught(self, work: Awaitable[None]) -> None:
        """Await some work and record the error that ends it."""
        try:
            await work
        except asyncio.CancelledError:
            self._summary.end_with(InterruptedSyncError())
        except Exception as error:  # noqa: BLE001 - whatever it is, the summary has it
            self._summary.end_with(_known(error))

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
                await finish_commit(asyncio.wait_for(self._record_end(warehouse), LEDGER_PATIENCE_S))

    async def _run_streams(self, stack: AsyncExitStack, warehouse: Warehouse, workflows: Sequence[str]) -> None:
        clients = await self._open_clients(stack, warehouse)
        outcomes = self._outcomes
        outcomes.streams = streams = await self._find_streams(warehouse, clients, workflows, outcomes.ended)
        self._listener(SyncStarted(self._task.mode, tuple(streams), self._summary.id, self._dry_run))
        runner = self._runner(warehouse, clients)
        if self._dry_run:
            await read_only(warehouse, runner, streams, width=self._width)
            return
        shift = self._shift(warehouse, runner)
        await shift.fill(streams)
        await shift.work()
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

    def _shift(self, warehouse: Warehouse, runner: StreamRunner) -> Shift:
        assert self._summary.id is not None  # noqa: S101 - only a dry run has none
        return Shift(
            warehouse,
            runner,
            self._summary.id,
            self._listener,
            width=self._width,
            sent=lambda: (self._summary.requests, self._summary.retries),
        )

    def _conclude(self) -> None:
        """Complete the summary with the streams."""
        cause = self._summary.cause
        if cause is not None:
            self._outcomes.end_with(cause)
        for outcome in self._outcomes.ended.values():
            self._summary.add(outcome)
        if cause is None:
            self._summary.conclude()

    async def _keep_in_order(self, warehouse: Warehouse) -> None:
        """Remove due payloads, compute own credits that loads left, and roll up the days that changed."""
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
        """Find the streams asked for; an app whose workflows cannot be listed gets an outcome of its own, `APP/*`."""
        pool = None if self._dry_run else warehouse.pool
        redactor, size = redactor_of(self._settings.payloads), self._settings.api.page_size
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
        """Write what became of the invocation, over a new connection where the old one was lost unnoticed."""
        try:
            await self._write_end(warehouse)
        except LOST:
            await warehouse.reconnect(warehouse.session)
            await self._write_end(warehouse)

    async def _write_end(self, warehouse: Warehouse) -> None:
        """Complete its row, and record the streams and apps that failed because the invocation ended."""
        self._summary.ended_at = await warehouse.session.finish_sync(*self._summary.ledger_values())
        cause = self._summary.cause
        if cause is not None and not isinstance(cause, (InterruptedSyncError, SettingsError)):
            await self._outcomes.record_failures(warehouse)
            await record_app_errors(warehouse.pool, [(app.id, cause.message, cause.hint) for app in self._apps])


class _Copy(_Invocation):
    """One of several copies of a command that are one invocation."""

    def __init__(
        self, settings: Settings, task: Task, listener: Listener, *, name: str, policy: RetryPolicy | None
    ) -> None:
        super().__init__(settings, task, listener, policy=policy)
        self._name = name

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
        """Find the workflows, if no other copy has, and work until all have ended."""
        clients = await self._open_clients(stack, warehouse)
        async with sharing.lead() as notes:
            if not notes.is_queued:
                found: dict[StreamId, Outcome] = {}
                streams = await self._find_streams(warehouse, clients, workflows, found)
                ended = [(each.stream.app_id, msgspec.json.encode([each])) for each in found.values()]
                await sharing.ask(lambda shared: shared.queue_ended(ended))
                sent = (self._summary.requests, self._summary.retries)
                await sharing.ask(lambda shared: shared.add_requests(*sent))
                await self._shift(warehouse, self._runner(warehouse, clients)).fill(streams)
        self._apps = []
        streams = await sharing.ask(SharedSync.streams)
        self._listener(SyncStarted(self._task.mode, tuple(streams), self._summary.id))
        shift = self._shift(warehouse, self._runner(warehouse, clients))
        await warehouse.session.work_as(shift.worker)
        try:
            await sharing.until_stopped(shift.work())
        except asyncio.CancelledError:
            adding = sharing.ask(lambda shared: shared.add_requests(*shift.unreported()))
            await finish_commit(asyncio.wait_for(adding, LEDGER_PATIENCE_S))
            raise

    async def _end(self, warehouse: Warehouse, sharing: Sharing) -> None:
        """Record the end of the whole, or take it from the copy that has."""
        cause = self._summary.cause
        if isinstance(cause, (InterruptedSyncError, DatabaseError)):  # of this copy alone: the others go on
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


def _known(error: Exception) -> EtlError:
    """Return an error as one with a hint; what has no file name and comes from the system is a lost connection."""
    is_file_error = isinstance(error, OSError) and (error.filename is not None or error.errno in DISK_FULL)
    if isinstance(error, (*DRIVER_ERRORS, *LOST, TimeoutError)) and not is_file_error:
        return unusable(error)
    return explain(error)
