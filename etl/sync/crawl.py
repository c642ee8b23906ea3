"""Reading a whole listing, or a window of it: passes until one is complete, and what has gone."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from etl.plan import (
    EDGE,
    EVERYTHING,
    Checkpoint,
    Evidence,
    Order,
    OrderObserver,
    Pass,
    Span,
    closing_pass,
    expires_soon,
    meets,
    passes_allowed,
    tie_ends,
    verdict,
)
from etl.sync.gone import settle_unseen
from etl.sync.listing import answer_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from etl.api.pages import Page
    from etl.db.store import Store
    from etl.plan import Listed, Window
    from etl.sync.intake import Classified, Intake
    from etl.sync.listing import Listing


@dataclass(frozen=True, slots=True)
class Reading:
    """Result of reading a listing.

    Attributes:
        doubt: why a run may have been missed; empty where the last pass was complete.
        order: of the listing, as observed.
        whole: whether the last pass began at the first page.
        moved: whether it was complete, but showed more runs than the API counts: some were removed meanwhile.
        began: since when everything was read.
    """

    doubt: str
    order: Order | None
    whole: bool
    moved: bool
    began: datetime


class Crawl:
    """Reads a stream's whole listing, or a window of it, into the warehouse.

    Args:
        listing: the source side.
        intake: takes the pages in.
        store: the warehouse side.
        order: of the listing, as it was last observed.
        window: the creation times asked for.
        checkpoints: whether to write down how far the first pass came, for a later process to go on from.
    """

    def __init__(
        self,
        listing: Listing,
        intake: Intake,
        store: Store,
        *,
        order: Order | None = None,
        window: Window = EVERYTHING,
        checkpoints: bool = False,
    ) -> None:
        self._listing = listing
        self._intake = intake
        self._store = store
        self._order = order
        self._window = window
        self._checkpoints = checkpoints
        self._began = datetime.now(UTC)
        self._mark = 0
        self._met = 0
        self._observer = OrderObserver()
        self._probes: dict[Span, Page] = {}
        self._first: Sequence[Listed] = ()
        self._last: Sequence[Listed] = ()

    async def read(self) -> Reading:
        """Read until a pass is complete or no more are allowed; runs that it did not show are looked up."""
        resumed = self._checkpoint() if self._checkpoints else None
        passes, before = 0, None
        while True:
            self._mark = await self._store.session.begin_pass()
            try:
                main = await self._main_pass(resumed)
                if resumed is None or main.pages:  # otherwise the place of the checkpoint was not found: start over
                    passes += 1
                    evidence = await self._evidence(main, is_resumed=resumed is not None)
                    doubt = verdict(evidence)
                    settled = resumed is not None or await self._settle_unseen(complete=not doubt)
                    pages = -(-(self._listing.count or 0) // self._listing.paging.size)
                    # A pass that shows the same as the one before it would only be repeated.
                    if (not doubt and settled) or evidence == before or passes >= passes_allowed(pages):
                        is_moved = not doubt and self._listing.count not in (None, self._met)
                        return Reading(doubt, self._order, resumed is None, is_moved, self._began)
                    before = evidence
            finally:
                await self._store.session.end_pass(self._mark)
            resumed, self._checkpoints = None, False

    def _checkpoint(self) -> Checkpoint | None:
        """Return how far an earlier process came; None where there is nothing, or nothing that can be read."""
        text = self._store.state.backfill_cursor
        if text is None:
            return None
        try:
            return msgspec.json.decode(text, type=Checkpoint)
        except msgspec.ValidationError:
            return None

    async def _main_pass(self, resumed: Checkpoint | None) -> Pass[Page]:
        """Read the listing once, committing batch by batch."""
        self._met, self._observer, self._first, self._last = 0, OrderObserver(), (), ()
        paging, ahead = self._listing.paging, self._listing.window
        if resumed is None:
            reading: Pass[Page] = Pass(paging, ahead=ahead, position=await self._start())
        else:
            reading = Pass(
                paging,
                ahead=ahead,
                position=resumed.position,
                first=resumed.first,
                last=resumed.last,
                count=resumed.count,
                tail=resumed.tail,
            )
            self._order, self._began = resumed.order, resumed.began or self._began
            self._intake.note_time(resumed.newest)
        async with aclosing(self._listing.pages(reading, self._probes)) as batches:
            async for pages in batches:
                found = await self._take(pages, reading)
                if self._window.ends_before(self._last, self._order):
                    reading.stop()
                elif reading.pages == 1 and self._checkpoints and resumed is None:
                    await self._rescue(reading, found)
        self._probes.clear()
        self._order = self._observer.order or (None if resumed is None else resumed.order)
        return reading

    async def _take(self, pages: Sequence[Page], reading: Pass[Page]) -> Classified:
        """Commit consecutive pages of a pass, with the checkpoint that covers them."""
        found = await self._intake.classify(pages)
        for items in found.pages:
            self._observer.watch(items)
            self._first = self._first or items
            self._last = items or self._last
        self._order = self._observer.order or self._order
        if self._checkpoints and reading.linked and reading.token is None:
            found.batch.cursor, found.batch.moves_cursor = self._cursor(reading), True
        await self._intake.load(found)
        await self._note(found)
        return found

    async def _note(self, found: Classified) -> None:
        self._met += await self._store.session.note_seen(self._mark, found.keys)

    def _cursor(self, reading: Pass[Page]) -> str:
        point = Checkpoint(
            position=reading.end,
            last=reading.last[-EDGE:],
            first=reading.first[:EDGE],
            count=reading.count,
            order=self._order,
            newest=self._intake.newest,
            tail=reading.tail,
            began=self._began,
        )
        return msgspec.json.encode(point).decode()

    async def _rescue(self, reading: Pass[Page], head: Classified) -> None:
        """Fetch the far end of a newest-first history ahead, as far as its runs are about to leave the API."""
        spans = reading.spans_ahead()
        if self._order is not Order.CREATED_DESC or len(spans) < 2:
            return
        is_due = any(rows.retention_due_at for rows in head.batch.new)
        for span in spans[: -len(spans) // 4 : -1]:
            page = await self._listing.read(span) if is_due else None
            if page is None or page.count is None or page.count != reading.count:
                return
            keys = answer_of(page).keys
            if span.start + len(keys) < page.count if reading.tail is None else not meets(keys, reading.tail[1]):
                return
            found = await self._intake.classify([page])
            await self._intake.load(found)
            await self._note(found)
            reading.tail = (span.start, keys[:EDGE])
            is_due = expires_soon([rows.retention_due_at for rows in found.batch.new], datetime.now(UTC))

    async def _start(self) -> int:
        """Return the position to begin at: 0, or where the window begins in a listing sorted by creation."""
        if not self._window.is_bounded:
            return 0
        paging, places = self._listing.paging, {}
        first = Span(1, paging.size)
        places[0] = await self._probe(first)
        paging.observe(first, answer_of(self._probes[first]))
        order, count = _order_of(places), self._listing.count
        if order is None or not order.by_creation or count is None or paging.aligned:
            return 0
        spans = [Span(1, paging.size)]
        while spans[-1].end < count:
            spans.append(paging.next(spans[-1].end))
        low, high = 0, len(spans) - 1
        while low < high:
            middle = (low + high) // 2
            if middle not in places:
                places[middle] = await self._probe(spans[middle])
            low, high = (middle + 1, high) if self._window.begins_behind(places[middle], order) else (low, middle)
        if low not in places:
            places[low] = await self._probe(spans[low])
        if low and not self._window.begins_after(places[low], order):
            low -= 1
        return spans[low - 1].end if low and _order_of(places) is order else 0

    async def _probe(self, span: Span) -> Sequence[Listed]:
        """Read a page before its turn; it is taken in when the pass comes to it."""
        self._probes[span] = await self._listing.read(span)
        return self._intake.peek(self._probes[span])

    async def _evidence(self, main: Pass[Page], *, is_resumed: bool) -> Evidence:
        """Read the newest end once more where the order tells it, and put together what the pass showed."""
        window, order, look = self._window, self._order, None
        begun = main.began == 0 or window.begins_after(self._first, order)
        passed = window.ends_before(self._last, order)
        is_single = main.pages == 1 and not is_resumed
        beyond = passed if order is Order.CREATED_ASC else window.begins_after(self._first, order)
        if not is_single and not beyond:
            look = closing_pass(main, order)
        if look is not None:
            await self._look(look)
        counts = main.counts | (look.counts if look is not None else set())
        return Evidence(
            pages=1 if is_single else max(main.pages, 2),
            begun=begun or is_resumed,
            ended=main.ended,
            linked=main.linked,
            met=None if is_resumed or window.is_bounded else self._met,
            count=(look or main).count,
            same_count=len(counts) == 1,
            newest_linked=None if look is None else look.linked and (look.joined or order is Order.CREATED_ASC),
            newest_same=look is not None and look.first == main.first,
            newest_first=order is Order.CREATED_DESC and not is_resumed and tie_ends(self._first),
        )

    async def _look(self, look: Pass[Page]) -> None:
        async with aclosing(self._listing.pages(look)) as batches:
            async for pages in batches:
                found = await self._intake.classify(pages, again=True)
                if not self._store.is_dry_run:
                    await self._intake.load(found)
                await self._note(found)

    async def _settle_unseen(self, *, complete: bool) -> bool:
        """Look up the warehouse's runs that the pass did not meet; return whether nothing speaks against it."""
        store, session, window = self._store, self._store.session, self._window
        unseen = await session.unseen_runs(store.stream, self._mark, store.filters, window)
        settled = await settle_unseen(self._listing, self._intake, unseen, complete=complete)
        if complete and not window.is_bounded:
            await store.drop_rejects(await session.unseen_rejects(store.stream, self._mark))
        return settled


def _order_of(places: Mapping[int, Sequence[Listed]]) -> Order | None:
    """Return the order that pages at some places of a listing show."""
    observer = OrderObserver()
    for place in sorted(places):
        observer.watch(places[place])
    return observer.order
