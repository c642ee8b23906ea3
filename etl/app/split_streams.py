"""Split a big stream into slices, which all processes of an invocation read.

The process that has claimed the stream queues the slices, reads slices itself, and finally compares the counts. All
processes commit with its fencing token, so that a process that takes over the stream also stops the others. If a slice
is not complete, a single process reads the whole listing instead.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime  # noqa: TC003 - msgspec reads the annotations of an outcome
from typing import TYPE_CHECKING

import msgspec

from etl.errors import PageTooLargeError
from etl.plan.paging import Span
from etl.plan.window import Window, split
from etl.sync.intake import Tally
from etl.sync.listing import answer_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from etl.db.queue import Queue, SliceClaim
    from etl.sync.intake import StreamIO

_POLL_S = 0.5


@dataclass(slots=True)
class SliceOutcome:
    """The outcome of a slice.

    Attributes:
        doubt: why runs may be missing; '' if the slice is complete.
        newest: the largest `updated_at`.
        tally: the counts of this slice.
    """

    doubt: str = ""
    newest: datetime | None = None
    tally: Tally = field(default_factory=Tally)


class SlicesLeft(msgspec.Struct):
    """The remaining slices of a backfill, stored in `etl_streams.backfill_cursor` for the next invocation."""

    slices: list[Window]
    began: datetime
    newest: datetime | None = None


class SplitStreams:
    """Reads the streams that this process has claimed in slices, together with other processes.

    Args:
        queue: the queue of the invocation.
        pages: number of pages per slice; 0 to split no streams, and only read the slices left by an earlier invocation.
    """

    def __init__(self, queue: Queue, pages: int) -> None:
        self._queue = queue
        self._pages = pages

    async def read(
        self, io: StreamIO, read_slice: Callable[[SliceClaim], Awaitable[SliceOutcome]], *, resumes: bool
    ) -> datetime | None:
        """Read a big stream in slices until all slices are finished.

        Args:
            io: the stream.
            read_slice: reads a slice in this process.
            resumes: whether to resume an interrupted backfill, and to store the remaining slices.

        Returns:
            When reading began; None if the stream is not split, or if a slice is not complete.
        """
        store, stream, fence = io.store, io.store.stream, io.store.state.fence
        left = await self._begin(io, store.state.backfill_cursor if resumes else None)
        while left is not None:
            claim = await self._queue.claim_slice(stream, fence)
            if claim is not None:
                outcome = await read_slice(claim)
                own = encode(SliceOutcome(outcome.doubt, outcome.newest))  # the stream itself has the tally
                await self._queue.finish_slice(claim, own)
            slices = await self._queue.slices(stream, fence)
            outcomes = [decode(text) for _, _, text in slices if text is not None]
            if any(outcome.doubt for outcome in outcomes):
                await self._queue.void_slices(stream, fence, encode(SliceOutcome("void")))
                break
            for outcome in outcomes:
                io.intake.note_time(outcome.newest)
            unread = [window for window, _, text in slices if text is None]
            if not unread:
                return left.began
            if resumes and unread != left.slices:
                left = SlicesLeft(unread, left.began, io.intake.newest)
                await store.save_cursor(encode(left).decode())
            if claim is None:
                others = {by for _, by, text in slices if text is None and by not in {None, self._queue.worker}}
                await self._queue.free_slices_of_the_dead(others)
                await asyncio.sleep(_POLL_S)
        return None

    async def _begin(self, io: StreamIO, saved: str | None) -> SlicesLeft | None:
        """Queue the slices of a stream, unless a former owner has; return None if the stream is not split."""
        stream, fence = io.store.stream, io.store.state.fence
        left = _left_of(saved)
        started_at = await self._queue.adopt(stream, fence)
        if started_at is not None:
            left = left or SlicesLeft([], started_at)
        else:
            if saved is None and (slices := await self._split(io)):
                left = SlicesLeft(slices, io.store.state.read_at)
            if left is None:
                return None
            await self._queue.split(stream, fence, left.slices)
        io.intake.note_time(left.newest)
        return left

    async def _split(self, io: StreamIO) -> list[Window]:
        """Read a few runs at each place where a slice may start, and return the slices."""
        if not self._pages or io.store.state.listing_order not in {None, "created_desc"}:
            return []
        listing, paging = io.listing, io.listing.paging
        first = paging.next(0)
        try:
            page = await listing.read_ahead(first)
            paging.observe(first, answer_of(page))
            step, few = self._pages * paging.usual, min(listing.head, paging.size)
            if paging.aligned or (listing.count or 0) <= step:
                return []
            listing.forget_ahead()
            starts = range(step, listing.count or 0, step)
            pages = [page, *[await listing.read(Span(start // few + 1, few)) for start in starts]]
        except PageTooLargeError:
            return []
        windows = split([io.intake.peek(page) for page in pages])
        return windows if len(windows) > 1 else []


def encode(outcome: SliceOutcome | SlicesLeft) -> bytes:
    """Encode an outcome, or remaining slices, as JSON."""
    return msgspec.json.encode(outcome)


def decode(text: str) -> SliceOutcome:
    """Decode the outcome of a slice."""
    return msgspec.json.decode(text, type=SliceOutcome)


def _left_of(text: str | None) -> SlicesLeft | None:
    """Return the remaining slices in a cursor; None if it is the cursor of a stream that was not split."""
    try:
        return None if text is None else msgspec.json.decode(text, type=SlicesLeft)
    except msgspec.ValidationError:
        return None
