"""Reading a whole listing, or a slice of it, until a pass is complete, and marking runs that are gone."""

from __future__ import annotations

from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from etl.errors import PageTooLargeError
from etl.plan.order import Order, OrderObserver, order_of, tie_ends
from etl.plan.paging import Span, meets
from etl.plan.passes import EDGE, Checkpoint, Pass, closing_pass
from etl.plan.verdict import UNLINKED, UNPROVABLE_HINT, Evidence, passes_allowed, verdict
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


@dataclass(frozen=True, slots=True)
class Crawled:
    """What the last pass over a listing, or over a window of it, has shown.

    Attributes:
        began: when the reading began.
        order: the order of the listing; None if it showed too little.
        window: the creation times read.
        doubt: why the pass may have missed a run; empty if it did not.
        is_complete: whether it missed no run, and the API answered for the runs that it did not show.
        from_start: whether one process has read it from the beginning, not from a checkpoint.
        met: how many different runs it showed.
        count: the API's last count; None if it sends none.
        hint: what to do about the doubt if another pass would not help.
    """

    began: datetime
    order: Order | None
    window: Window = EVERYTHING
    doubt: str = ""
    is_complete: bool = True
    from_start: bool = False
    met: int = 0
    count: int | None = None
    hint: str = ""

    @property
    def moved(self) -> bool:
        """Whether the pass missed no run, but showed more than the API counts: some were removed in the meantime."""
        return self.from_start and not self.doubt and self.count not in (None, self.met)


async def read_all(
    io: StreamIO,
    *,
    order: Order | None = None,
    window: Window = EVERYTHING,
    resumes: bool = False,
    is_sorted: bool = False,
) -> Crawled:
    """Read a listing until a pass is complete or no further pass is allowed.

    After each pass, runs of the warehouse that the pass did not show are looked up.

    Args:
        io: the stream.
        order: the order of the listing as last observed.
        window: the creation times to read.
        resumes: whether to resume at the checkpoint of an earlier process, and to save checkpoints in the first pass.
        is_sorted: whether the listing is known to be sorted by creation, newest first.

    Returns:
        What the last pass has shown.
    """
    resumed = _saved_checkpoint(io.store) if resumes else None
    passes, before = 0, None
    while True:
        crawl = Crawl(io, order, window, resumed=resumed, saves=resumes, is_sorted=is_sorted)
        result = await crawl.read()
        if result is not None:
            passes += 1
            shown = (result.doubt, result.met, result.count)
            pages = -(-(result.count or 0) // io.listing.paging.usual)
            # If a pass showed the same as the one before, so would the next.
            if result.is_complete or shown == before or passes >= passes_allowed(pages):
                has_no_links = io.listing.paging.aligned or result.order in (None, Order.NONE) or shown == before
                hint = UNPROVABLE_HINT if result.doubt == UNLINKED and has_no_links else ""
                return replace(result, hint=TWINS_HINT if io.intake.doubt == TWINS else hint)
            before, resumes = shown, False
        order, resumed = crawl.order, None


async def read_slice(io: StreamIO, window: Window) -> Crawled | None:
    """Read a slice of a listing; return None if the listing turns out not to allow slices.

    It must be sorted by creation, newest first, its pages must overlap, and all runs must have a creation time.
    """
    paging = io.listing.paging
    if paging.aligned:
        return None
    order = Order.CREATED_DESC
    result = await read_all(io, order=order, window=window, is_sorted=True)
    return result if result.order is order and not paging.aligned and not io.intake.has_undated else None


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
        order: the order of the listing as observed.
    """

    _seen: Seen

    def __init__(
        self,
        io: StreamIO,
        order: Order | None,
        window: Window,
        *,
        resumed: Checkpoint | None,
        saves: bool,
        is_sorted: bool,
    ) -> None:
        self.order = order if resumed is None else resumed.order
        self._listing, self._intake, self._store = io.listing, io.intake, io.store
        now = io.store.state.read_at
        self._began = (resumed and resumed.began) or now
        self._window = window
        self._resumed = resumed
        self._saves = saves
        self._met = 0
        self._may_expire = saves and resumed is None  # whether runs at the end may be about to be removed
        self._distance = self._listing.paging.distance
        self._observer = OrderObserver(self._distance)
        self._order_is_given = is_sorted
        self._order_is_proven = is_sorted  # or by the pages read by bisection
        self._first: Sequence[Listed] = ()
        self._last: Sequence[Listed] = ()
        self._behind: set[str] = set()  # the items behind the window

    async def read(self) -> Crawled | None:
        """Read the listing; return None if the position of the checkpoint was not found."""
        await self._intake.begin()
        self._seen = await self._store.begin_pass(self._window)
        main = await self._main_pass()
        if self._resumed is not None and not main.pages:
            return None
        doubt = verdict(await self._evidence(main)) or self._intake.doubt
        settled = self._resumed is not None or await self._settle_unseen(complete=not doubt)
        await self._seen.forget()
        return Crawled(
            self._began,
            self.order,
            self._window,
            doubt or self._intake.doubt,  # of a run that could not be looked up
            is_complete=settled and not doubt,
            from_start=self._resumed is None,
            met=self._met,
            count=self._listing.count,
        )

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
                is_out_of_order = self._order_is_given and not self._observer.agrees_with(Order.CREATED_DESC)
                # An item may be `distance` places from its sorted position: behind fewer, one of the window may follow.
                if is_out_of_order or len(self._behind) > self._distance:
                    reading.stop()
                elif self._may_expire:
                    self._may_expire = False
                    with suppress(PageTooLargeError):
                        await self._fetch_expiring(reading)
        self.order = self._observer.order or (self.order if self._order_is_given else start.order)
        return reading

    async def _load(self, pages: Sequence[Page], main: Pass[Page] | None = None) -> list[Listed]:
        """Commit pages and note that their items were seen; commit those of the main pass with their checkpoint."""
        found = await self._intake.classify(pages)
        if main is not None:
            for items in found.pages:
                self._observer.watch(items)
                self._first, self._last = self._first or items, items or self._last
            self.order = self._observer.order or self.order
            if self._saves and main.linked and main.token is None:
                here = replace(main.checkpoint(), order=self.order, newest=self._intake.newest, began=self._began)
                found.batch.cursor = msgspec.json.encode(here).decode()
        await self._intake.load(found)
        listed = [item for items in found.pages for item in items]
        self._met += await self._seen.note([item.key for item in listed])
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
        if not self._window.is_bounded or (self.order is not None and not self.order.by_creation):
            return 0
        first = Span(1, paging.usual)
        page = await self._listing.read_ahead(first)
        paging.observe(first, answer_of(page))
        probed = {0: self._intake.peek(page)}
        order, count = Order.CREATED_DESC if self._order_is_given else order_of(probed[0]), self._listing.count
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
        return set(self._window.sides(items, order, is_proven=True).values()) == {IN_FRONT}

    async def _evidence(self, main: Pass[Page]) -> Evidence:
        """Return what the pass has shown; read the newest end again if new runs may have been created there."""
        first, last = (self._sides(items).values() for items in (self._first, self._last))
        counts = self._resumed is None and not self._window.is_bounded
        evidence = Evidence.of(
            main,
            begun=main.start == 0 or IN_FRONT in first,
            resumed=self._resumed is not None,
            met=self._met if counts else None,
            newest_first=self.order is Order.CREATED_DESC and tie_ends(self._first),
        )
        ends_before_now = BEHIND in last if self.order is Order.CREATED_ASC else IN_FRONT in first
        look = None if evidence.pages == 1 or ends_before_now else closing_pass(main, self.order)
        if look is None:
            return evidence
        async with aclosing(self._listing.pages(look)) as batches:
            async for pages in batches:
                await self._load(pages)
        return evidence.closed_by(look, self._met if counts else None)

    def _sides(self, items: Sequence[Listed]) -> dict[str, int]:
        """Return on which sides of a bounded window items are; nothing unless the order of the listing is certain."""
        if not self._window.is_bounded or not (self._observer.has_enough or self._order_is_proven):
            return {}
        is_proven = self._observer.is_by_creation or self._order_is_proven
        return self._window.sides(items, self.order, is_proven=is_proven)

    async def _settle_unseen(self, *, complete: bool) -> bool:
        """Look up the warehouse's runs that the pass did not show; return whether it still counts as complete."""
        settled = await settle_unseen(self._intake, await self._seen.unseen_runs(), complete=complete)
        if complete:
            elsewhere = await self._seen.unseen_elsewhere(LOOKED_UP)
            await settle_unseen_elsewhere(self._listing, self._intake, elsewhere)
        if complete and not self._window.is_bounded:
            await self._store.drop_rejects(await self._seen.unseen_rejects())
        return settled
