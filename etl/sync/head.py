"""Reading the newest end of a listing until everything below is known."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from etl.plan.order import Listed, Order, OrderObserver, head_is_read
from etl.plan.passes import Checkpoint, Pass
from etl.plan.verdict import MAX_PASSES

if TYPE_CHECKING:
    from datetime import timedelta

    from etl.api.pages import Page
    from etl.sync.intake import StreamIO


async def read_head(io: StreamIO, order: Order | None, lookback: timedelta) -> set[str] | None:
    """Read the newest end of a listing; `order` says which end that is.

    A newest-first listing is read from its beginning. An oldest-first one is read from a third of a page before its
    previous end: enough to overlap, and usually for the lookback; if not, from further above.

    Returns:
        The keys of the items read; None if only reading the whole listing is safe.
    """
    if order is None or order is Order.NONE:
        return None
    listing, state = io.listing, io.store.state
    by_day = order is Order.UPDATED_DESC and await io.store.has_bare_days()
    distance, above = listing.paging.distance, min(listing.paging.size, listing.head) // 3
    is_read = partial(
        head_is_read,
        order=order,
        watermark=state.watermark,
        lookback=lookback,
        now=state.read_at,
        by_day=by_day,
        distance=distance,
    )
    for _ in range(MAX_PASSES):
        start = 0 if order.newest_first else max((state.api_count or 0) - above, 0)
        reading: Pass[Page] = Pass(listing.paging, Checkpoint(start), first_size=listing.head)
        items, observer = list[Listed](), OrderObserver(distance)
        await io.intake.begin()
        async with aclosing(listing.pages(reading)) as batches:
            async for pages in batches:
                for page in await io.intake.process(pages):
                    observer.watch(page)
                    items += page
                # A server that gives smaller pages without telling shows others than those at the previous end.
                tells = all(page.tells_size and page.count is not None for page in pages)
                is_there = tells and not listing.paging.aligned
                if not observer.agrees_with(order) or not (order.newest_first or is_there):
                    return None
                if order.newest_first and is_read(items):
                    reading.stop()
        is_steady = order.newest_first and len(reading.counts) == 1 and None not in reading.counts
        if io.intake.doubt:
            return None
        if (reading.linked or is_steady) and (start == 0 or is_read(items[::-1])):
            return {item.key for item in items}
        above *= 4
    return None
