"""The sync of one stream: read what may have changed, update open runs, compare the counts, record the state."""

from __future__ import annotations

import shlex
from collections import Counter
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from etl.db.session import StreamState  # noqa: TC001 - msgspec reads the annotations of an outcome
from etl.decode.json_text import REPLACEMENT
from etl.errors import NotFoundError, PageTooLargeError
from etl.events import StreamFinished, StreamId, StreamStarted
from etl.plan.order import Order
from etl.plan.paging import SMALLEST_HEAD
from etl.plan.passes import Checkpoint, Pass
from etl.plan.window import EVERYTHING, Due, Reconciled, Window, deadline
from etl.sync.crawl import Crawl, read_all, read_slice
from etl.sync.gone import find_gone, look_up
from etl.sync.head import read_head
from etl.sync.intake import TWINS_HINT, Tally
from etl.sync.listing import answer_of
from etl.text import counted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Mapping

    from etl.api.pages import Page
    from etl.db.store import Store
    from etl.events import Listener
    from etl.plan.paging import Paging
    from etl.plan.window import Allowance
    from etl.sync.intake import StreamIO

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


async def due_part(store: Store, paging: Paging, allowance: Allowance, every: timedelta) -> Due | None:
    """Return what a sync reads of a stream's reconcile; None if none is due.

    One is due until the stream is complete for the first time, even if `every` is zero. A reconcile that takes more
    requests than are left of the share is read in slices, newest first. A listing that is not sorted by creation,
    newest first, or whose slices cannot be proved complete, is read as a whole.
    """
    state = store.state
    last, now = state.last_reconciled_at, state.read_at
    if last is not None and (not every or now - last < every):
        return None
    left, undated = await store.left_to_reconcile()
    pages = max(1, -(-(left + undated) // paging.expected))
    end = deadline(every, last, state.reconcile_began_at, now)
    taken = allowance.take(pages, interval=now - (state.last_synced_at or now), remaining=end - now)
    if not taken:
        return Due(None, pages, 0)
    is_sorted = state.listing_order == Order.CREATED_DESC and state.api_count is not None and not undated
    if not is_sorted or store.filters != ("ALL", "ALL"):
        return Due(EVERYTHING, pages, pages)
    runs = taken * paging.expected * 6 // 7  # adjacent pages overlap
    since = await store.slice_start(runs) if taken < pages else None
    return Due(Window(since, state.reconciled_since), pages, taken)


def progress_of(state: StreamState, crawl: Crawl | None) -> Reconciled:
    """Return the progress of reconciles after a complete crawl of everything or of a slice, or after none."""
    if crawl is None:
        return Reconciled(None, state.reconcile_began_at, state.reconciled_since)
    began = state.reconcile_began_at if crawl.window.is_bounded else None
    began, since = began or crawl.began, crawl.window.since
    return Reconciled(began, None, None) if since is None else Reconciled(None, began, since)


class StreamSync:
    """Brings one locked stream up to date.

    Args:
        io: the stream.
        allowance: what the sync may spend on reconciles.
        in_slices: reads a big listing together with other processes, and returns since when; None if it does not.
    """

    def __init__(
        self,
        io: StreamIO,
        task: Task,
        listener: Listener,
        *,
        allowance: Allowance,
        in_slices: Callable[..., Awaitable[datetime | None]] | None = None,
    ) -> None:
        self._in_slices = in_slices
        self._task = task
        self._allowance = allowance
        self._io = io
        self._listing, self._intake, self._store = io.listing, io.intake, io.store
        self._listener = listener
        order = io.store.state.listing_order
        self._order = Order(order) if order else None
        self._crawl: Crawl | None = None  # of the whole listing
        self._slice: Crawl | None = None
        self._due: Due | None = None

    async def run(self) -> Outcome:
        """Bring the stream up to date.

        Returns:
            The outcome, succeeded or partial.

        Raises:
            EtlError: the stream cannot go on.
        """
        self._listener(StreamStarted(self._store.stream, self._store.state.api_count))
        if self._task.window.is_bounded:
            return await self._window()
        if self._task.mode == "sync" and self._store.state.backfill_done:
            await self._read_changes()
        else:
            await self._read_everything()
        return await self._settle_counts()

    async def _read_changes(self) -> None:
        """Read what is new and what was open, and as much of a due reconcile as this sync should."""
        due = await due_part(self._store, self._listing.paging, self._allowance, self._task.reconcile_every)
        self._due = due
        if due is not None and due.window == EVERYTHING:
            await self._read_listing()
            return
        await self._read_head()
        if due is not None and due.window is not None and self._crawl is None:
            self._slice = await read_slice(self._io, due.window)
            if self._slice is None:
                await self._read_listing()

    async def _read_everything(self) -> None:
        """Read the whole listing, together with other processes if it is big."""
        began = None if self._in_slices is None else await self._in_slices(resumes=self._resumes)
        if began is None:
            await self._read_listing()
            return
        self._order = Order.CREATED_DESC
        self._crawl = Crawl(self._io, resumed=Checkpoint(0, order=self._order, began=began))  # others have read it too
        unchanged = self._intake.tally.runs_unchanged
        await self._read_head()
        self._intake.tally.runs_unchanged = unchanged  # the slices have counted these runs already

    @property
    def _resumes(self) -> bool:
        """Whether a backfill resumes where an earlier one was interrupted."""
        return self._task.mode != "reconcile" and not self._store.state.backfill_done

    async def _read_listing(self) -> None:
        """Read the whole listing; an interrupted backfill resumes, except in a reconcile."""
        resumes = self._resumes and self._crawl is None
        self._crawl = await read_all(self._io, order=self._order, resumes=resumes)
        self._order = self._crawl.order or self._order
        if not self._crawl.from_start or self._store.filters != ("ALL", "ALL"):
            # Open runs before the checkpoint, or that no longer pass the filter, were not read.
            await self._settle_open(set())

    async def _read_head(self) -> None:
        """Read what is new and what was open, or the whole listing if that is not enough."""
        seen = None
        with suppress(PageTooLargeError):
            seen = await read_head(self._io, self._order, self._task.lookback)
        if seen is None or not await self._settle_open(seen):
            await self._read_listing()

    async def _settle_open(self, seen: set[str]) -> bool:
        """Update every run that is open in the warehouse and was not `seen`.

        Returns:
            Whether each was updated or is gone. A run for which the API has no answer, or whose id was cleaned, can
            only be found in the whole listing.
        """
        unseen = {run: status for run, status in (await self._store.open_runs()).items() if run not in seen}
        for status in sorted(_cheaper_to_list(unseen, self._listing.paging.usual)):
            listing = self._listing.filtered(status)
            async with aclosing(listing.pages(Pass(listing.paging, ahead=listing.concurrency))) as batches:
                async for pages in batches:
                    # Other runs on the page may not pass the filter of the settings.
                    asked_for = [_only(unseen, page) for page in pages]
                    seen.update(item.key for page in await self._intake.process(asked_for) for item in page)
        errors = await look_up(self._intake, [run for run in unseen if run not in seen])
        return all(isinstance(error, NotFoundError) for error in errors.values())

    async def _settle_counts(self) -> Outcome:
        """Compare the API's count with the warehouse's; if they differ, read more, twice at most.

        First the head is read again, then gone runs are searched for, then the whole listing is read. If it has been
        read already, it is read again only if it moved in the meantime. The second round finds runs that were removed
        while the first one read the whole listing.
        """
        ours = await self._store.count()
        if self._store.is_dry_run:
            return self._ended("succeeded", ours)
        if self._disagrees(ours) and self._crawl is None:
            await self._read_head()
            ours = await self._store.count()
        for _ in range(2):
            if self._disagrees(ours) and (self._listing.count or 0) < ours and self._order is not None:
                with suppress(PageTooLargeError):
                    await find_gone(self._io, self._order)
                ours = await self._store.count()
            if self._disagrees(ours) and (self._crawl is None or not self._crawl.from_start or self._crawl.moved):
                await self._read_listing()
                ours = await self._store.count()
        return await self._finish(ours)

    def _disagrees(self, ours: int) -> bool:
        return self._listing.count is not None and self._listing.count != ours

    async def _finish(self, ours: int) -> Outcome:
        count, crawl, error = self._listing.count, self._crawl or self._slice, self._intake.doubt
        if not error and self._disagrees(ours):
            error = f"the API counts {counted(count or 0, 'run')}, the warehouse {ours:,}"
        elif not error and crawl is not None:
            error = crawl.doubt
        hint = await self._hint(crawl) if error else ""
        if not error and self._due is not None and 0 < self._allowance.share < self._due.taken:
            hint = (
                f"To finish in time, its reconcile read {self._due.taken:,} pages in this sync, more than "
                "sync.reconcile_share allows. Sync more often, or raise sync.reconcile_every."
            )
        if self._crawl is not None and self._crawl.from_start:
            self._intake.tally.count_once(self._crawl.met)
        await self._store.finish(
            watermark=None if error else self._intake.newest,
            backfilled=self._crawl is not None,
            reconciled=progress_of(self._store.state, None if error else crawl),
            api_count=count,
            order=self._order,
            error=error or None,
            hint=hint or None,
            run_bytes=self._listing.run_bytes,
            page_size=self._page_size,
        )
        return self._ended("partial" if error else "succeeded", ours, error, hint)

    @property
    def _page_size(self) -> int | None:
        """The largest page size, to be remembered for the app; None if it is not certain.

        Without a count, a short page may have been the whole listing; the API may have been slow for a moment only, or
        filter pages after cutting them.
        """
        paging = self._listing.paging
        is_certain = self._listing.count is not None and not paging.uneven
        return paging.known if is_certain and (paging.known or 0) >= SMALLEST_HEAD else None

    async def _hint(self, crawl: Crawl | None) -> str:
        """Return what to do about an incomplete stream."""
        if crawl is not None and crawl.hint:
            return crawl.hint
        if self._crawl is not None and (self._listing.count or 0) > self._crawl.met:
            rejects = await self._store.open_rejects()
            if any(each.run_id is None for each in rejects.values()):
                return TWINS_HINT
        if self._task.mode == "reconcile":
            return (
                "If this repeats, the API's counts and pages contradict each other: report it to whoever runs the API."
            )
        return f"Run: {shlex.join(['cortex-etl', 'reconcile', '--workflow', self._store.stream.workflow_id])}"

    def _ended(self, status: str, ours: int | None, error: str = "", hint: str = "") -> Outcome:
        count = None if self._task.window.is_bounded else self._listing.count
        self._listener(StreamFinished(self._store.stream, status, count, ours, error, hint))
        return Outcome(self._store.stream, status, count, ours, error, hint, self._intake.tally)

    async def _window(self) -> Outcome:
        """Load a window of the history; counts and watermarks do not apply to it."""
        crawl = await read_all(self._io, window=self._task.window)
        await self._store.note_count(self._listing.count)  # that of an earlier sync would not include what was loaded
        if not crawl.doubt:
            return self._ended("succeeded", None)
        hint = crawl.hint or "Run the same command again."
        if self._listing.paging.aligned and crawl.order is Order.CREATED_DESC and self._listing.count is not None:
            hint = "Only the whole listing can be proved complete: leave out --since and --until."
        return self._ended("partial", None, crawl.doubt, hint)


def _only(runs: Container[str], page: Page) -> Page:
    """Return the page with only these runs."""
    items = [item for item, key in zip(page.items, answer_of(page).keys, strict=True) if key in runs]
    return replace(page, items=items)


def _cheaper_to_list(open_runs: Mapping[str, str | None], size: int) -> set[str]:
    """Return the statuses whose open runs are cheaper to find with the status filter than one by one.

    A filtered page shows up to `size` runs for one request; only runs that have ended since cost one more each. A run
    whose id was cleaned can be found in no other way.
    """
    by_status = Counter(filter(None, open_runs.values()))
    statuses = {status for status, runs in by_status.items() if runs > 2 + runs // size}
    return statuses | {status for run, status in open_runs.items() if status and REPLACEMENT in run}
