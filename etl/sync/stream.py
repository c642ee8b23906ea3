"""The sync of one stream: read what may have changed, update open runs, compare the counts, record the state."""

from __future__ import annotations

import shlex
from collections import Counter
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple

from etl.db.session import StreamState  # noqa: TC001 - msgspec reads the annotations of an outcome
from etl.decode.json_text import REPLACEMENT
from etl.errors import NotFoundError, PageTooLargeError
from etl.events import StreamFinished, StreamId, StreamStarted
from etl.plan.order import Order
from etl.plan.passes import Pass
from etl.plan.slices import Reconciled, deadline, reconcile_is_due
from etl.plan.verdict import remedy
from etl.plan.window import EVERYTHING, Window
from etl.plurals import counted
from etl.sync.crawl import joint_pass, read_all
from etl.sync.gone import NOT_LISTED, find_gone, look_up
from etl.sync.head import read_head
from etl.sync.intake import Tally
from etl.sync.listing import answer_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Mapping

    from etl.api.pages import Page
    from etl.db.store import Store
    from etl.events import Listener
    from etl.plan.paging import Paging
    from etl.plan.slices import Allowance
    from etl.sync.crawl import Crawl
    from etl.sync.intake import Intake
    from etl.sync.listing import Listing

Mode = Literal["sync", "backfill", "reconcile"]


@dataclass(frozen=True, slots=True)
class Task:
    """What an invocation does with each stream; `window` limits a backfill to creation times."""

    mode: Mode
    lookback: timedelta = timedelta(hours=1)
    reconcile_every: timedelta = timedelta(hours=24)
    window: Window = EVERYTHING


@dataclass(slots=True)
class Outcome:
    """The result of a stream: succeeded, partial, failed, interrupted or skipped, with the counts that were compared.

    `state` is the state of the stream when it was locked; None if it was not locked.
    """

    stream: StreamId
    status: str
    api_count: int | None = None
    warehouse_count: int | None = None
    error: str = ""
    hint: str = ""
    tally: Tally = field(default_factory=Tally)
    state: StreamState | None = None


class Due(NamedTuple):
    """What a sync reads of a due reconcile.

    Attributes:
        window: EVERYTHING, or one slice; None if other streams have used up the share of this sync.
        pages: how many pages the reconcile still has to read.
        taken: how many of them this sync reads.
        start: how many runs precede the slice.
    """

    window: Window | None
    pages: int = 0
    taken: int = 0
    start: int = 0


async def due_part(store: Store, paging: Paging, allowance: Allowance, every: timedelta, now: datetime) -> Due | None:
    """Return what a sync reads of a stream's reconcile; None if none is due.

    A reconcile that takes more requests than are left of the share is read in slices, newest first. A listing that is
    not sorted by creation, newest first, or whose slices cannot be proved complete, is read as a whole.
    """
    state = store.state
    if not reconcile_is_due(every, state.last_reconciled_at, now):
        return None
    compared, left, undated = await store.reconciled()
    pages = max(1, -(-(left + undated) // paging.expected))
    end = deadline(every, state.last_reconciled_at, state.reconcile_began_at, now)
    taken = allowance.take(pages, interval=now - (state.last_synced_at or now), remaining=end - now)
    if not taken:
        return Due(None, pages)
    is_sorted = state.listing_order == Order.CREATED_DESC and state.api_count is not None and not undated
    if not is_sorted or store.filters != ("ALL", "ALL"):
        return Due(EVERYTHING, pages, pages)
    runs = taken * paging.expected * 6 // 7  # adjacent pages overlap
    since = await store.slice_start(runs) if taken < pages else None
    return Due(Window(since, state.reconciled_since), pages, taken, compared)


class StreamSync:
    """Brings one locked stream up to date.

    Args:
        allowance: what the sync may spend on reconciles.
        in_windows: reads a big listing together with other processes, and returns since when; None if it does not.
    """

    def __init__(
        self,
        task: Task,
        listing: Listing,
        intake: Intake,
        store: Store,
        listener: Listener,
        allowance: Allowance,
        *,
        in_windows: Callable[[], Awaitable[datetime | None]] | None = None,
    ) -> None:
        self._in_windows = in_windows
        self._task = task
        self._allowance = allowance
        self._listing = listing
        self._intake = intake
        self._store = store
        self._listener = listener
        self._order = Order(store.state.listing_order) if store.state.listing_order else None
        self._crawl: Crawl | None = None
        self._slice: Crawl | None = None
        self._due: Due | None = None
        self._unanswered: list[str] = []

    async def run(self) -> Outcome:
        """Bring the stream up to date.

        Returns:
            The outcome, succeeded or partial.

        Raises:
            EtlError: the stream cannot go on.
        """
        self._listener(StreamStarted(self._store.stream, self._store.state.api_count))
        now = await self._store.session.clock()
        if self._task.window.is_bounded:
            return await self._window(now)
        if self._task.mode == "sync" and self._store.state.backfill_done:
            await self._read_changes(now)
        else:
            await self._read_everything(now)
        return await self._compare(now)

    async def _read_changes(self, now: datetime) -> None:
        """Read what is new and what was open, and as much of a due reconcile as this sync should."""
        due = await due_part(self._store, self._listing.paging, self._allowance, self._task.reconcile_every, now)
        self._due = due
        if due is not None and due.window == EVERYTHING:
            await self._read_listing(now)
            return
        await self._read_head(now)
        if due is not None and due.window is not None and self._crawl is None:
            await self._read_slice(due.window, due.start, now)

    async def _read_everything(self, now: datetime) -> None:
        """Read the whole listing, together with other processes if it is big."""
        began = None if self._in_windows is None else await self._in_windows()
        if began is None:
            await self._read_listing(now)
            return
        self._order = Order.CREATED_DESC
        self._crawl = joint_pass(self._listing, self._intake, self._store, began)
        unchanged = self._intake.tally.runs_unchanged
        await self._read_head(now)
        self._intake.tally.runs_unchanged = unchanged  # the windows have counted these runs already

    async def _read_listing(self, now: datetime) -> None:
        """Read the whole listing; an interrupted backfill resumes, except in a reconcile."""
        resumes = self._task.mode != "reconcile" and not self._store.state.backfill_done and self._crawl is None
        self._crawl = await read_all(self._listing, self._intake, self._store, now, order=self._order, resumes=resumes)
        self._order = self._crawl.order or self._order
        self._unanswered = []
        if not self._crawl.from_start or self._store.filters != ("ALL", "ALL"):
            # Open runs before the checkpoint, or that no longer pass the filter, were not read.
            await self._settle_open(set())

    async def _read_slice(self, window: Window, start: int, now: datetime) -> None:
        """Read a slice of the listing, or all of it if its order or paging turns out to allow no slices."""
        if not self._listing.paging.aligned:
            self._slice = await read_all(
                self._listing, self._intake, self._store, now, order=self._order, window=window, start=start
            )
        if self._slice is None or self._listing.paging.aligned or self._slice.order is not Order.CREATED_DESC:
            await self._read_listing(now)

    async def _read_head(self, now: datetime) -> None:
        """Read what is new and what was open, or the whole listing if that is not enough."""
        seen = None
        with suppress(PageTooLargeError):
            seen = await read_head(self._listing, self._intake, self._store, self._order, self._task.lookback, now)
        if seen is None or not await self._settle_open(seen):
            await self._read_listing(now)

    async def _settle_open(self, seen: set[str]) -> bool:
        """Update every run that is open in the warehouse and was not `seen`.

        Returns:
            Whether all could be updated. A run for which the API has no answer, or whose id was cleaned, can only be
            found in the whole listing.
        """
        unseen = {run: status for run, status in (await self._store.open_runs()).items() if run not in seen}
        for status in sorted(_cheaper_to_list(unseen, self._listing.paging.size)):
            listing = self._listing.filtered(status)
            async with aclosing(listing.pages(Pass(listing.paging, ahead=listing.concurrency))) as batches:
                async for pages in batches:
                    # Other runs on the page may not pass the filter of the settings.
                    asked_for = [_only(unseen, page) for page in pages]
                    seen.update(item.key for page in await self._intake.process(asked_for) for item in page)
        errors = await look_up(self._intake, [run for run in unseen if run not in seen])
        self._unanswered = [run for run, error in errors.items() if not isinstance(error, NOT_LISTED)]
        return all(isinstance(error, NotFoundError) for error in errors.values())

    async def _compare(self, now: datetime) -> Outcome:
        """Compare the API's count with the warehouse's; if they differ, read more, twice at most.

        First the head is read again, then gone runs are searched for, then the whole listing is read. If it has been
        read already, it is read again only if it moved in the meantime.
        """
        ours = await self._store.count()
        if self._store.is_dry_run:
            return self._ended("succeeded", ours)
        if self._disagrees(ours) and self._crawl is None:
            await self._read_head(now)
            ours = await self._store.count()
        for _ in range(2):
            if self._disagrees(ours) and (self._listing.count or 0) < ours and self._order is not None:
                with suppress(PageTooLargeError):
                    await find_gone(self._listing, self._intake, self._store, self._order)
                ours = await self._store.count()
            if self._disagrees(ours) and (self._crawl is None or not self._crawl.from_start or self._crawl.moved):
                await self._read_listing(now)
                ours = await self._store.count()
        return await self._finish(ours)

    def _disagrees(self, ours: int) -> bool:
        return self._listing.count is not None and self._listing.count != ours

    async def _finish(self, ours: int) -> Outcome:
        count, crawl, error = self._listing.count, self._crawl or self._slice, ""
        if self._unanswered:
            error = f"the API has no answer for the open run {self._unanswered[0]}"
        elif self._disagrees(ours):
            error = f"the API counts {counted(count or 0, 'run')}, the warehouse {ours:,}"
        else:
            error = (crawl.doubt if crawl is not None else "") or self._intake.doubt
        hint = await self._hint(crawl) if error else ""
        if not error and self._due is not None and 0 < self._allowance.share < self._due.taken:
            hint = (
                f"Its reconcile reads {self._due.taken:,} pages in this sync, more than sync.reconcile_share allows, "
                "to be complete in time. Sync more often, or raise sync.reconcile_every."
            )
        await self._store.finish(
            watermark=None if error else self._intake.newest,
            backfilled=self._crawl is not None,
            reconciled=self._reconciled(crawl if not error else None),
            api_count=count,
            order=self._order,
            error=error or None,
            hint=hint or None,
            run_bytes=self._listing.run_bytes,
            page_size=self._listing.paging.known,
        )
        return self._ended("partial" if error else "succeeded", ours, error, hint)

    async def _hint(self, crawl: Crawl | None) -> str:
        """Return what to do about an incomplete stream."""
        hint = self._remedy(crawl)
        if not hint and self._crawl is not None and (self._listing.count or 0) > self._crawl.met:
            rejects = await self._store.open_rejects()
            if any(each.run_id is None for each in rejects.values()):
                hint = (
                    "Some quarantined items have no id, and equal ones cannot be told apart. "
                    "Ask whoever runs the API to give every run an id; see: cortex-etl rejects list"
                )
        return hint or f"Run: {shlex.join(['cortex-etl', 'reconcile', '--workflow', self._store.stream.workflow_id])}"

    def _remedy(self, crawl: Crawl | None) -> str:
        """Return what to do about a listing that no pass can prove complete; empty if another pass may."""
        if crawl is None:
            return ""
        is_aligned, is_counted = self._listing.paging.aligned, self._listing.count is not None
        return remedy(crawl.doubt, crawl.order, is_aligned=is_aligned, is_counted=is_counted)

    def _reconciled(self, crawl: Crawl | None) -> Reconciled:
        """Return the progress of reconciles after everything, a slice, or nothing (None) was read."""
        state = self._store.state
        if crawl is None:
            return Reconciled(None, state.reconcile_began_at, state.reconciled_since)
        if crawl is self._crawl:
            return Reconciled(crawl.began, None, None)
        began, since = state.reconcile_began_at or crawl.began, crawl.window.since
        return Reconciled(began, None, None) if since is None else Reconciled(None, began, since)

    def _ended(self, status: str, ours: int | None, error: str = "", hint: str = "") -> Outcome:
        count = None if self._task.window.is_bounded else self._listing.count
        self._listener(StreamFinished(self._store.stream, status, count, ours, error, hint))
        return Outcome(self._store.stream, status, count, ours, error, hint, self._intake.tally)

    async def _window(self, now: datetime) -> Outcome:
        """Load a window of the history; counts and watermarks do not apply to it."""
        crawl = await read_all(self._listing, self._intake, self._store, now, window=self._task.window)
        if not crawl.doubt:
            return self._ended("succeeded", None)
        return self._ended("partial", None, crawl.doubt, self._remedy(crawl) or "Run the same command again.")


def _only(runs: Container[str], page: Page) -> Page:
    """Return the page with only these runs."""
    items = [item for item, key in zip(page.items, answer_of(page).keys, strict=True) if key in runs]
    return replace(page, items=items)


def _cheaper_to_list(open_runs: Mapping[str, str], size: int) -> set[str]:
    """Return the statuses whose open runs are cheaper to find with the status filter than one by one.

    A filtered page shows up to `size` runs for one request; only runs that have ended since cost one more each. A run
    whose id was cleaned can be found in no other way.
    """
    by_status = Counter(open_runs.values())
    statuses = {status for status, runs in by_status.items() if runs > 2 + runs // size}
    return statuses | {status for run, status in open_runs.items() if REPLACEMENT in run}
