"""Run the streams of an invocation: lock each, sync it, and start again after PostgreSQL went away."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any

import asyncpg

from etl.app.upkeep import roll_up_stream
from etl.db.refusals import LOST, describe_refusal, unusable
from etl.db.store import REFUSALS, Store
from etl.engine.local import LocalEngine
from etl.errors import (
    TRY_LATER,
    DatabaseError,
    EtlError,
    InterruptedSyncError,
    KeyRefusedError,
    LockLostError,
    NotFoundError,
)
from etl.events import BatchLoaded, Notice, StreamFinished
from etl.normalize.normalizer import Normalizer
from etl.normalize.quarantine import abridge_of
from etl.normalize.redaction import redactor_of
from etl.sync import Outcome, StreamSync
from etl.sync.intake import Intake, Tally
from etl.sync.listing import Listing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from etl.api.client import CortexClient
    from etl.app.warehouse import Warehouse
    from etl.config import Settings
    from etl.db.batch import Loaded
    from etl.db.session import Session, StreamState
    from etl.events import Listener, StreamId
    from etl.sync import Task

STREAMS_AT_ONCE = 4
"""More gain nothing: the rate limit or PostgreSQL is busy with fewer, and each holds pages in memory."""

LOCK_PATIENCE_S = 1.0
"""How long to wait for locked streams: PostgreSQL takes a moment to notice that a process is dead."""

RECONNECTS = 5
"""How often a stream starts again after PostgreSQL went away."""


class StreamRunner:
    """Runs streams of one invocation to their outcomes.

    Args:
        settings: all of them.
        task: what is wanted of each stream.
        warehouse: where the runs go.
        clients: of the API, by app id.
        listener: receives events.
        sync_id: the row of `etl_syncs`; None writes nothing to the warehouse (a dry run).
    """

    def __init__(
        self,
        settings: Settings,
        task: Task,
        warehouse: Warehouse,
        clients: Mapping[str, CortexClient],
        listener: Listener,
        *,
        sync_id: int | None,
    ) -> None:
        self.outcomes: dict[StreamId, Outcome] = {}
        self._settings = settings
        self._task = task
        self._warehouse = warehouse
        self._clients = clients
        self._listener = listener
        self._sync_id = sync_id
        self._dry_run = sync_id is None
        self._redactor = redactor_of(settings.payloads)
        self._abridge = abridge_of(settings.payloads)
        self._streams: Sequence[StreamId] = ()
        self._unrecorded: list[StreamId] = []
        self._states: dict[StreamId, StreamState] = {}
        self._tallies: dict[StreamId, Tally] = {}
        self._unanswered: dict[StreamId, list[tuple[str, Loaded]]] = {}

    async def lock_and_run(self, streams: Sequence[StreamId]) -> None:
        """Run the streams; those that another invocation holds are tried once more after all others."""
        self._streams = streams
        held = await self._lock(streams, patience_s=LOCK_PATIENCE_S)
        await self._run_all([stream for stream in streams if stream not in held])
        if not held:
            return
        still_held = await self._lock(held)
        await self._run_all([stream for stream in held if stream not in still_held])
        for stream in still_held:
            self._skip(stream, "another invocation holds the stream")

    async def compare_again(self) -> None:
        """Compare all counts once more: what a stream loaded may have moved runs that another one had counted."""
        if self._dry_run or self._task.window.is_bounded:
            return
        succeeded = [each for each in self.outcomes.values() if each.status == "succeeded"]
        counted = {each.stream: self._states[each.stream] for each in succeeded if each.api_count is not None}
        for stream, row in (await self._differing(counted)).items():
            error, hint = row["last_error"], row["last_hint"]
            changes = {"warehouse_count": row["accounted_for"], "error": error, "hint": hint}
            self.outcomes[stream] = replace(self.outcomes[stream], status="partial", **changes)
            self._listener(Notice("stream.incomplete", {"stream": str(stream), **changes}, level="warning"))

    def end_with(self, error: EtlError) -> None:
        """Let the streams that have not ended fail with the error that ended the invocation, or be interrupted."""
        status = "interrupted" if isinstance(error, InterruptedSyncError) else "failed"
        for stream in self._streams:
            if stream not in self.outcomes or self.outcomes[stream].status == "interrupted":
                tally = self._tallies.get(stream, Tally())
                self.outcomes[stream] = Outcome(stream, status, error=error.message, hint=error.hint, tally=tally)
                self._unrecorded += [stream] if status == "failed" else []

    async def record_failures(self) -> None:
        """Record why the streams failed that `end_with` let fail."""
        for stream in self._unrecorded:
            outcome, state = self.outcomes[stream], self._states.get(stream)
            fence = None if state is None else state.fence
            await self._warehouse.session.fail_stream(stream, fence, outcome.error, outcome.hint)

    async def _differing(self, streams: Mapping[StreamId, StreamState]) -> Mapping[StreamId, Mapping[str, Any]]:
        session = self._warehouse.session
        try:
            return await session.compare_again(streams) if streams else {}
        except LOST:  # while nothing was asked of it
            return await (await self._warehouse.reconnect(session, self._sync_id)).compare_again(streams)

    async def _lock(self, streams: Sequence[StreamId], *, patience_s: float = 0.0) -> list[StreamId]:
        """Lock the streams; returns those that another invocation holds."""
        give_up, held = monotonic() + patience_s, list(streams)
        while True:
            for stream in held:
                state = await self._take(self._warehouse.session, stream)
                if state is not None:
                    self._states[stream] = state
            held = [stream for stream in held if stream not in self._states]
            if not held or monotonic() >= give_up:
                return held
            await asyncio.sleep(LOCK_PATIENCE_S / 10)

    async def _take(self, session: Session, stream: StreamId) -> StreamState | None:
        return await (session.read(stream) if self._dry_run else session.lock(stream))

    async def _run_all(self, streams: Sequence[StreamId]) -> None:
        """Run locked streams side by side; streams of one workflow in turn, as several apps may list the same runs."""
        by_workflow: dict[str, list[StreamId]] = {}
        for stream in streams:
            by_workflow.setdefault(stream.workflow_id, []).append(stream)

        async def run_in_turn(of_workflow: Sequence[StreamId]) -> None:
            for stream in of_workflow:
                await self._run(stream)

        width = min(STREAMS_AT_ONCE, self._settings.api.concurrency)
        await LocalEngine(width).run(list(by_workflow.values()), run_in_turn)

    async def _run(self, stream: StreamId) -> None:
        """Run a locked stream to its outcome and release it."""
        await self._try_until_done(stream)
        if self._dry_run:
            return
        with suppress(*LOST):
            await self._count_unanswered(stream)
            await self._warehouse.session.release(stream)
        tally = self.outcomes[stream].tally
        await roll_up_stream(self._warehouse, stream, tally.runs_inserted + tally.runs_updated, self._listener)

    async def _count_unanswered(self, stream: StreamId) -> None:
        """Count what transactions did whose answer was lost with the connection, if they were committed."""
        for transaction, done in self._unanswered.pop(stream, ()):
            if await self._warehouse.session.is_committed(transaction):
                self._tallies[stream].count(done)
                counts = {name: getattr(done, name) for name in ("inserted", "updated", "unchanged", "gone", "rows")}
                self._listener(BatchLoaded(stream, **counts))

    async def _try_until_done(self, stream: StreamId) -> None:
        """Sync a stream, again each time that PostgreSQL goes away and comes back.

        Raises:
            KeyRefusedError, DatabaseError: no stream can go on.
        """
        for attempt in range(RECONNECTS + 1):
            session = self._warehouse.session
            try:
                self.outcomes[stream] = await self._sync(stream)
            except (KeyRefusedError, DatabaseError):
                raise
            except LockLostError:
                self._skip(stream, "another invocation took the stream over")
            except NotFoundError as error:
                await self._fail(stream, error.message, self._hint_of_a_move(stream) or error.hint)
            except EtlError as error:
                await self._fail(stream, error.message, error.hint or TRY_LATER)
            except (*LOST, asyncpg.TransactionRollbackError) as error:  # or this transaction lost a deadlock
                self._listener(Notice("database.lost", {"stream": str(stream), "error": str(error)}, level="warning"))
                if attempt == RECONNECTS:
                    raise unusable(error) from error
                if not isinstance(error, LOST) or await self._lock_again(session, stream):
                    continue
                self._skip(stream, "another invocation took the stream over")
            except REFUSALS as error:
                await self._fail(stream, f"PostgreSQL refused: {describe_refusal(error)}", "Check PostgreSQL's log.")
            return

    def _hint_of_a_move(self, stream: StreamId) -> str:
        """Return a hint if another app of the settings has the workflow that this one does not know."""
        others = [each.app_id for each in self._streams if each.workflow_id == stream.workflow_id and each != stream]
        if not others:
            return ""
        return f"If the workflow has moved to the app {others[0]}, remove it from {stream.app_id} in config.yaml."

    async def _lock_again(self, broken: Session, stream: StreamId) -> bool:
        """Lock a stream again over a new connection; returns False where another invocation has taken it."""
        session = await self._warehouse.reconnect(broken, self._sync_id)
        state = await self._take(session, stream)
        if state is not None:
            self._states[stream] = state
        return state is not None

    async def _sync(self, stream: StreamId) -> Outcome:
        """Make one attempt at a stream."""
        api, payloads, task = self._settings.api, self._settings.payloads, self._task
        store = self._store(stream)
        normalizer = Normalizer(*stream, store_payloads=payloads.store == "full", redact=self._redactor)
        listing = Listing(
            self._clients[stream.app_id],
            stream,
            size=api.page_size,
            window=api.concurrency,
            status=api.status,
            origin=api.origin,
        )
        intake = Intake(store, normalizer, self._listener, listing=listing, window=task.window)
        intake.tally = self._tallies.setdefault(stream, intake.tally)  # includes what earlier attempts committed
        try:
            return await StreamSync(task, listing, intake, store, self._listener).run()
        finally:
            self.outcomes[stream] = Outcome(stream, "interrupted", tally=intake.tally)
            self._unanswered.setdefault(stream, []).extend(store.unanswered)

    def _store(self, stream: StreamId) -> Store:
        api = self._settings.api
        return Store(
            self._warehouse.pool,
            self._warehouse.session,
            stream,
            self._states[stream],
            sync_id=self._sync_id,
            filters=(api.status, api.origin),
            abridge=self._abridge,
            keep_payloads=self._settings.payloads.retention == "keep",
            dry_run=self._dry_run,
        )

    def _skip(self, stream: StreamId, error: str) -> None:
        tally, hint = self._tallies.get(stream, Tally()), "See who holds it with: cortex-etl status"
        self.outcomes[stream] = Outcome(stream, "skipped", error=error, hint=hint, tally=tally)
        self._listener(StreamFinished(stream, "skipped", error=error, hint=hint))

    async def _fail(self, stream: StreamId, error: str, hint: str) -> None:
        tally = self._tallies.get(stream, Tally())
        self.outcomes[stream] = Outcome(stream, "failed", error=error, hint=hint, tally=tally)
        self._listener(StreamFinished(stream, "failed", error=error, hint=hint))
        if not self._dry_run:
            fence = self._states[stream].fence
            with suppress(*LOST):
                await self._warehouse.session.fail_stream(stream, fence, error, hint)
