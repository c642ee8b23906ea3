"""Reading the newest end of a listing until everything below is known."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from etl.plan.order import Listed, Order, OrderObserver, head_is_read
from etl.plan.paging import Span
from etl.plan.passes import Checkpoint, Pass
from etl.plan.verdict import MAX_PASSES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from datetime import timedelta

    from etl.api.pages import Page
    from etl.sync.intake import StreamIO


async def read_head(io: StreamIO, order: Order | None, lookback: timedelta) -> set[str] | None:
    """Read the newest end of a listing; `order` says which end that is.

    Returns:
        The keys of the items read; None if only reading the whole listing is safe.
    """
    if order is None or order is Order.NONE:
        return None
    listing, state = io.listing, io.store.state
    by_day = order is Order.UPDATED_DESC and await io.store.has_bare_days()
    distance = listing.paging.distance
    for _ in range(MAX_PASSES):
        await io.intake.begin()
        items, observer = list[Listed](), OrderObserver(distance)
        if order.newest_first:
            reading: Pass[Page] = Pass(listing.paging, first_size=listing.head)
            downwards = _from_the_top(io, reading)
        else:
            # Start a third of a page before the previous end: enough to overlap, and usually for the lookback.
            end, size = state.api_count or 0, min(listing.paging.size, listing.head)
            reading = Pass(listing.paging, Checkpoint(max(end - size // 3, 0)), first_size=size)
            downwards = _from_the_end(io, reading)
        async with aclosing(downwards) as pages:
            async for page in pages:
                observer.watch(page)
                items += page
                if not observer.agrees_with(order if order.newest_first else Order.CREATED_DESC):
                    return None
                if head_is_read(
                    items,
                    order,
                    watermark=state.watermark,
                    lookback=lookback,
                    now=state.read_at,
                    by_day=by_day,
                    distance=distance,
                ):
                    break
        is_steady = order.newest_first and len(reading.counts) == 1 and None not in reading.counts
        if io.intake.doubt:
            return None
        if reading.linked or is_steady:
            return {item.key for item in items}
    return None


async def _from_the_top(io: StreamIO, reading: Pass[Page]) -> AsyncGenerator[list[Listed], None]:
    """Yield the pages of a newest-first listing."""
    async with aclosing(io.listing.pages(reading)) as batches:
        async for pages in batches:
            for items in await io.intake.process(pages):
                yield items


async def _from_the_end(io: StreamIO, reading: Pass[Page]) -> AsyncGenerator[list[Listed], None]:
    """Yield the pages of an oldest-first listing from its end backwards, their items newest first.

    The pass reads from the previous end to the current one; earlier pages are read while the caller wants more. If
    runs are removed in the meantime, some are read twice, which is harmless.
    """
    listing, intake = io.listing, io.intake
    end: list[list[Listed]] = []
    async with aclosing(listing.pages(reading)) as batches:
        async for pages in batches:
            if listing.paging.aligned or not all(page.tells_size and page.count is not None for page in pages):
                intake.doubt = "the API does not report the number and size of a page"
                return
            end += await intake.process(pages)
    for items in reversed(end):
        yield items[::-1]
    size = listing.paging.usual
    for number in range(-(-min(reading.start, reading.count or 0) // size), 0, -1):
        span = Span(number, size)
        (items,) = await intake.process([await listing.read(span)])
        yield items[: reading.start - span.start][::-1]  # the pass has read what follows
