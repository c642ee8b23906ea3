"""Reading the end of a listing at which news show, until known ground."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from etl.plan import MAX_PASSES, HeadWatch, Order

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
        seen: the items met.
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
        self._walked: list[str] = []

    async def read(self) -> bool:
        """Read.

        Returns:
            Whether that was safe; False asks for the whole listing.
        """
        if self._order is None or self._order is Order.NONE:
            return False
        by_day = self._order is Order.UPDATED_DESC and await self._store.has_bare_days()
        for _ in range(MAX_PASSES):
            mark, now = self._store.state.watermark, datetime.now(UTC)
            watch = HeadWatch(self._order, watermark=mark, lookback=self._lookback, now=now, by_day=by_day)
            met = await (self._down(watch) if self._order.newest_first else self._up(watch))
            if met is not None:
                return met
        return False

    async def _down(self, watch: HeadWatch) -> bool | None:
        """Read from the first page on; None where runs may have slid up unseen because one was removed meanwhile.

        The counts tell of that; without them only a second look that shows the same.
        """
        count, number = None, 0
        before, self._walked = self._walked, []
        async for page in self._listing.walk():
            items = await self._take(page)
            watch.watch(items)
            if count is not None and page.count is not None and page.count < count:
                return None
            count, number = page.count, page.number
            self._walked += [item.ident for item in items]
            if not watch.in_order:
                return False
            if watch.met:
                break
        unproved = count is None and number > 1
        return None if unproved and self._walked != before else True

    async def _up(self, watch: HeadWatch) -> bool | None:
        """Read from the last page up: what is removed meanwhile pulls up what was read already."""
        before = self._store.state.api_count
        if not before or self._listing.by_token:
            return False
        number, page = await self._last_page(-(-before // self._listing.extent.take))
        if page is None:
            return False
        while True:
            watch.watch((await self._take(page))[::-1])
            if not watch.in_order:
                return False
            if watch.met or number == 1:
                return True
            number -= 1
            page = await self._listing.page(number)

    async def _last_page(self, guess: int) -> tuple[int, Page | None]:
        """The listing's last page, None where it cannot be told; `guess` is where it stood last."""
        number = max(1, guess)
        for _ in range(MAX_PASSES):
            page = await self._listing.page(number)
            if page.count is None or page.next_token is not None:
                break
            if page.tells_take:
                self._listing.extent.take = page.take
            elif number > 1:
                await self._listing.page(1)  # which shows how many items a page really holds
            take = self._listing.extent.take
            last = max(1, -(-page.count // take))
            if last == number:
                return number, page if len(page.items) == page.count - (number - 1) * take else None
            number = last
        return number, None

    async def _take(self, page: Page) -> Sequence[Listed]:
        sorted_ = await self._intake.sort([page])
        await self._intake.load(sorted_)
        self.seen.update(sorted_.idents)
        return sorted_.pages[0]
