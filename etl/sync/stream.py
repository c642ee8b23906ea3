"""One stream, top to bottom: read what may have changed, settle open runs, compare the counts, write down the state."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from etl.decode import REPLACEMENT
from etl.events import StreamFinished, StreamStarted
from etl.plan import Order, list_by_status
from etl.sync.crawl import Crawl, Reading
from etl.sync.gone import GoneHunt, look_up
from etl.sync.head import Head
from etl.sync.intake import Tally
from etl.sync.window import Window

if TYPE_CHECKING:
    from etl.db.store import Store
    from etl.events import Listener, StreamId
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
    hint: str = ""
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
        self._reading: Reading | None = None
        self._unanswered: list[str] = []

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
            await self._news()
        else:
            await self._whole()
        return await self._compare()

    async def _whole(self) -> None:
        """Read all that the API lists; a history load that was cut off goes on where it stopped."""
        history = not self._store.state.backfill_done and self._reading is None
        crawl = Crawl(self._listing, self._intake, self._store, order=self._order, checkpoints=history)
        self._reading = await crawl.read()
        self._order = self._reading.order or self._order
        self._unanswered = []
        if not self._reading.whole or self._store.filters != ("ALL", "ALL"):
            # Not met were those above the point where it went on, and those that pass the filter no more.
            await self._settle_open(set())

    async def _news(self) -> None:
        """Read what is new, and what was open; all of the listing where that is not enough."""
        head = Head(self._listing, self._intake, self._store, self._order, self._task.lookback)
        if not (await head.read() and await self._settle_open(head.seen)):
            await self._whole()

    async def _settle_open(self, seen: set[str]) -> bool:
        """Bring every run that was open in the warehouse and was not `seen` to its present state.

        Returns:
            Whether that could be done. By an id that was cleaned the API knows no run, and for another it may have no
            answer: of such only the whole listing tells.
        """
        unseen = {run: status for run, status in (await self._store.open_runs()).items() if run not in seen}
        statuses = list_by_status(Counter(unseen.values()), self._listing.take)
        statuses.update(status for run, status in unseen.items() if REPLACEMENT in run)
        for status in sorted(statuses):
            async for pages in self._listing.filtered(status).pages():
                sorted_ = await self._intake.sort(pages)
                await self._intake.load(sorted_)
                seen.update(sorted_.idents)
        unsettled = await look_up(self._listing, self._intake, [run for run in unseen if run not in seen])
        self._unanswered = unsettled.unanswered
        return not unsettled

    async def _compare(self) -> Outcome:
        """Compare the API's count with the warehouse's; where they differ, find out why before giving up."""
        ours = await self._store.count()
        if self._store.is_dry_run:
            return self._ended("succeeded", ours)
        if self._disagrees(ours) and self._reading is None:
            await self._news()
            ours = await self._store.count()
        if self._disagrees(ours) and (self._listing.count or 0) < ours and self._order is not None:
            await GoneHunt(self._listing, self._intake, self._store, self._order).find()
            ours = await self._store.count()
        if self._disagrees(ours) and not (self._reading and self._reading.settled and self._reading.whole):
            await self._whole()
            ours = await self._store.count()
        return await self._finish(ours)

    def _disagrees(self, ours: int) -> bool:
        return self._listing.count is not None and self._listing.count != ours

    async def _finish(self, ours: int) -> Outcome:
        count, reading, error = self._listing.count, self._reading, ""
        if self._unanswered:
            error = f"the API has no answer for the open run {self._unanswered[0]}"
        elif self._disagrees(ours):
            error = f"the API counts {count} runs, the warehouse {ours}"
        agrees = not error
        hint = "" if agrees else f"cortex-etl reconcile --workflow {self._store.stream.workflow_id}"
        await self._store.finish(
            watermark=self._intake.newest if agrees else None,
            backfilled=reading is not None,
            reconciled=reading.began if reading is not None and reading.settled and agrees else None,
            api_count=count,
            order=self._order,
            error=None if agrees else f"{error}; run: {hint}",
        )
        return self._ended("succeeded" if agrees else "partial", ours, error, hint)

    def _ended(self, status: str, ours: int, error: str = "", hint: str = "") -> Outcome:
        count = self._listing.count
        self._listener(StreamFinished(self._store.stream, status, count, ours, error, hint))
        return Outcome(self._store.stream, status, count, ours, error, hint, self._intake.tally)

    async def _window(self) -> Outcome:
        window = Window(self._listing, self._intake, self._store, since=self._task.since, until=self._task.until)
        settled = await window.read()
        ours = await self._store.count()
        if settled:
            return self._ended("succeeded", ours)
        return self._ended("partial", ours, "the listing kept moving while it was read", "Run the same command again.")
