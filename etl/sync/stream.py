"""One stream, top to bottom: read what may have changed, settle open runs, compare the counts, write down the state."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from etl.events import StreamFinished, StreamStarted
from etl.plan import (
    MAX_PASSES,
    Order,
    OrderObserver,
    WindowSearch,
    head_is_met,
    list_by_status,
    window_is_passed,
)
from etl.sync.crawl import Crawl, find_gone, look_up
from etl.sync.intake import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etl.api.pages import Page
    from etl.db.store import Store
    from etl.events import Listener, StreamId
    from etl.plan import Listed
    from etl.sync.intake import Intake
    from etl.sync.listing import Listing

Mode = Literal["sync", "backfill", "reconcile"]


@dataclass(frozen=True, slots=True)
class Task:
    """What an invocation wants of each stream. `since` and `until` bound a backfill by creation."""

    mode: Mode
    lookback: timedelta = timedelta(hours=1)
    reconcile_every: timedelta = timedelta(hours=24)
    since: datetime | None = None
    until: datetime | None = None

    @property
    def windowed(self) -> bool:
        """Whether only a window of the history is asked for."""
        return self.since is not None or self.until is not None


@dataclass(slots=True)
class Outcome:
    """How a stream ended: succeeded, partial, failed, interrupted or skipped; with the counts compared."""

    stream: StreamId
    status: str
    api_count: int | None = None
    warehouse_count: int | None = None
    error: str = ""
    mend: str = ""
    tally: Tally = field(default_factory=Tally)


def reconcile_is_due(every: timedelta, last: datetime | None) -> bool:
    """Whether a sync should read everything; `every` 0 never."""
    return bool(every) and (last is None or datetime.now(UTC) - last >= every)


class StreamSync:
    """Brings one locked stream up to date.

    Args:
        task: what is asked for.
        listing: the source side.
        intake: takes pages in.
        store: the warehouse side.
        listener: hears of start and end.
    """

    def __init__(self, task: Task, listing: Listing, intake: Intake, store: Store, listener: Listener) -> None:
        self._task = task
        self._listing = listing
        self._intake = intake
        self._store = store
        self._listener = listener
        self._order = Order(store.state.listing_order) if store.state.listing_order else None
        self._reconciled = False
        self._backfilled = False

    async def run(self) -> Outcome:
        """Do it.

        Returns:
            The outcome, succeeded or partial.

        Raises:
            EtlError: the stream cannot go on.
        """
        self._listener(StreamStarted(self._store.stream, self._store.state.api_count))
        if self._task.windowed:
            return await self._window()
        due = reconcile_is_due(self._task.reconcile_every, self._store.state.last_reconciled_at)
        if self._task.mode == "sync" and self._store.state.backfill_done and not due:
            if not await self._head():
                await self._whole()
            else:
                await self._settle_open()
        else:
            await self._whole()
        outcome = await self._compare()
        await self._store.remove_due_payloads()
        return outcome

    async def _whole(self) -> None:
        """Read all that the API lists; a history load that was cut off goes on where it stopped."""
        history = not self._store.state.backfill_done
        reading = await Crawl(self._listing, self._intake, self._store, checkpoints=history).read()
        self._order = reading.order or self._order
        self._backfilled = True
        self._reconciled = self._reconciled or (reading.quiet and (reading.whole or history))

    async def _head(self) -> bool:
        """Read the end of the listing where news show, until known ground.

        Returns:
            Whether that was safe; False asks for the whole listing.
        """
        self._seen: set[str] = set()
        if self._order is Order.CREATED_ASC:
            return await self._tail()
        if self._order is None or not self._order.newest_first:
            return False
        for _ in range(MAX_PASSES):
            met = await self._down_from_top(self._order)
            if met is not None:
                return met
        return False

    async def _down_from_top(self, order: Order) -> bool | None:
        """Read down from the first page; None where a run was removed meanwhile, so that pages slid up unseen."""
        observer, number, count = OrderObserver(), 1, None
        while True:
            page = await self._listing.page(number)
            items = await self._take(page)
            if count is not None and page.count is not None and page.count < count:
                return None
            count = page.count
            observer.watch(items)
            if not observer.agrees_with(order):
                return False
            met = head_is_met(
                items,
                order,
                page=number,
                watermark=self._store.state.watermark,
                lookback=self._task.lookback,
            )
            if met or not self._listing.extent.wants(number + 1):
                return True
            number += 1

    async def _tail(self) -> bool:
        """Read an oldest-first listing from its end, upwards until known ground."""
        before = self._store.state.api_count
        if not before:
            return False
        start = max(1, -(-before // self._listing.take))
        tail: list[Listed] = []
        number = start
        while True:
            page = await self._listing.page(number)
            if number == start and (not page.items or page.take != self._listing.take):
                return False
            tail += await self._take(page)
            if not self._listing.extent.wants(number + 1):
                break
            number += 1
        number, edge = start, list(tail)
        while True:
            observer = OrderObserver()
            observer.watch(edge)
            if not observer.agrees_with(Order.CREATED_ASC):
                return False
            first = 1 if number == start else 2
            mark, lookback = self._store.state.watermark, self._task.lookback
            if number == 1 or head_is_met(edge[::-1], Order.CREATED_ASC, page=first, watermark=mark, lookback=lookback):
                return True
            number -= 1
            edge = list(await self._take(await self._listing.page(number)))

    async def _take(self, page: Page) -> Sequence[Listed]:
        sorted_ = await self._intake.sort([page])
        await self._intake.load(sorted_)
        self._seen.update(sorted_.idents)
        return sorted_.pages[0]

    async def _settle_open(self) -> None:
        """Bring every run that was open in the warehouse, and did not show in the pages read, to its present state."""
        unseen = {run: status for run, status in (await self._store.open_runs()).items() if run not in self._seen}
        by_status: dict[str, int] = {}
        for status in unseen.values():
            by_status[status] = by_status.get(status, 0) + 1
        for status in sorted(list_by_status(by_status, self._listing.take)):
            async for pages in self._listing.filtered(status).pages():
                sorted_ = await self._intake.sort(pages)
                await self._intake.load(sorted_)
                self._seen.update(sorted_.idents)
        await look_up(self._listing, self._intake, [run for run in unseen if run not in self._seen])

    async def _compare(self) -> Outcome:
        """Compare the API's count with the warehouse's; where they differ, find out why before giving up."""
        ours = await self._store.count()
        if self._disagrees(ours):
            await self._intake.load(await self._intake.sort([await self._listing.page(1)]))
            ours = await self._store.count()
        if self._disagrees(ours):
            fewer = (self._listing.count or 0) < ours
            found = fewer and await find_gone(self._listing, self._intake, self._store, self._order)
            if not found and not self._reconciled:
                await self._whole()
            ours = await self._store.count()
        return await self._finish(ours)

    def _disagrees(self, ours: int) -> bool:
        return self._listing.count is not None and self._listing.count != ours

    async def _finish(self, ours: int) -> Outcome:
        agrees = not self._disagrees(ours)
        count = self._listing.count
        error = None if agrees else f"the API counts {count} runs, the warehouse {ours}"
        mend = "" if agrees else f"cortex-etl reconcile --workflow {self._store.stream.workflow_id}"
        await self._store.finish(
            watermark=self._intake.newest if agrees else None,
            backfilled=self._backfilled,
            reconciled=self._reconciled and agrees,
            api_count=count,
            order=self._order,
            error=None if agrees else f"{error}; run: {mend}",
        )
        status = "succeeded" if agrees else "partial"
        self._listener(StreamFinished(self._store.stream, status, count, ours, error or "", mend))
        return Outcome(self._store.stream, status, count, ours, error or "", mend, self._intake.tally)

    async def _window(self) -> Outcome:
        """Load a window of the history: find its first page by bisection, read on to its end."""
        since, until = self._task.since, self._task.until
        for _ in range(MAX_PASSES):
            order, start = await self._find_window(since, until)
            counts: set[int | None] = set()
            async with aclosing(self._listing.pages(start)) as reading:
                async for pages in reading:
                    sorted_ = await self._intake.sort(pages)
                    await self._intake.load(sorted_)
                    counts.update(page.count for page in pages)
                    if any(window_is_passed(items, order, since=since, until=until) for items in sorted_.pages):
                        break
            if len(counts) <= 1:
                break
        ours = await self._store.count()
        self._listener(StreamFinished(self._store.stream, "succeeded", self._listing.count, ours))
        return Outcome(self._store.stream, "succeeded", self._listing.count, ours, tally=self._intake.tally)

    async def _find_window(self, since: datetime | None, until: datetime | None) -> tuple[Order | None, int]:
        """The order by creation that the listing shows, and the page at which the window begins; (None, 1) if none."""
        sorted_ = await self._intake.sort([await self._listing.page(1)])
        await self._intake.load(sorted_)
        probes = {1: sorted_.pages[0]}
        observer = OrderObserver()
        observer.watch(sorted_.pages[0])
        order, pages = observer.order, self._listing.extent.pages
        if order is None or not order.by_creation or pages is None:
            return None, 1
        search = WindowSearch(order, pages, since=since, until=until)
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
