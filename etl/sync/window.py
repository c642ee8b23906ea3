"""Loading a window of the history, bounded by creation times."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING

from etl.plan import Order, OrderObserver, Pass, WindowSearch, passes_allowed, window_is_passed
from etl.sync.gone import look_up

if TYPE_CHECKING:
    from datetime import datetime

    from etl.db.store import Store
    from etl.sync.intake import Intake
    from etl.sync.listing import Listing


class Window:
    """Finds the first page of a window by bisection where the listing is sorted, and reads on to its end.

    Args:
        listing: the source side.
        intake: takes in what lies in the window.
        store: the warehouse side.
        since: inclusive, None is open.
        until: exclusive, None is open.
    """

    def __init__(
        self, listing: Listing, intake: Intake, store: Store, *, since: datetime | None, until: datetime | None
    ) -> None:
        self._listing = listing
        self._intake = intake
        self._store = store
        self._since, self._until = since, until

    async def read(self) -> bool:
        """Read until nothing can have slipped through; runs of the window that were not met are looked up.

        Returns:
            Whether that came about: False where the listing kept moving.
        """
        before: bytes | None = None
        session, tries = self._store.session, 0
        while True:
            tries += 1
            mark = await session.begin_pass()
            try:
                order, result = await self._one_pass(mark)
                # New runs push a newest-first listing down, which repeats items; only what is removed lets one slip
                # through, and shows in the count. An unsorted listing must look the same twice.
                lossless = order is Order.CREATED_DESC and result.growing
                settled = lossless or before == result.fingerprint or (len(result.counts) == 1 and result.whole)
                if settled or tries >= passes_allowed(len(result.counts)):
                    window = (self._since, self._until)
                    unseen = await session.unseen_runs(self._store.stream, [mark], self._store.filters, window)
                    await look_up(self._listing, self._intake, unseen)
                    return settled
                before = result.fingerprint
            finally:
                await session.end_pass(mark)

    async def _one_pass(self, mark: int) -> tuple[Order | None, Pass]:
        order, start = await self._find()
        result, nameless = Pass(whole=start == 1, base=self._listing.count), Counter[bytes]()
        async with aclosing(self._listing.pages(start)) as reading:
            async for pages in reading:
                sorted_ = await self._intake.sort(pages, nameless)
                await self._intake.load(sorted_)
                told = [list(dict.fromkeys(item.ident for item in items)) for items in sorted_.pages]
                fresh = await self._store.session.note_seen(mark, *told)
                for page, idents, new in zip(pages, told, fresh, strict=True):
                    result.observe(page.number, page.count, idents, new)
                bounds = {"since": self._since, "until": self._until}
                if any(window_is_passed(items, order, **bounds) for items in sorted_.pages):
                    break
        return order, result

    async def _find(self) -> tuple[Order | None, int]:
        """The order by creation that the listing shows, and the page at which the window begins; (None, 1) if none."""
        sorted_ = await self._intake.sort([await self._listing.page(1)])
        await self._intake.load(sorted_)
        probes = {1: sorted_.pages[0]}
        observer = OrderObserver()
        observer.watch(sorted_.pages[0])
        order, pages = observer.order, self._listing.extent.pages
        if order is None or not order.by_creation or pages is None or self._listing.by_token:
            return None, 1
        search = WindowSearch(order, pages, since=self._since, until=self._until)
        while (number := search.next_page()) is not None:
            if number not in probes:
                probe = await self._intake.sort([await self._listing.page(number)])
                await self._intake.load(probe)
                probes[number] = probe.pages[0]
            search.observe(number, probes[number])
        observer = OrderObserver()
        for number in sorted(probes):
            observer.watch(probes[number])
        return (order, search.first_page) if observer.agrees_with(order) else (None, 1)
