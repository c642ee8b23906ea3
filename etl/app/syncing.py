"""sync, backfill and reconcile: the parts put together, and the ledger that tells how it ended."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

import asyncpg

from etl.app.clients import open_clients
from etl.app.discovery import NOT_DISCOVERED, chosen_apps, find_streams, only
from etl.app.summary import EXIT_INTERRUPTED, EXIT_STREAMS_FAILED, SyncSummary
from etl.app.warehouse import open_warehouse
from etl.db.load import REFUSALS
from etl.db.refusals import DRIVER_ERRORS, LOST, unusable
from etl.db.retention import empty_due_rejects
from etl.db.rollups import roll_up, roll_up_workflow
from etl.db.store import Store
from etl.engine.local import LocalEngine
from etl.errors import DatabaseError, EtlError, KeyRefusedError
from etl.events import (
    Notice,
    RequestRetried,
    RequestSent,
    StreamFinished,
    StreamId,
    SyncFinished,
    SyncStarted,
    ignore,
    tee,
)
from etl.normalize import Normalizer, quarantine_redactor_of, redactor_of
from etl.sync import Outcome, StreamSync, Task
from etl.sync.intake import Intake, Tally, finish_in_hand
from etl.sync.listing import Listing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from etl.api.client import CortexClient
    from etl.api.retry import RetryPolicy
    from etl.app.warehouse import Warehouse
    from etl.config import AppSettings, Settings
    from etl.db.session import Session, StreamState
    from etl.events import Event, Listener
    from etl.sync.stream import Mode

STREAMS_AT_ONCE = 4
"""More gain nothing: the rate limit or PostgreSQL is busy with fewer, and each holds pages in memory."""

LOCK_PATIENCE_S = 1.0
"""How long a stream is tried for: PostgreSQL takes a moment to notice that the process which held it is dead."""

LEDGER_PATIENCE_S = 3.0
"""How long the end of an invocation waits for its row in the ledger."""

ROLL_UP_S = 10.0
"""How long changed days are counted at a time; what is left is for the next invocation."""

MANY_RUNS = 1000
"""Loaded into one stream, so many are worth counting at once: others are still loading, and leave PostgreSQL time."""

COUNTING_AT_ONCE = 2
"""Over how many connections days are counted; none is opened for it."""

RECONNECTS = 5
"""How often a stream begins anew after PostgreSQL went away."""


class Syncing:
    """One invocation of sync, backfill or reconcile."""

    def __init__(
        self, settings: Settings, task: Task, listener: Listener, *, dry_run: bool, policy: RetryPolicy | None = None
    ) -> None:
        self._settings = settings
        self._task = task
        self._dry_run = dry_run
        self._policy = policy
        self.summary = SyncSummary(task.mode, dry_run=dry_run)
        self._listener = tee(self._count, listener)
        self._redactor = redactor_of(settings.payloads)
        self._quarantine_redactor = quarantine_redactor_of(settings.payloads)
        self._clients: dict[str, CortexClient] = {}
        self._states: dict[StreamId, StreamState] = {}
        self._outcomes: dict[StreamId, Outcome] = {}
        self._tallies: dict[StreamId, Tally] = {}

    def _count(self, event: Event) -> None:
        if isinstance(event, RequestSent):
            self.summary.requests += 1
        elif isinstance(event, RequestRetried):
            self.summary.retries += 1

    async def run(self, apps: Sequence[str], workflows: Sequence[str]) -> SyncSummary:
        """Do it; see `run_sync`."""
        try:
            return await self._run(apps, workflows)
        except EtlError as error:
            self._failed(error)
            raise
        except (*DRIVER_ERRORS, TimeoutError) as error:  # of the ledger, whose row is made first and closed last
            raise self._failed(unusable(error)) from error

    async def _run(self, apps: Sequence[str], workflows: Sequence[str]) -> SyncSummary:
        started = monotonic()
        wanted = chosen_apps(self._settings, apps)
        for app in wanted:
            self._settings.require_key(app)  # before anything is opened
        async with AsyncExitStack() as stack:
            warehouse = await stack.enter_async_context(
                open_warehouse(self._settings, self._listener, width=STREAMS_AT_ONCE)
            )
            if not self._dry_run:
                self.summary.sync_id = await warehouse.session.start_sync(self._task.mode)
            try:
                self._clients = await open_clients(
                    stack, self._settings, wanted, warehouse.leases, self._listener, self._policy
                )
                await self._run_streams(warehouse, wanted, workflows)
                self.summary.conclude()
                await self._remove_due_payloads(warehouse)
                await self._roll_up(warehouse)
            except asyncio.CancelledError:
                self.summary.status, self.summary.exit_code = "interrupted", EXIT_INTERRUPTED
                self.summary.error = "interrupted; what was committed stays"
            except (*LOST, *DRIVER_ERRORS) as error:
                raise self._failed(unusable(error)) from error
            except BaseException as error:
                self._failed(error)
                raise
            finally:
                self.summary.seconds = round(monotonic() - started, 3)
                has_ended = self.summary.status in {"failed", "interrupted"}  # a ledger not closed changes that no more
                with suppress(*((*LOST, *DRIVER_ERRORS, DatabaseError, TimeoutError) if has_ended else ())):
                    await finish_in_hand(asyncio.wait_for(self._close_ledger(warehouse), LEDGER_PATIENCE_S))
        return self.summary

    def _failed(self, error: BaseException) -> BaseException:
        """Let the summary say with what the invocation ends, and the error what was done until then."""
        self.summary.status, self.summary.error = "failed", str(error) or type(error).__name__
        self.summary.exit_code = getattr(error, "exit_code", EXIT_STREAMS_FAILED)
        self.summary.hint = getattr(error, "hint", "")
        if isinstance(error, EtlError):
            error.summary = self.summary
        return error

    async def _run_streams(self, warehouse: Warehouse, apps: Sequence[AppSettings], workflows: Sequence[str]) -> None:
        streams: list[StreamId] = []
        for app in apps:
            try:
                pool = None if self._dry_run else warehouse.pool
                client, take = self._clients[app.id], self._settings.api.page_size
                found, trouble = await find_streams(
                    app, client, pool, self._listener, take=take, redactor=self._redactor
                )
                streams += found
                if trouble and not workflows:
                    stream, hint = StreamId(app.id, "*"), "Name the workflows that are missing under `workflows:`."
                    self._outcomes[stream] = Outcome(stream, "partial", error=trouble, hint=hint)
            except KeyRefusedError:
                raise
            except NOT_DISCOVERED as error:
                stream = StreamId(app.id, "*")
                self._outcomes[stream] = Outcome(stream, "failed", error=error.message, hint=error.hint)
        wanted = only(streams, workflows) if streams or not self._outcomes else []
        await self._lock(warehouse, wanted)
        self._listener(SyncStarted(self._task.mode, tuple(wanted), self.summary.sync_id, self._dry_run))
        # Apps may list the same runs: one after the other, so that no count is taken amid the other's reading.
        by_workflow: dict[str, list[StreamId]] = {}
        for stream in wanted:
            if stream in self._states:
                by_workflow.setdefault(stream.workflow_id, []).append(stream)

        async def run_in_turn(streams: Sequence[StreamId]) -> None:
            for stream in streams:
                await self._run_stream(warehouse, stream)

        try:
            width = min(STREAMS_AT_ONCE, self._settings.api.concurrency)
            await LocalEngine(width).run(list(by_workflow.values()), run_in_turn)
        finally:
            for outcome in self._outcomes.values():
                self.summary.add(outcome)

    async def _lock(self, warehouse: Warehouse, streams: Sequence[StreamId]) -> None:
        """Take the streams; those that a process held which has just been killed come free within a moment."""
        session, give_up = warehouse.session, monotonic() + LOCK_PATIENCE_S
        held = list(streams)
        while held:
            for stream in held:
                state = await (session.read(stream) if self._dry_run else session.lock(stream))
                if state is not None:
                    self._states[stream] = state
            held = [stream for stream in held if stream not in self._states]
            if not held or monotonic() > give_up:
                break
            await asyncio.sleep(LOCK_PATIENCE_S / 10)
        for stream in held:
            self._outcomes[stream] = Outcome(stream, "skipped", error="another invocation holds the stream")
            self._listener(StreamFinished(stream, "skipped", error="another invocation holds the stream"))

    async def _run_stream(self, warehouse: Warehouse, stream: StreamId) -> None:
        """Run one stream to its outcome; begins anew when PostgreSQL goes away and comes back."""
        for attempt in range(RECONNECTS + 1):
            session = warehouse.session
            try:
                self._outcomes[stream] = await self._attempt(warehouse, stream)
            except (KeyRefusedError, DatabaseError):
                raise
            except EtlError as error:
                await self._fail(warehouse, stream, error.message, error.hint)
            except (*LOST, asyncpg.TransactionRollbackError) as error:  # or the other side has won a deadlock
                self._listener(Notice("database.lost", {"stream": str(stream), "error": str(error)}, level="warning"))
                if attempt == RECONNECTS:
                    raise unusable(error) from error
                if await self._reopen(warehouse, session, stream, error):
                    continue
            except REFUSALS as error:
                await self._fail(warehouse, stream, f"PostgreSQL refused: {error}", "Look at PostgreSQL's log.")
            if not self._dry_run:
                with suppress(*LOST):
                    await warehouse.session.release(stream)
                await self._roll_up_early(warehouse, stream)
            return

    async def _reopen(self, warehouse: Warehouse, session: Session, stream: StreamId, error: BaseException) -> bool:
        """Take the stream again after PostgreSQL went away; whether it could be had."""
        if not isinstance(error, LOST):
            return True
        fresh = await warehouse.reconnect(session, self.summary.sync_id)
        state = await (fresh.read(stream) if self._dry_run else fresh.lock(stream))
        if state is None:
            self._outcomes[stream] = Outcome(stream, "skipped", error="another invocation took the stream over")
            return False
        self._states[stream] = state
        return True

    def _store(self, warehouse: Warehouse, stream: StreamId, state: StreamState) -> Store:
        api = self._settings.api
        return Store(
            warehouse.pool,
            warehouse.session,
            stream,
            state,
            sync_id=self.summary.sync_id,
            filters=(api.status, api.origin),
            apps=[app.id for app in self._settings.apps],
            keep_payloads=self._settings.payloads.retention == "keep",
            dry_run=self._dry_run,
        )

    async def _attempt(self, warehouse: Warehouse, stream: StreamId) -> Outcome:
        api, payloads, task = self._settings.api, self._settings.payloads, self._task
        store = self._store(warehouse, stream, self._states[stream])
        normalizer = Normalizer(*stream, store_payloads=payloads.store == "full", redact=self._redactor)
        redactor = self._quarantine_redactor
        intake = Intake(store, normalizer, self._listener, since=task.since, until=task.until, redactor=redactor)
        intake.tally = self._tallies.setdefault(stream, intake.tally)  # what was committed before PostgreSQL went away
        listing = Listing(
            self._clients[stream.app_id],
            stream,
            take=api.page_size,
            window=api.concurrency,
            status=api.status,
            origin=api.origin,
        )
        try:
            return await StreamSync(task, listing, intake, store, self._listener).run()
        finally:
            self._outcomes[stream] = Outcome(stream, "interrupted", tally=intake.tally)

    async def _remove_due_payloads(self, warehouse: Warehouse) -> None:
        """Where retention is honoured: of all streams, also of those that are read no more or were read in part."""
        if self._dry_run or self._settings.payloads.retention == "keep" or self.summary.status == "skipped":
            return
        session = warehouse.session
        for stream in await session.streams_with_due_payloads():
            state = await session.lock(stream)
            if state is not None:
                await self._store(warehouse, stream, state).remove_due_payloads()
                await session.release(stream)
        async with warehouse.pool.acquire() as connection:
            await empty_due_rejects(connection)

    async def _roll_up_early(self, warehouse: Warehouse, stream: StreamId) -> None:
        """Count the days of a stream into which much was loaded; what that misses is counted at the end."""
        tally = self._outcomes[stream].tally
        if tally.runs_inserted + tally.runs_updated < MANY_RUNS:
            return
        try:
            async with warehouse.pool.acquire() as connection:
                await roll_up_workflow(connection, stream.workflow_id, seconds=ROLL_UP_S)
        except (*LOST, asyncpg.PostgresError) as error:
            self._listener(Notice("days.left_uncounted", {"error": str(error)}, level="debug"))

    async def _roll_up(self, warehouse: Warehouse) -> None:
        """Make the daily views quick again; they are right without it, so that it fails nothing."""
        if self._dry_run:
            return
        try:
            async with AsyncExitStack() as stack:
                open_already = min(warehouse.pool.get_idle_size(), COUNTING_AT_ONCE) or 1
                connections = [await stack.enter_async_context(warehouse.pool.acquire()) for _ in range(open_already)]
                await roll_up(*connections, seconds=ROLL_UP_S)
        except (*LOST, asyncpg.PostgresError) as error:
            self._listener(Notice("days.left_uncounted", {"error": str(error)}, level="warning"))

    async def _fail(self, warehouse: Warehouse, stream: StreamId, error: str, hint: str) -> None:
        tally = self._outcomes[stream].tally
        self._outcomes[stream] = Outcome(stream, "failed", error=error, hint=hint, tally=tally)
        self._listener(StreamFinished(stream, "failed", error=error, hint=hint))
        if not self._dry_run:
            fence = self._states[stream].fence
            with suppress(*LOST):
                await warehouse.session.fail_stream(stream, fence, f"{error} {hint}".strip())

    async def _close_ledger(self, warehouse: Warehouse) -> None:
        summary = self.summary
        self._listener(SyncFinished(summary.as_dict()))
        if summary.sync_id is None:
            return
        failed = summary.count(("failed", "partial"))
        counts = (
            len(summary.streams),
            failed,
            summary.requests,
            summary.retries,
            summary.pages,
            summary.runs_seen,
            summary.runs_inserted,
            summary.runs_updated,
            summary.runs_unchanged,
            summary.runs_gone,
            summary.rejects,
        )
        ended: tuple[Any, ...] = (summary.sync_id, summary.status, *counts)
        try:
            await warehouse.session.finish_sync(*ended, error=summary.error or None)
        except LOST:  # unnoticed so far: the last stream had no use for the session
            with suppress(DatabaseError, *LOST):
                session = await warehouse.reconnect(warehouse.session, summary.sync_id)
                await session.finish_sync(*ended, error=summary.error or None)


async def run_sync(
    settings: Settings,
    mode: Mode,
    *,
    apps: Sequence[str] = (),
    workflows: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    dry_run: bool = False,
    listener: Listener = ignore,
    policy: RetryPolicy | None = None,
) -> SyncSummary:
    """Sync, backfill or reconcile.

    Args:
        settings: all of them.
        mode: which.
        apps: only these of the configured apps.
        workflows: only these of their workflows.
        since: backfill runs created at or after.
        until: backfill runs created before.
        dry_run: fetch and normalize, write nothing.
        listener: hears of everything.
        policy: how often and after which pauses a request is sent again; None: as the API is used to.

    Returns:
        What was done, with the exit code; an interruption (a cancelled task) is one of the ends it tells.

    Raises:
        SettingsError: nothing to do, or nothing to do it with.
        KeyRefusedError: the API refused the key.
        DatabaseError: the database cannot be reached or used.
    """
    sync = settings.sync
    task = Task(mode, lookback=sync.lookback, reconcile_every=sync.reconcile_every, since=since, until=until)
    return await Syncing(settings, task, listener, dry_run=dry_run, policy=policy).run(apps, workflows)
