"""Reading a whole listing: passes until one that proves itself complete, and what has gone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import TYPE_CHECKING

import msgspec

from etl.decode import peek_id
from etl.plan import (
    Checkpoint,
    Listed,
    Order,
    OrderObserver,
    Pass,
    expires_soon,
    pages_to_rescue,
    passes_allowed,
    tie_fits,
)
from etl.plan.checkpoint import ANCHORS
from etl.sync.gone import look_up
from etl.sync.resume import Resumption, resume

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etl.api.pages import Page
    from etl.db.store import Store
    from etl.sync.intake import Intake, Sorted
    from etl.sync.listing import Listing


@dataclass(frozen=True, slots=True)
class Reading:
    """What a crawl of the whole listing came to.

    `settled` says that it proved itself complete; `whole`, that its last pass began at the first page; `began` is since
    when all that it stands for was read.
    """

    settled: bool
    order: Order | None
    whole: bool
    began: datetime


class _Proof(IntEnum):
    """What passes have proved: nothing, that every listed run was met, or that they are one consistent picture."""

    NONE = 0
    ALL_MET = 1
    PICTURE = 2


@dataclass(slots=True)
class _Ends:
    """The two ends of a listing as a pass met them: its first two pages, its last two, and the last item beforehand."""

    head: list[Listed] = field(default_factory=list)
    head_size: int = 0
    tail: list[Listed] = field(default_factory=list)
    tail_size: int = 0
    edge: str | None = None
    edge_is_late: bool = False
    after_edge: int | None = None

    def watch(self, items: Sequence[Listed], *, adjacent: bool = True) -> None:
        if not items:
            return  # the page behind the last one
        if not self.head_size or (adjacent and len(self.head) <= self.head_size):
            self.head.extend(items)
        self.head_size = self.head_size or len(items)
        self.tail = [*self.tail[len(self.tail) - self.tail_size :], *items]
        self.tail_size = len(items)
        for item in items:
            if item.ident == self.edge:
                self.after_edge = 0
            elif self.after_edge is not None:
                self.after_edge += 1

    @property
    def first(self) -> list[str]:
        return [item.ident for item in self.head[: self.head_size]]

    def anchored(self, order: Order | None) -> bool:
        """Whether whatever arrives must show at the end that is looked at."""
        if order is Order.CREATED_ASC:
            return tie_fits(self.tail[::-1], order, self.tail_size)
        return order is not None and order.newest_first and tie_fits(self.head, order, self.head_size)


class Crawl:
    """Reads a stream's whole listing into the warehouse.

    Args:
        listing: the source side.
        intake: takes the pages in.
        store: the warehouse side.
        order: of the listing, as it was last observed.
        checkpoints: whether to write down how far the first pass came, for a later process to go on from.
    """

    def __init__(
        self, listing: Listing, intake: Intake, store: Store, *, order: Order | None = None, checkpoints: bool = False
    ) -> None:
        self._listing = listing
        self._intake = intake
        self._store = store
        self._checkpoints = checkpoints
        self._order = order
        self._began = datetime.now(UTC)
        self._marks: list[int] = []

    async def read(self) -> Reading:
        """Read until a pass proves itself complete, mark what has gone, and tell how it went."""
        resumed = await resume(self._listing, self._intake, self._store) if self._checkpoints else None
        if resumed is not None and resumed.point.began is not None:
            self._began = resumed.point.began
        before: Pass | None = None
        steady_count = True
        try:
            while True:
                result = await self._one_pass(resumed if before is None else None)
                repeated = before is not None and before.fingerprint == result.fingerprint
                steady_count = steady_count and set(result.counts.values()) == {self._listing.count}
                proof = await self._proof(result, repeated=repeated, steady_count=steady_count)
                if proof or len(self._marks) >= passes_allowed(self._listing.extent.pages or 1):
                    if result.whole:
                        await self._settle_unseen(proof, repeated=repeated)
                    return Reading(bool(proof), self._order, result.whole, self._began)
                before = result
        finally:
            for mark in self._marks:
                await self._store.session.end_pass(mark)

    async def _proof(self, result: Pass, *, repeated: bool, steady_count: bool) -> _Proof:
        """What the pass proves, together with those before it."""
        if result.conclusive:
            return _Proof.PICTURE
        if repeated and result.whole:
            return _Proof.PICTURE if result.quiet else _Proof.ALL_MET
        if result.quiet and result.whole and not result.news and not await self._unseen():
            return _Proof.PICTURE  # the second look at an unsorted listing, or at one without counts
        if await self._only_grew(result):
            return _Proof.PICTURE
        count = self._listing.count
        shuffled = self._order is Order.NONE and steady_count and count is not None and len(self._marks) > 1
        if shuffled and await self._count_seen(self._marks) == count:
            return _Proof.ALL_MET  # a listing in another order at each request
        return _Proof.NONE

    async def _one_pass(self, resumed: Resumption | None) -> Pass:
        self._marks.append(await self._store.session.begin_pass())
        first, checkpoints = len(self._marks) == 1, self._checkpoints and len(self._marks) == 1
        result, observer, ends, nameless = Pass(whole=resumed is None), OrderObserver(), _Ends(), Counter[bytes]()
        if resumed is not None:
            self._take_over(resumed, result, ends, observer)
        elif not first:
            self._listing.tail = None
            await self._note_edge(ends)
        start, token = (1, None) if resumed is None else (resumed.start, resumed.point.token)
        last_page = start - 1
        async for pages in self._listing.pages(start, token):
            sorted_ = await self._intake.sort(pages, nameless)
            result.news += sorted_.news
            for items in sorted_.pages:
                observer.watch(items)
                ends.watch(items, adjacent=resumed is None)
            await self._note(result, pages, sorted_)
            last_page = pages[-1].number
            if checkpoints:
                self._checkpoint(sorted_, result, ends, pages[-1], observer.order)
            await self._intake.load(sorted_)
            if last_page == 1:
                self._order = observer.order or self._order
                if checkpoints:
                    await self._rescue(result, sorted_)
                if first and ends.edge is None:
                    await self._note_edge(ends)
                    ends.edge_is_late = True
        self._order = observer.order or (resumed.point.order if resumed is not None else None)
        if len(result.counts) > 1 or resumed is not None:
            await self._close(result, ends)
        result.anchored = ends.anchored(self._order)
        return result

    def _take_over(self, resumed: Resumption, result: Pass, ends: _Ends, observer: OrderObserver) -> None:
        """Begin a pass where an earlier process was cut off."""
        point = resumed.point
        result.base = self._listing.count
        observer.watch(resumed.head)
        ends.watch(resumed.head)
        ends.edge = point.edge
        if point.tail is not None and point.count is not None:
            self._listing.tail = (point.tail, point.count)
        if point.newest is not None:
            self._intake.newest = max(point.newest, self._intake.newest or point.newest)

    async def _note(self, result: Pass, pages: Sequence[Page], sorted_: Sorted) -> None:
        """Count the items of pages, each once: the same run twice on one page is no sign of movement."""
        told = [list(dict.fromkeys(item.ident for item in items)) for items in sorted_.pages]
        fresh = await self._store.session.note_seen(self._marks[-1], *told)
        for page, idents, new in zip(pages, told, fresh, strict=True):
            result.observe(page.number, page.count, idents, new)

    async def _note_edge(self, ends: _Ends) -> None:
        """Look which item is the last of an oldest-first listing before the rest of it is read."""
        count = self._listing.count
        if self._order is Order.CREATED_ASC and count and not self._listing.by_token:
            page = await self._listing.probe(count)
            if page.count == count and len(page.items) == 1:
                ends.edge = peek_id(page.items[0])

    async def _rescue(self, result: Pass, head: Sorted) -> None:
        """Fetch the far end of a newest-first history ahead, as far as its runs are about to leave the API."""
        pages, count = self._listing.extent.pages, self._listing.count
        if pages is None or pages < 3 or count is None or self._order is not Order.CREATED_DESC:
            return
        expiring = any(rows.retention_due_at for rows in head.batch.new)
        for number in range(pages, pages - pages_to_rescue(pages), -1):
            if not expiring or self._listing.count != count or self._listing.by_token:
                return
            page = await self._listing.page(number)
            sorted_ = await self._intake.sort([page])
            expiring = expires_soon([rows.retention_due_at for rows in sorted_.batch.new], datetime.now(UTC))
            await self._intake.load(sorted_)
            await self._note(result, [page], sorted_)
            self._listing.tail = (number, count)

    async def _close(self, result: Pass, ends: _Ends) -> None:
        """Look at the newest end once more: what was created meanwhile shows there."""
        before, first = self._listing.count, ends.first
        if self._order is Order.CREATED_ASC:
            result.arrived = ends.after_edge
            if ends.edge_is_late and [peek_id(raw) for raw in (await self._listing.page(1)).items] != first:
                result.arrived = None
            return
        probe = await self._listing.probe()
        if probe.count == before and [peek_id(raw) for raw in probe.items[:1]] == first[:1]:
            result.arrived = 0
            return
        above: set[str] = set()
        async for page in self._listing.walk():
            sorted_ = await self._intake.sort([page])
            await self._intake.load(sorted_)
            await self._store.session.note_seen(self._marks[-1], sorted_.idents)
            for ident in sorted_.idents:
                if ident in first:
                    result.arrived = len(above)
                    return
                above.add(ident)
        result.arrived = len(above)

    async def _only_grew(self, result: Pass) -> bool:
        """Whether what was created meanwhile explains all movement; reads gaps left by parallel reading again."""
        count = self._listing.count
        if count is None or self._order is None or not result.only_grew(count):
            return False
        for number in result.gaps(self._order, self._listing.extent.take, count):
            sorted_ = await self._intake.sort([await self._listing.page(number)])
            await self._intake.load(sorted_)
            await self._store.session.note_seen(self._marks[-1], sorted_.idents)
            if self._listing.count != count:
                return False
        return not result.whole or await self._count_seen(self._marks[-1:]) == count

    async def _count_seen(self, marks: Sequence[int]) -> int:
        """How many items some passes met for sure: one more of equal items without ids may be the same, met again."""
        return await self._store.session.count_seen(marks, [key.hex() for key in self._intake.copies])

    async def _unseen(self, *, anywhere: bool = False) -> list[str]:
        marks = self._marks if anywhere else self._marks[-1:]
        return await self._store.session.unseen_runs(self._store.stream, marks, self._store.filters)

    async def _settle_unseen(self, proof: _Proof, *, repeated: bool) -> None:
        """Mark the warehouse's runs that the pass did not meet; one by one where the pass alone does not prove it."""
        shuffled = proof is not _Proof.PICTURE and self._order is Order.NONE
        if proof is _Proof.PICTURE and self._store.filters == ("ALL", "ALL"):
            await self._intake.mark_gone(await self._unseen())
        else:
            # Of a shuffled listing a single pass shows too little to go by.
            unsettled = await look_up(self._listing, self._intake, await self._unseen(anywhere=shuffled))
            if proof is _Proof.PICTURE:
                await self._intake.mark_gone(unsettled.unasked)
            if proof:
                # All that is listed was met; of a shuffled listing no further pass would tell more.
                await self._intake.mark_gone(unsettled.unnamed + (unsettled.unanswered if shuffled else []))
        if proof is not _Proof.PICTURE:
            await self._intake.drop_copies(earlier=shuffled)
        if proof or repeated:
            session = self._store.session
            # Without a picture or a repetition, it is all passes together that met everything.
            marks = self._marks[-1:] if proof is _Proof.PICTURE or repeated else self._marks
            await self._store.drop_rejects(await session.unseen_rejects(self._store.stream, marks))

    def _checkpoint(self, sorted_: Sorted, result: Pass, ends: _Ends, page: Page, order: Order | None) -> None:
        """Let the batch carry how far the listing is committed with it."""
        slid = 0
        if not result.steady:
            newest_first = order is not None and order.newest_first
            if not newest_first or not result.growing or page.count is None or result.base is None:
                return
            slid = page.count - result.base
        idents = sorted_.idents
        if not ends.first or not idents:
            return
        point = Checkpoint(
            offset=page.number * self._listing.extent.take - slid,
            count=result.base,
            head=tuple(ends.first[:ANCHORS]),
            order=order or self._order,
            last=idents[-1],
            edge=ends.edge,
            newest=self._intake.newest,
            tail=self._listing.tail[0] if self._listing.tail is not None else None,
            token=page.next_token,
            began=self._began,
        )
        sorted_.batch.cursor = msgspec.json.encode(point).decode()
        sorted_.batch.moves_cursor = True
