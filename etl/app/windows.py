"""Split a large stream into windows of creation times, which all processes of an invocation read.

The process that has claimed the stream queues the windows, reads windows itself, and finally compares the counts. All
processes commit with its fencing token, so that a process that takes over the stream also stops the others. If a window
fails, a single process reads the whole listing instead.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime  # noqa: TC003 - msgspec reads the annotations of a reading
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec

from etl.db.queue import Queue
from etl.errors import PageTooLargeError
from etl.plan.paging import Span
from etl.plan.split import Part, split
from etl.sync.intake import Tally
from etl.sync.listing import answer_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from etl.app.warehouse import Warehouse
    from etl.db.queue import WindowClaim
    from etl.db.store import Store
    from etl.sync.intake import Intake
    from etl.sync.listing import Listing

Answer = TypeVar("Answer")

_POLL_S = 0.5


@dataclass(slots=True)
class Reading:
    """The outcome of a window.

    Attributes:
        doubt: why runs may be missing; '' if the window is complete.
        newest: the largest `updated_at`.
        tally: the counts of this window.
    """

    doubt: str = ""
    newest: datetime | None = None
    tally: Tally = field(default_factory=Tally)


class Rest(msgspec.Struct, forbid_unknown_fields=True):
    """The remaining windows of a backfill, stored in `etl_streams.backfill_cursor` for the next invocation."""

    windows: list[Part]
    began: datetime
    newest: datetime | None = None


class Windows:
    """The windows of the streams that this process has claimed.

    Args:
        warehouse: the warehouse.
        sync_id: id of the invocation in `etl_syncs`.
        worker: name of this process.
        pages: number of pages per window.
    """

    def __init__(self, warehouse: Warehouse, sync_id: int, worker: str, pages: int) -> None:
        self._warehouse = warehouse
        self._sync_id = sync_id
        self._worker = worker
        self._pages = pages

    async def read(
        self,
        listing: Listing,
        intake: Intake,
        store: Store,
        read_window: Callable[[WindowClaim], Awaitable[Reading]],
        *,
        resumes: bool,
    ) -> datetime | None:
        """Read a large stream in windows until all windows are finished.

        Args:
            listing: the listing of the stream.
            intake: the intake of the stream.
            store: the store of the stream.
            read_window: reads a window in this process.
            resumes: whether to resume an interrupted backfill, and to store the remaining windows.

        Returns:
            When reading began; None if the stream is not split, or if a window is not complete.
        """
        stream, fence = store.stream, store.state.fence
        rest = await self._begin(listing, intake, store, store.state.backfill_cursor if resumes else None)
        while rest is not None:
            claim = await self._ask(partial(Queue.claim_window, stream=stream, fence=fence))
            if claim is not None:
                reading = await read_window(claim)
                own = encode(Reading(reading.doubt, reading.newest))  # without the tally, which the stream itself has
                await self._ask(partial(Queue.finish_window, claim=claim, reading=own))
            windows = await self._ask(lambda queue: queue.windows(stream, fence))
            readings = [decode(text) for _, _, text in windows if text is not None]
            if any(reading.doubt for reading in readings):
                await self._ask(lambda queue: queue.void_windows(stream, fence, encode(Reading("void"))))
                break
            for reading in readings:
                intake.note_time(reading.newest)
            left = [part for part, _, text in windows if text is None]
            if not left:
                return rest.began
            if resumes and left != rest.windows:
                rest = Rest(left, rest.began, intake.newest)
                await store.save_cursor(encode(rest).decode())
            if claim is None:
                others = {by for _, by, text in windows if text is None and by not in {None, self._worker}}
                await self._ask(partial(Queue.free_windows_of_the_dead, workers=others))
                await asyncio.sleep(_POLL_S)
        return None

    async def _begin(self, listing: Listing, intake: Intake, store: Store, saved: str | None) -> Rest | None:
        """Queue the windows of a stream, unless a former owner has; return None if the stream is not split."""
        stream, fence = store.stream, store.state.fence
        rest = _rest_of(saved)
        started_at = await self._ask(lambda queue: queue.adopt(stream, fence))
        if started_at is None:
            if saved is None:
                rest = Rest(await self._split(listing, intake, store), await store.session.clock())
            if rest is None or not rest.windows:
                return None
            await self._ask(partial(Queue.split, stream=stream, fence=fence, parts=rest.windows))
        elif rest is None:
            rest = Rest([], started_at)
        intake.note_time(rest.newest)
        return rest

    async def _split(self, listing: Listing, intake: Intake, store: Store) -> list[Part]:
        """Read a few runs at each place where a window may start, and return the windows."""
        if store.state.listing_order not in {None, "created_desc"}:
            return []
        paging = listing.paging
        first = paging.next(0)
        try:
            page = await listing.read(first)
            paging.observe(first, answer_of(page))
            step, few = self._pages * min(paging.size, paging.fit), min(listing.head, paging.size)
            if paging.aligned or (listing.count or 0) <= step:
                listing.put_back(first, page)
                return []
            shown = [(0, intake.peek(page))]
            for start in range(step, listing.count or 0, step):
                span = Span(start // few + 1, few)
                shown.append((span.start, intake.peek(await listing.read(span))))
        except PageTooLargeError:
            return []
        parts = split(shown)
        return parts if len(parts) > 1 else []

    async def _ask(self, question: Callable[[Queue], Awaitable[Answer]]) -> Answer:
        return await self._warehouse.ask(lambda session: question(Queue(session, self._sync_id, self._worker)))


def encode(reading: Reading | Rest) -> bytes:
    """Encode an outcome, or remaining windows, as JSON."""
    return msgspec.json.encode(reading)


def decode(text: str) -> Reading:
    """Decode the outcome of a window."""
    return msgspec.json.decode(text, type=Reading)


def _rest_of(text: str | None) -> Rest | None:
    """Return the remaining windows in a cursor; None if it is the cursor of a stream that was not split."""
    try:
        return None if text is None else msgspec.json.decode(text, type=Rest)
    except msgspec.ValidationError:
        return None
