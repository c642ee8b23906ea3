"""Reading the newest end of a listing until everything below is known."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from etl.plan.lookback import head_is_read
from etl.plan.order import OUT_OF_PLACE, Listed, Order, OrderObserver
from etl.plan.paging import Span
from etl.plan.passes import Pass
from etl.plan.verdict import MAX_PASSES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from etl.api.pages import Page
    from etl.db.store import Store
    from etl.sync.intake import Intake
    from etl.sync.listing import Listing


class Head:
    """The newest end of a stream's listing.

    Args:
        listing: the source side.
        intake: takes the pages in.
        store: the warehouse side.
        order: of the listing, as it was last observed.
        lookback: see `head_is_read`.
        now: the present time, by PostgreSQL's clock.

    Attributes:
        seen: the items read.
    """

    def __init__(
        self, listing: Listing, intake: Intake, store: Store, order: Order | None, lookback: timedelta, now: datetime
    ) -> None:
        self.seen: set[str] = set()
        self._listing = listing
        self._intake = intake
        self._store = store
        self._order = order or Order.NONE
        self._lookback = lookback
        self._now = now
        self._by_day = False
        self._items: list[Listed] = []
        self._distance = listing.paging.size // OUT_OF_PLACE
        self._observer = OrderObserver(self._distance)

    async def read(self) -> bool:
        """Read until everything below is known; return False where only reading the whole listing is safe."""
        if self._order is Order.NONE:
            return False
        self._by_day = self._order is Order.UPDATED_DESC and await self._store.has_bare_days()
        for _ in range(MAX_PASSES):
            self._items, self._observer, self._intake.doubt = [], OrderObserver(self._distance), ""
            is_safe = await (self._down() if self._order.newest_first else self._up())
            if is_safe is not None:
                return is_safe and not self._intake.doubt
        return False

    async def _down(self) -> bool | None:
        """Read from the first page on; None where runs may have been missed between two pages."""
        reading: Pass[Page] = Pass(self._listing.paging)
        async with aclosing(self._listing.pages(reading)) as batches:
            async for pages in batches:
                for items in await self._intake.take_in(pages):
                    self._watch(items)
                if not self._observer.agrees_with(self._order):
                    return False
                if self._is_read:
                    break
        is_steady = len(reading.counts) == 1 and None not in reading.counts
        return True if reading.linked or is_steady else None

    async def _up(self) -> bool | None:
        """Read an oldest-first listing from its end up: what is removed meanwhile only shows runs twice."""
        before, paging = self._store.state.api_count, self._listing.paging
        if not before:
            return False
        reading: Pass[Page] = Pass(paging, position=max(before - paging.size // 3, 0))
        end: list[list[Listed]] = []
        async with aclosing(self._listing.pages(reading)) as batches:
            async for pages in batches:
                if paging.aligned or not all(page.tells_size and page.count is not None for page in pages):
                    return False  # where pages begin and the listing ends is not known
                end += await self._intake.take_in(pages)
        for items in reversed(end):
            self._watch(items[::-1])
        number = -(-min(reading.began, reading.count or 0) // paging.size)
        while self._observer.agrees_with(Order.CREATED_DESC):
            if self._is_read or number == 0:
                return True if reading.linked else None
            span = Span(number, paging.size)
            (items,) = await self._intake.take_in([await self._listing.read(span)])
            self._watch(items[: reading.began - span.start][::-1])  # what follows was read, or is new since
            number -= 1
        return False

    def _watch(self, items: Sequence[Listed]) -> None:
        """Watch a page, its newest item first."""
        self._observer.watch(items)
        self._items += items
        self.seen.update(item.key for item in items)

    @property
    def _is_read(self) -> bool:
        return head_is_read(
            self._items,
            self._order,
            watermark=self._store.state.watermark,
            lookback=self._lookback,
            now=self._now,
            by_day=self._by_day,
            distance=self._distance,
        )
