"""Reading a whole listing: passes until a quiet one, checkpoints for a history load, and what has gone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from etl.decode import peek_id
from etl.errors import NotFoundError
from etl.plan import (
    Checkpoint,
    GoneSearch,
    Order,
    OrderObserver,
    Pass,
    expires_soon,
    pages_to_rescue,
    passes_allowed,
    resume_page,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etl.db.store import Store
    from etl.sync.intake import Intake, Sorted
    from etl.sync.listing import Listing

SEARCH_SHARE = 4
"""A search for gone runs gives up for a full pass once it has read a quarter of the listing."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a crawl of the whole listing came to.

    `quiet` says that its last pass is one consistent picture (or that all movement in it is explained).
    """

    quiet: bool
    order: Order | None
    whole: bool


class Crawl:
    """Reads a stream's whole listing into the warehouse.

    Args:
        listing: the source side.
        intake: takes the pages in.
        store: the warehouse side.
        checkpoints: whether to write down how far the first pass came, for a later process to go on from.
    """

    def __init__(self, listing: Listing, intake: Intake, store: Store, *, checkpoints: bool = False) -> None:
        self._listing = listing
        self._intake = intake
        self._store = store
        self._checkpoints = checkpoints
        self._order: Order | None = None
        self._head: list[str] = []

    async def read(self) -> Reading:
        """Read until a quiet pass, mark what has gone, and tell how it went."""
        start = await self._resume() if self._checkpoints else 1
        number = 0
        while True:
            number += 1
            mark = await self._store.session.begin_pass()
            try:
                result = await self._one_pass(mark, start, checkpoints=self._checkpoints and number == 1)
                explained = result.quiet or await self._only_grew(mark, result)
                if explained or number >= passes_allowed(self._listing.extent.pages or 1):
                    if result.whole:
                        await self._settle_unseen(mark, quiet=result.quiet)
                    return Reading(explained, self._order, result.whole)
            finally:
                await self._store.session.end_pass(mark)
            start = 1

    async def _one_pass(self, mark: int, start: int, *, checkpoints: bool) -> Pass:
        resumed = start > 1
        if not checkpoints:
            self._listing.tail = None
        result, observer = Pass(whole=not resumed, base=self._listing.count if resumed else None), OrderObserver()
        if not resumed:
            self._head = []
        last_page = start - 1
        async for pages in self._listing.pages(start):
            sorted_ = await self._intake.sort(pages)
            for page, items in zip(pages, sorted_.pages, strict=True):
                observer.watch(items)
                self._head = self._head or [item.ident for item in items]
                fresh = await self._store.session.note_seen(mark, [item.ident for item in items])
                result.observe(page.number, page.count, len(items), fresh)
            last_page = pages[-1].number
            if checkpoints:
                self._checkpoint(sorted_, result, last_page, observer.order)
            await self._intake.load(sorted_)
            if checkpoints and last_page == 1:
                await self._rescue(mark, result, sorted_)
        self._order = observer.order
        if last_page > 1:
            await self._close(mark, result, self._head)
        return result

    async def _rescue(self, mark: int, result: Pass, head: Sorted) -> None:
        """Fetch the far end of a newest-first history ahead, as far as its runs are about to leave the API."""
        pages, count = self._listing.extent.pages, self._listing.count
        falling = OrderObserver()
        falling.watch(head.pages[0])
        if pages is None or pages < 3 or count is None or falling.order is not Order.CREATED_DESC:
            return
        expiring = any(rows.retention_due_at for rows in head.batch.new)
        for number in range(pages, pages - pages_to_rescue(pages), -1):
            if not expiring or self._listing.count != count:
                return
            page = await self._listing.page(number)
            sorted_ = await self._intake.sort([page])
            expiring = expires_soon([rows.retention_due_at for rows in sorted_.batch.new], datetime.now(UTC))
            await self._intake.load(sorted_)
            fresh = await self._store.session.note_seen(mark, sorted_.idents)
            result.observe(number, page.count, len(page.items), fresh)
            self._listing.tail = (number, count)

    async def _close(self, mark: int, result: Pass, first: list[str]) -> None:
        """Look at the head once more: what was created meanwhile shows there, or shows that pages moved."""
        before = self._listing.count
        probe = await self._listing.probe()
        if probe.count == before and [peek_id(raw) for raw in probe.items[:1]] == first[:1]:
            return
        number = 1
        while True:
            page = await self._listing.page(number)
            sorted_ = await self._intake.sort([page])
            await self._intake.load(sorted_)
            idents = sorted_.idents
            await self._store.session.note_seen(mark, idents)
            if number == 1 and idents == first:
                return
            result.head_moved = True
            met = next((place for place, ident in enumerate(idents) if ident in first), None)
            result.arrived += len(idents) if met is None else met
            if met is not None or not self._listing.extent.wants(number + 1):
                return
            number += 1

    async def _only_grew(self, mark: int, result: Pass) -> bool:
        """Whether runs created at the head explain all movement; mends the gaps that reading in parallel left."""
        if not result.only_grew(self._order, self._listing.count):
            return False
        for number in result.gaps():
            page = await self._listing.page(number)
            sorted_ = await self._intake.sort([page])
            await self._intake.load(sorted_)
            await self._store.session.note_seen(mark, sorted_.idents)
        return True

    async def _settle_unseen(self, mark: int, *, quiet: bool) -> None:
        """Mark the warehouse's runs that the pass did not meet; one by one where the pass alone does not prove it."""
        status, origin = self._store.filters
        unseen = await self._store.session.unseen_runs(self._store.stream, mark, status, origin)
        if quiet and (status, origin) == ("ALL", "ALL"):
            await self._intake.mark_gone(unseen)
        else:
            await look_up(self._listing, self._intake, unseen)
        if quiet:
            await self._store.drop_rejects(await self._store.session.unseen_rejects(self._store.stream, mark))

    def _checkpoint(self, sorted_: Sorted, result: Pass, last_page: int, order: Order | None) -> None:
        """Let the batch carry how far the listing is committed with it."""
        latest = result.counts[last_page]
        slid = 0
        if not result.steady:
            if order is not Order.CREATED_DESC or not result.growing or latest is None or result.base is None:
                return
            slid = latest - result.base
        if not self._head:
            return
        point = Checkpoint(
            offset=last_page * self._listing.extent.take - slid,
            count=result.base,
            first=self._head[0],
            order=order or self._order,
            newest=self._intake.newest,
            tail=self._listing.tail[0] if self._listing.tail is not None else None,
        )
        sorted_.batch.cursor = msgspec.json.encode(point).decode()
        sorted_.batch.moves_cursor = True

    async def _resume(self) -> int:
        """Where an interrupted history load goes on; takes in what was created since."""
        text = self._store.state.backfill_cursor
        if text is None:
            return 1
        point = msgspec.json.decode(text, type=Checkpoint)
        arrived, number = 0, 1
        while True:
            page = await self._listing.page(number)
            sorted_ = await self._intake.sort([page])
            await self._intake.load(sorted_)
            idents = sorted_.idents
            self._head = self._head or idents
            if point.first in idents:
                arrived += idents.index(point.first)
                break
            arrived += len(idents)
            if not self._listing.extent.wants(number + 1) or arrived > point.offset:
                return 1
            number += 1
        self._order = point.order
        if point.tail is not None and point.count is not None:
            self._listing.tail = (point.tail, point.count)
        if point.newest is not None:
            self._intake.newest = max(point.newest, self._intake.newest or point.newest)
        start = resume_page(point, take=self._listing.extent.take, arrived=arrived, count=self._listing.count)
        return 1 if start == 1 else max(start, number)


async def look_up(listing: Listing, intake: Intake, ids: Sequence[str]) -> None:
    """Ask for runs one by one: take in their present state, or mark them gone."""
    gone: list[str] = []
    for run_id in ids:
        try:
            page = await listing.run(run_id)
        except NotFoundError:
            gone.append(run_id)
            continue
        await intake.load(await intake.sort([page]))
    await intake.mark_gone(gone)


async def find_gone(listing: Listing, intake: Intake, store: Store, order: Order | None) -> bool:
    """Mark the runs that left a listing sorted by creation, by bisection.

    Returns:
        Whether it found exactly as many as were missing. False where the order does not allow the search, the listing
        moved meanwhile, or reading it all is cheaper.
    """
    count = listing.count
    surplus = await store.count() - (count or 0)
    if order is None or not order.by_creation or count is None or store.filters != ("ALL", "ALL"):
        return False
    if await store.open_rejects() or await store.has_undated():
        return False
    search = GoneSearch(count=count, take=listing.extent.take, warehouse_count=surplus + count)
    budget = max(3, (listing.extent.pages or 1) // SEARCH_SHARE)
    listed: set[str] = set()
    while (number := search.next_page()) is not None:
        page = await listing.page(number)
        budget -= 1
        sorted_ = await intake.sort([page])
        if listing.count != count or budget < 0 or not all(item.known for item in sorted_.pages[0]):
            await intake.load(sorted_)
            return False
        listed.update(sorted_.idents)
        at = search.breaks(number, sorted_.pages[0])
        search.observe(number, at, 0 if at is None else await store.count_above(order, at[1]))
    gone: list[str] = []
    for stretch in search.suspects:
        missing = [run_id for run_id in await store.runs_in(order, stretch) if run_id not in listed]
        if len(missing) != stretch.surplus:
            return False
        gone.extend(missing)
    await intake.mark_gone(gone)
    return True
