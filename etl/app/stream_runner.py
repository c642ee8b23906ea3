"""Run streams of an invocation, and repeat them if the connection to PostgreSQL is lost."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

import asyncpg

from etl.app.split_streams import SliceOutcome
from etl.db.refusals import LOST, describe_refusal, unusable
from etl.db.store import REFUSALS, Store
from etl.errors import (
    DatabaseError,
    EtlError,
    FatalError,
    KeyRefusedError,
    LockLostError,
    NotFoundError,
    TransientError,
)
from etl.events import BatchLoaded, Notice, StreamFinished
from etl.normalize.normalizer import Normalizer
from etl.normalize.redaction import abridge_of, redactor_of
from etl.plan.paging import head_size
from etl.plan.window import Allowance, Window
from etl.sync import Outcome, StreamSync, Task
from etl.sync.crawl import read_slice
from etl.sync.intake import Intake, StreamIO, Tally
from etl.sync.listing import Listing, paging_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from etl.api.client import CortexClient
    from etl.app.split_streams import SplitStreams
    from etl.app.warehouse import Warehouse
    from etl.config import Settings
    from etl.db.batch import Loaded
    from etl.db.queue import SliceClaim
    from etl.db.session import Session, StreamState
    from etl.events import Listener, StreamId
    from etl.sync.stream import Mode

RECONNECTS = 5
"""How often a stream is repeated after a lost connection to PostgreSQL."""

_LISTED_WITHOUT_RUNS = (
    "The app lists the workflow, but the API has no runs of it: it may have been deleted meanwhile. Run it again; "
    "if it lasts, ask whoever runs the API."
)


class StreamRunner:
    """Runs streams of one invocation.

    Args:
        task: the mode and the window for all streams.
        clients: API clients by app id.
        outcomes: filled with the outcome of each stream, or its progress if it is interrupted.
        sync_id: id of the invocation in `etl_syncs`; None for a dry run, which writes nothing to the warehouse.
        split_streams: reads big streams in slices; None in a dry run.
    """

    def __init__(
        self,
        settings: Settings,
        task: Task,
        warehouse: Warehouse,
        clients: Mapping[str, CortexClient],
        listener: Listener,
        outcomes: dict[StreamId, Outcome],
        *,
        sync_id: int | None,
        split_streams: SplitStreams | None = None,
    ) -> None:
        self.outcomes = outcomes
        self._settings = settings
        self._task = task
        self._warehouse = warehouse
        self._clients = clients
        self._listener = listener
        self._sync_id = sync_id
        self._dry_run = sync_id is None
        self._redactor = redactor_of(settings.payloads)
        self._abridge = abridge_of(settings.payloads)
        self._allowance = allowance_of(settings)
        self._states: dict[StreamId, StreamState] = {}
        self._tallies: dict[StreamId, Tally] = {}
        self._unanswered: dict[StreamId, list[tuple[str, Loaded]]] = {}
        self._split_streams = split_streams

    async def run(
        self, streams: Sequence[StreamId], states: Mapping[StreamId, StreamState], session: Session
    ) -> list[Outcome]:
        """Run the streams of a workflow one after another.

        Args:
            streams: the streams of the workflow.
            states: states of the streams that are locked on `session`. Other streams are skipped.
            session: the session that holds the locks.

        Raises:
            KeyRefusedError, DatabaseError: no stream can continue.
        """
        for stream in streams:
            if stream in states:
                self._states[stream] = states[stream]
                await self._try_until_done(stream, session, streams)
                with suppress(*LOST):
                    await self._count_unanswered(stream)
            else:
                self._skip(stream, "another invocation holds the stream")
        return [self.outcomes[stream] for stream in streams]

    async def _count_unanswered(self, stream: StreamId) -> None:
        """Count the rows of transactions whose commit was sent when the connection was lost, if they committed."""
        for transaction, done in self._unanswered.pop(stream, ()):
            if await self._warehouse.session.is_committed(transaction):
                self._tallies[stream].count(done)
                counts = {name: getattr(done, name) for name in ("inserted", "updated", "unchanged", "gone", "rows")}
                self._listener(BatchLoaded(stream, **counts))

    async def _try_until_done(self, stream: StreamId, session: Session, streams: Sequence[StreamId]) -> None:
        """Sync a stream; reconnect and repeat if the connection to PostgreSQL is lost."""
        for attempt in range(RECONNECTS + 1):
            current = self._warehouse.session
            try:
                if current is not session:
                    await self._lock_again(current, stream)
                session = current
                self.outcomes[stream] = await self._sync(stream)
            except (KeyRefusedError, DatabaseError):
                raise
            except LockLostError:
                self._skip(stream, "another invocation took the stream over")
            except NotFoundError as error:
                await self._fail(stream, error.message, self._hint_if_missing(stream, streams) or error.hint)
            except EtlError as error:
                await self._fail(stream, error.message, error.hint)
            except (*LOST, asyncpg.TransactionRollbackError) as error:  # e.g. to resolve a deadlock
                self._listener(lost(stream, error))
                await self._recover(error, current, last=attempt == RECONNECTS)
                continue
            except REFUSALS as error:
                await self._fail(stream, f"PostgreSQL refused: {describe_refusal(error)}", "Check PostgreSQL's log.")
            return

    async def _recover(self, error: Exception, session: Session, *, last: bool) -> None:
        """Prepare for another attempt.

        Raises:
            DatabaseError: the last attempt failed, or PostgreSQL stays unreachable.
        """
        if last:
            raise unusable(error) from error
        if isinstance(error, LOST):
            await self._warehouse.reconnect(session)

    async def _lock_again(self, session: Session, stream: StreamId) -> None:
        """Lock a stream over a new connection.

        Raises:
            LockLostError: another invocation has locked the stream.
        """
        state = await (session.read(stream) if self._dry_run else session.lock(stream))
        if state is None:
            raise LockLostError(f"another process has taken over the stream {stream}")
        self._states[stream] = state

    async def _sync(self, stream: StreamId) -> Outcome:
        """Make one attempt at a stream."""
        io = self._open(stream, self._states[stream], self._task.window)
        tally = io.intake.tally = self._tallies.setdefault(stream, Tally())  # includes what earlier attempts committed
        in_slices = None
        if self._split_streams is not None:
            in_slices = partial(self._split_streams.read, io, partial(self.read_slice, tally=tally))
        try:
            sync = StreamSync(io, self._task, self._listener, allowance=self._allowance, in_slices=in_slices)
            outcome = await sync.run()
            return replace(outcome, state=self._states[stream])
        except (FatalError, TransientError):
            with suppress(*LOST):
                await io.store.note_count(io.listing.count)
            raise
        finally:
            self.outcomes[stream] = Outcome(stream, "interrupted", tally=tally, state=self._states[stream])
            self._unanswered.setdefault(stream, []).extend(io.store.unanswered)

    async def read_slice(self, claim: SliceClaim, tally: Tally) -> SliceOutcome:
        """Read a slice of a big stream. Errors of the API and rejected statements are returned as `doubt`.

        Args:
            claim: the slice.
            tally: counts the loaded runs.

        Raises:
            KeyRefusedError, DatabaseError: no stream can continue.
            LockLostError: another process has claimed the slice or the stream.
        """
        io = self._open(claim.stream, claim.state, claim.window, claim.key)
        io.intake.tally = tally
        try:
            crawl = await read_slice(io, claim.window)
            doubt = "the listing allows no slices" if crawl is None else crawl.doubt
        except (KeyRefusedError, DatabaseError, LockLostError):
            raise
        except EtlError as error:
            doubt = error.message
        except REFUSALS as error:
            doubt = describe_refusal(error)
        return SliceOutcome(doubt, io.intake.newest, tally)

    def _open(
        self, stream: StreamId, state: StreamState, window: Window, claim: tuple[int, int, str] | None = None
    ) -> StreamIO:
        """Return what reads a stream and loads its runs; `claim` is that of a slice (see `Store`)."""
        api, payloads = self._settings.api, self._settings.payloads
        listing = Listing(
            self._clients[stream.app_id],
            stream,
            paging=paging_of(api.page_size, state.page_size, state.run_bytes),
            concurrency=api.concurrency,
            status=api.status,
            origin=api.origin,
            head=head_size(state.run_bytes) if api.page_size == "auto" else api.page_size,
            has_common_key=all(app.key is None for app in self._settings.apps),
        )
        store = Store(
            self._warehouse.pool,
            self._warehouse.session,
            stream,
            state,
            sync_id=self._sync_id,
            filters=(api.status, api.origin),
            abridge=self._abridge,
            keep_payloads=payloads.retention == "keep",
            dry_run=self._dry_run,
            claim=claim,
        )
        normalizer = Normalizer(*stream, store_payloads=payloads.store == "full", redact=self._redactor)
        return StreamIO(listing, Intake(store, normalizer, self._listener, listing=listing, window=window), store)

    def _skip(self, stream: StreamId, error: str) -> None:
        self._end(stream, "skipped", error, "See who holds it with: cortex-etl status")

    def _end(self, stream: StreamId, status: str, error: str, hint: str) -> None:
        tally, state = self._tallies.get(stream, Tally()), self._states.get(stream)
        self.outcomes[stream] = Outcome(stream, status, error=error, hint=hint, tally=tally, state=state)
        self._listener(StreamFinished(stream, status, error=error, hint=hint))

    def _hint_if_missing(self, stream: StreamId, streams: Sequence[StreamId]) -> str:
        """Return a hint for a workflow that the API does not have; '' if the ids in the settings may be wrong."""
        others = [each.app_id for each in streams if each != stream]
        if others:
            return f"If the workflow has moved to the app {others[0]}, remove it from {stream.app_id} in config.yaml."
        is_listed = any(app.id == stream.app_id and app.workflows == "all" for app in self._settings.apps)
        return _LISTED_WITHOUT_RUNS if is_listed else ""

    async def _fail(self, stream: StreamId, error: str, hint: str) -> None:
        self._end(stream, "failed", error, hint)
        if not self._dry_run:
            fence = self._states[stream].fence
            with suppress(*LOST):
                await self._warehouse.session.fail_stream(stream, fence, error, hint)


def lost(stream: StreamId, error: Exception) -> Notice:
    """Return the event for a stream whose reading a lost connection to PostgreSQL has ended."""
    return Notice("database.lost", {"stream": str(stream), "error": unusable(error).message}, level="warning")


def task_of(settings: Settings, mode: Mode, since: datetime | None, until: datetime | None) -> Task:
    """Return what an invocation does with each stream; `since` and `until` are its window of creation times."""
    sync = settings.sync
    return Task(mode, lookback=sync.lookback, reconcile_every=sync.reconcile_every, window=Window(since, until))


def allowance_of(settings: Settings) -> Allowance:
    """Return how many requests a sync may use for reconciles."""
    return Allowance(ceil(settings.api.requests_per_minute * 60 * settings.sync.reconcile_share))
