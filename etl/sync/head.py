"""Reading the newest end of a listing until everything below is known."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from etl.plan import MAX_PASSES, HeadWatch, Order, Pass, Span
from etl.sync.listing import answer_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from etl.api.pages import Page
    from etl.db.store import Store
    from etl.plan import Listed
    from etl.sync.intake import Intake
    from etl.sync.listing import Listing


class Head:
    """The newest end of a stream's listing.

    Args:
        listing: the source side.
        intake: takes the pages in.
        store: the warehouse side.
        order: of the listing, as it was last observed.
        lookback: see `HeadWatch`.

    Attributes:
        seen: the items read.
    """

    def __init__(
        self, listing: Listing, intake: Intake, store: Store, order: Order | None, lookback: timedelta
    ) -> None:
        self.seen: set[str] = set()
        self._listing = listing
        self._intake = intake
        self._store = store
        self._order = order
        self._lookback = lookback

    async def read(self) -> bool:
        """Read until everything below is known; return False where only reading the whole listing is safe."""
        if self._order is None or self._order is Order.NONE:
            return False
        by_day = self._order is Order.UPDATED_DESC and await self._store.has_bare_days()
        for _ in range(MAX_PASSES):
            watermark, now = self._store.state.watermark, datetime.now(UTC)
            watch = HeadWatch(self._order, watermark=watermark, lookback=self._lookback, now=now, by_day=by_day)
            is_safe = await (self._down(watch) if self._order.newest_first else self._up(watch))
            if is_safe is not None:
                return is_safe
        return False

    async def _down(self, watch: HeadWatch) -> bool | None:
        """Read from the first page on; None where runs may have been missed between two pages."""
        reading: Pass[Page] = Pass(self._listing.paging)
        async with aclosing(self._listing.pages(reading)) as pages:
            async for page in pages:
                watch.watch(await self._take(page))
                if not watch.in_order:
                    return False
                if watch.is_done:
                    break
        is_steady = len(reading.counts) == 1 and None not in reading.counts
        return True if reading.linked or is_steady else None

    async def _up(self, watch: HeadWatch) -> bool | None:
        """Read from the last page up: what is removed meanwhile pulls up what was read already."""
        before = self._store.state.api_count
        if not before or self._listing.paging.aligned:
            return False
        number, page = await self._last_page(-(-before // self._listing.paging.size))
        if page is None:
            return False
        while True:
            watch.watch((await self._take([page]))[::-1])
            if not watch.in_order:
                return False
            if watch.is_done or number == 1:
                return True
            number -= 1
            page = await self._listing.read(Span(number, self._listing.paging.size))

    async def _last_page(self, guess: int) -> tuple[int, Page | None]:
        """Return the listing's last page, None where it cannot be found; `guess` is its number at the last sync."""
        number, paging = max(1, guess), self._listing.paging
        for _ in range(MAX_PASSES):
            span = Span(number, paging.size)
            page = await self._listing.read(span)
            if page.count is None or page.next_token is not None:
                break
            paging.observe(span, answer_of(page))
            if not page.tells_size and number > 1:  # only the first page shows how many items a page really holds
                first = Span(1, paging.size)
                paging.observe(first, answer_of(await self._listing.read(first)))
            last = max(1, -(-page.count // paging.size))
            if (last, paging.size) == span:
                return number, page if len(page.items) == page.count - span.start else None
            number = last
        return number, None

    async def _take(self, pages: Sequence[Page]) -> Sequence[Listed]:
        items = [item for page in await self._intake.take_in(pages) for item in page]
        self.seen.update(item.key for item in items)
        return items
