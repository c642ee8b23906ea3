"""Reading a whole listing, or a slice of it, until a pass is complete, and marking runs that are gone."""

from __future__ import annotations

from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from etl.errors import PageTooLargeError
from etl.plan.order import Order, OrderObserver, order_of, tie_ends
from etl.plan.paging import Span, meets
from etl.plan.passes import EDGE, Checkpoint, Pass, closing_pass
from etl.plan.verdict import UNLINKED, UNPROVABLE_HINT, passes_allowed, verdict
from etl.plan.window import BEHIND, EVERYTHING, IN_FRONT, Window
from etl.sync.gone import LOOKED_UP, settle_unseen, settle_unseen_elsewhere
from etl.sync.intake import TWINS, TWINS_HINT
from etl.sync.listing import answer_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etl.api.pages import Page
    from etl.db.session import Seen
    from etl.db.store import Store
    from etl.plan.order import Listed
    from etl.sync.intake import StreamIO

EXPIRY_HORIZON = timedelta(days=1)
"""Runs that the API removes within this time are fetched before the rest of a history."""


async def read_all(
    io: StreamIO,
    *,
    order: Order | None = None,
    window: Window = EVERYTHING,
    resumes: bool = False,
    is_sorted: bool = False,
) -> Crawl:
    """Read a listing until a pass is complete or no further pass is allowed; return the last pass.

    After each pass, runs of the warehouse that the pass did not show are looked up.

    Args:
        io: the stream.
        order: the order of the listing as last observed.
        window: the creation times to read.
        resumes: whether to resume at the checkpoint of an earlier process, and to save checkpoints in the first pass.
        is_sorted: whether the listing is known to be sorted by creation, newest first.
    """
    resumed = _saved_checkpoint(io.store) if resumes else None
    passes, before, paging = 0, None, io.listing.paging
    while True:
        crawl = Crawl(io, order, window, resumed=resumed, saves=resumes, is_sorted=is_sorted)
        if not await crawl.read():
            order, resumed = crawl.order, None
            continue
        passes += 1
        shown = (crawl.doubt, crawl.met, crawl.count)
        # If a pass showed the same as the one before, so would the next.
        if crawl.is_complete or shown == before or passes >= passes_allowed(-(-(crawl.count or 0) // paging.usual)):
            has_no_links = paging.aligned or crawl.order in (None, Order.NONE) or shown == before
            if io.intake.doubt == TWINS:
                crawl.hint = TWINS_HINT
            elif crawl.doubt == UNLINKED and has_no_links:
                crawl.hint = UNPROVABLE_HINT
            return crawl
        order, before, resumed, resumes = crawl.order, shown, None, False


async def read_slice(io: StreamIO, window: Window) -> Crawl | None:
    """Read a slice of a listing; return None if the listing turns out not to allow slices.

    It must be sorted by creation, newest first, its pages must overlap, and all runs must have a creation time.
    """
    paging = io.listing.paging
    if paging.aligned:
        return None
    order = Order.CREATED_DESC
    crawl = await read_all(io, order=order, window=window, is_sorted=True)
    return crawl if crawl.order is order and not paging.aligned and not io.intake.has_undated else None


def _saved_checkpoint(store: Store) -> Checkpoint | None:
    """Return the checkpoint of an earlier process; None if there is none, or none that is valid."""
    with suppress(msgspec.ValidationError):
        text = store.state.backfill_cursor
        return None if text is None else msgspec.json.decode(text, type=Checkpoint)
    return None


class Crawl:
    """One pass that loads a stream's whole listing, or a window of it; see `read_all`.

    Args:
        io: the stream.
        order: the order of the listing as last observed.
        window: the creation times to read.
        resumed: the checkpoint to resume at; None to start at the beginning.
        saves: whether to save checkpoints.
        is_sorted: whether the listing is known to be sorted by creation, newest first.

    Attributes:
        began: when the reading began.
        order: the order of the listing as observed; None if it showed too little.
        doubt: why the pass may have missed a run; empty if it did not.
        is_complete: whether it missed no run, and the API answered for the runs that it did not show.
        from_start: whether this process has read it from the beginning, not from a checkpoint.
        met: how many different runs it showed.
        count: the API's last count; None if it sends none.
        hint: what to do about the doubt if another pass would not help.
    """

    _seen: Seen

    def __init__(
        self,
        io: StreamIO,
        order: Order | None = None,
        window: Window = EVERYTHING,
        *,
        resumed: Checkpoint | None = None,
        saves: bool = False,
        is_sorted: bool = False,
    ) -> None:
        self.began = (resumed and resumed.began) or io.store.state.read_at
        self.order = order if resumed is None else resumed.order
        self.window = window
        self.doubt = self.hint = ""
        self.is_complete = self.from_start = False
        self.met = 0
        self.count: int | None = None
        self._listing, self._intake, self._store = io.listing, io.intake, io.store
        self._resumed = resumed
        self._saves = saves
        self._may_expire = saves and resumed is None  # whether runs at the end may be about to be removed
        self._distance = self._listing.paging.distance
        self._observer = OrderObserver(self._distance)
        self._is_sorted = is_sorted
        self._order_is_proven = is_sorted  # or by the pages read by bisection
        self._first: Sequence[Listed] = ()  # the items of the first page
        self._behind: set[str] = set()  # the items behind the window

    @property
    def moved(self) -> bool:
        """Whether the pass missed no run, but showed more than the API counts: some were removed in the meantime."""
        return self.from_start and not self.doubt and self.count not in (None, self.met)

    async def read(self) -> bool:
        """Read the listing; return whether the position of the checkpoint was found."""
        await self._intake.begin()
        self._seen = await self._store.begin_pass(self.window)
        main = await self._main_pass()
        if self._resumed is not None and not main.pages:
            return False
        doubt = await self._doubt(main) or self._intake.doubt
        settled = self._resumed is not None or await self._settle_unseen(complete=not doubt)
        await self._seen.forget()
        self.doubt = doubt or self._intake.doubt  # of a run that could not be looked up
        self.is_complete = settled and not doubt
        self.from_start = self._resumed is None
        self.count = self._listing.count
        return True

    async def _main_pass(self) -> Pass[Page]:
        """Read the listing once and commit it batch by batch."""
        start = self._resumed or Checkpoint(0)
        if self._resumed is not None:
            self._intake.note_time(self._resumed.newest)
        else:
            with suppress(PageTooLargeError):  # the pass reads smaller pages, from the first one on
                start = Checkpoint(await self._start())
        reading: Pass[Page] = Pass(self._listing.paging, start, ahead=self._listing.concurrency)
        async with aclosing(self._listing.pages(reading)) as batches:
            async for pages in batches:
                items = await self._load(pages, reading)
                self._behind.update(key for key, side in self._sides(items).items() if side == BEHIND)
                if self._is_sorted and not self._observer.agrees_with(Order.CREATED_DESC):
                    self.order = Order.NONE
                    reading.stop()
                # An item may be `distance` places from its sorted position: behind fewer, one of the window may follow.
                elif len(self._behind) > self._distance:
                    reading.stop()
                elif self._may_expire:
                    self._may_expire = False
                    with suppress(PageTooLargeError):
                        await self._fetch_expiring(reading)
        return reading

    async def _load(self, pages: Sequence[Page], main: Pass[Page] | None = None) -> list[Listed]:
        """Commit pages and note that their items were seen; commit those of the main pass with their checkpoint."""
        found = await self._intake.classify(pages)
        if main is not None:
            for items in found.pages:
                self._observer.watch(items)
                self._first = self._first or items
            self.order = self._observer.order or self.order
            if self._saves and main.linked and main.token is None:
                here = replace(main.checkpoint(), order=self.order, newest=self._intake.newest, began=self.began)
                found.batch.cursor = msgspec.json.encode(here).decode()
        await self._intake.load(found)
        listed = [item for items in found.pages for item in items]
        self.met += await self._seen.note([item.key for item in listed])
        return listed

    async def _fetch_expiring(self, main: Pass[Page]) -> None:
        """Fetch the old end of a newest-first history first, as far as its runs are about to be removed."""
        if self.order is not Order.CREATED_DESC or not any(item.expires_at for item in self._first):
            return
        soon, spans = self._store.state.read_at + EXPIRY_HORIZON, main.paging.spans(main.reach, main.count or 0)
        for span in spans[: -len(spans) // 4 : -1]:  # the last quarter, backwards
            page = await self._listing.read(span)
            keys = answer_of(page).keys
            is_next = meets(keys, main.tail[1]) if main.tail else span.start + len(keys) == page.count
            if page.count != main.count or not is_next:
                return
            items = await self._load([page])
            main.tail = (span.start, keys[:EDGE])
            if not any(item.expires_at and item.expires_at <= soon for item in items):
                return

    async def _start(self) -> int:
        """Return the position to start at: just before the window, found by bisection if the listing is sorted."""
        paging = self._listing.paging
        if not self.window.is_bounded or (self.order is not None and not self.order.by_creation):
            return 0
        first = Span(1, paging.usual)
        page = await self._listing.read_ahead(first)
        paging.observe(first, answer_of(page))
        probed = {0: self._intake.peek(page)}
        order, count = Order.CREATED_DESC if self._is_sorted else order_of(probed[0]), self._listing.count
        if count is None or paging.aligned or not self._is_in_front(probed[0], order):
            return 0
        spans = paging.spans(0, count)
        low, high = 0, len(spans)  # the page at `low` is wholly in front of the window, the page at `high` is not
        while high - low > 1:
            middle = (low + high) // 2
            probed[middle] = self._intake.peek(await self._listing.read_ahead(spans[middle]))
            low, high = (middle, high) if self._is_in_front(probed[middle], order) else (low, middle)
        observer = OrderObserver()
        for place in sorted(probed):
            observer.watch(probed[place])
        self._order_is_proven = self._order_is_proven or (low > 0 and order is not None and observer.proves(order))
        return spans[low - 1].end if low and self._order_is_proven else 0

    def _is_in_front(self, items: Sequence[Listed], order: Order | None) -> bool:
        return set(self.window.sides(items, order, is_proven=True).values()) == {IN_FRONT}

    async def _doubt(self, main: Pass[Page]) -> str:
        """Return why the pass may have missed a run; read the newest end again if runs may have been created there."""
        is_in_front = IN_FRONT in self._sides(self._first).values()
        ends_before_now = self._behind if self.order is Order.CREATED_ASC else is_in_front
        look = None if main.is_single or ends_before_now else closing_pass(main, self.order)
        if look is not None:
            async with aclosing(self._listing.pages(look)) as batches:
                async for pages in batches:
                    await self._load(pages)
        is_counted = self._resumed is None and not self.window.is_bounded
        return verdict(
            main,
            look,
            begun=main.start == 0 or self._resumed is not None or is_in_front,
            tie_ends=self.order is Order.CREATED_DESC and tie_ends(self._first),
            met=self.met if is_counted else None,
        )

    def _sides(self, items: Sequence[Listed]) -> dict[str, int]:
        """Return on which sides of a bounded window items are; nothing unless the order of the listing is certain."""
        if not self.window.is_bounded or not (self._observer.has_enough or self._order_is_proven):
            return {}
        is_proven = self._observer.is_by_creation or self._order_is_proven
        return self.window.sides(items, self.order, is_proven=is_proven)

    async def _settle_unseen(self, *, complete: bool) -> bool:
        """Look up the warehouse's runs that the pass did not show; return whether it still counts as complete."""
        settled = await settle_unseen(self._intake, await self._seen.unseen_runs(), complete=complete)
        if complete:
            elsewhere = await self._seen.unseen_elsewhere(LOOKED_UP)
            await settle_unseen_elsewhere(self._listing, self._intake, elsewhere)
        if complete and not self.window.is_bounded:
            await self._store.drop_rejects(await self._seen.unseen_rejects())
        return settled
