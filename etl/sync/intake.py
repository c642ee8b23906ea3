"""From pages to committed rows: each item is taken alone, known ones by their hash before anything else is read."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from etl.db.batch import Batch, Reject, Source
from etl.db.store import Held
from etl.decode import clean_text
from etl.errors import RecordError
from etl.events import BatchLoaded, Listener, PageRead, RunQuarantined
from etl.normalize import effective_updated_at
from etl.plan import Listed, in_window
from etl.sync.received import LONGEST_ID_BYTES, key_of_copy, read_id, receive

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence
    from datetime import datetime

    import asyncpg

    from etl.api.pages import Page
    from etl.db.store import Store
    from etl.normalize import Normalizer, RunRows
    from etl.sync.received import Received

COMMIT_PATIENCE_S = 5.0
"""How long an interrupted process waits for the commit in hand."""


@dataclass(slots=True)
class Tally:
    """What a stream's crawl has met and done so far."""

    pages: int = 0
    runs_seen: int = 0
    runs_inserted: int = 0
    runs_updated: int = 0
    runs_unchanged: int = 0
    runs_gone: int = 0
    rejects: int = 0


@dataclass(slots=True)
class Sorted:
    """Pages told apart: what to load, and how planning sees each item, page by page."""

    batch: Batch = field(default_factory=Batch)
    pages: list[list[Listed]] = field(default_factory=list)
    unchanged: int = 0
    good: set[str] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)

    @property
    def idents(self) -> list[str]:
        """All items, in the order of the listing."""
        return [item.ident for page in self.pages for item in page]

    @property
    def news(self) -> int:
        """How many of them the warehouse did not hold."""
        return len(self.batch.new) + len(self.batch.rejects)


class _MisreadError(Exception):
    """An item has another id than it seemed to have: of duplicate keys the last counts."""


class Intake:
    """Takes in the pages of one stream.

    Args:
        store: the stream's warehouse side.
        normalizer: makes rows of a run's bytes.
        listener: hears of pages, batches and rejects.
        since: runs created before are left alone.
        until: runs created at or after are left alone.
        retry: read items anew although the quarantine holds them.
    """

    def __init__(
        self,
        store: Store,
        normalizer: Normalizer,
        listener: Listener,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        retry: bool = False,
    ) -> None:
        self.tally = Tally()
        self.newest: datetime | None = None
        self._store = store
        self._workflow_id = clean_text(store.stream.workflow_id)
        self._normalizer = normalizer
        self._listener = listener
        self._since, self._until = since, until
        self._held: dict[bytes, Held] | None = None
        self._retry = retry
        self._counted: set[bytes] = set()
        self._held_copies: set[bytes] = set()
        self._met_copies: set[bytes] = set()
        self._sure_copies: set[bytes] = set()

    async def sort(self, pages: Sequence[Page], nameless: Counter[bytes] | None = None) -> Sorted:
        """Tell the items of some pages apart, and make rows of those that are new or changed.

        Args:
            pages: what was read.
            nameless: where the pages are part of a longer reading: how often it met each item without an id. Equal ones
                stand for different runs, so the quarantine holds each of them.
        """
        if self._held is None:
            self._held = {} if self._retry else await self._store.open_rejects()
        counted = Counter(nameless)
        try:
            result, read = await self._sort(pages, counted, guess=True)
        except _MisreadError:
            counted = Counter(nameless)
            result, read = await self._sort(pages, counted, guess=False)
        if nameless is not None:
            nameless.update(counted - nameless)
        for page in read:
            self._announce(page)
        return result

    async def _sort(
        self, pages: Sequence[Page], nameless: Counter[bytes], *, guess: bool
    ) -> tuple[Sorted, list[PageRead]]:
        """Sort; raises `_MisreadError` where a guess was wrong, after which nothing has changed that matters."""
        assert self._held is not None  # noqa: S101 - set by `sort`; this only tells the type checker
        result, read = Sorted(), []
        told, known = await receive(pages, self._store.known, nameless, guess=guess)
        for items in told:
            alike = Counter(item.digest for item in items if item.ident is None)
            self._sure_copies.update(key_of_copy(each, n) for each, times in alike.items() for n in range(2, times + 1))
            self._met_copies.update(item.key for item in items if item.ident is None and item.key != item.digest)
        new: dict[str, RunRows] = {}
        changed: dict[str, RunRows] = {}
        for page, items in zip(pages, told, strict=True):
            await asyncio.sleep(0)  # or the other streams' commits starve while all of a batch is made into rows
            listed, before = [], (len(new), len(changed), len(result.batch.rejects), result.unchanged)
            for item in items:
                stored = known.get(item.ident) if item.ident is not None else None
                if stored is not None and stored["workflow_id"] != self._workflow_id:
                    stored = None  # a run of another workflow, listed here by mistake
                listed.append(self._take(item, stored, result, new if stored is None else changed))
            result.pages.append(listed)
            read.append(self._page_read(page, len(items), before, (new, changed, result)))
        result.batch.new, result.batch.changed = list(new.values()), list(changed.values())
        held = {each.run_id for each in self._held.values()}
        result.batch.settled = sorted(run for run in result.good - result.bad if self._retry or run in held)
        return result, read

    def _take(self, item: Received, stored: asyncpg.Record | None, result: Sorted, group: dict[str, RunRows]) -> Listed:
        """Take one item: unchanged, known to be bad, or made into rows (which join `group`)."""
        held = self._held
        assert held is not None  # noqa: S101 - set by `sort`; this only tells the type checker
        if stored is not None and self._is_unchanged(item, stored, result):
            times = (stored["created_at"], stored["updated_at"])
            return Listed(stored["id"], *times, known=True, fresh=stored["fresh"])
        if item.key in held:
            self._count_reject(item.key)
            run_id, fresh = held[item.key]
            result.bad.update(() if run_id is None else (run_id,))
            return Listed(run_id or item.key.hex(), None, None, known=True, fresh=fresh)
        try:
            rows = self._normalizer.normalize(item.raw, item.digest)
            _check_id(rows.run_id)
        except RecordError as error:
            return self._reject(item, error, result)
        if item.guessed and rows.run_id != item.ident:
            raise _MisreadError
        self._note_time(rows.updated_at)
        wanted = in_window(rows.created_at, since=self._since, until=self._until)
        if wanted and not _is_older(rows, group.get(rows.run_id)):
            group[rows.run_id] = rows
            result.good.add(rows.run_id)
            result.batch.sources[rows.run_id] = Source(item.raw, item.page.url, item.page.number)
        if stored is not None and _is_erased_and_the_same(rows, stored):
            return Listed(rows.run_id, rows.created_at, rows.updated_at, known=True, fresh=stored["fresh"])
        return Listed(rows.run_id, rows.created_at, rows.updated_at, known=False)

    def _is_unchanged(self, item: Received, stored: asyncpg.Record, result: Sorted) -> bool:
        """Note that a stored run stands in this listing, and whether it is as it was."""
        if stored["gone"]:
            result.batch.restored.append(stored["id"])
        elif not stored["is_ours"]:
            result.batch.shared.append(stored["id"])
        if stored["content_hash"] != item.digest:
            return False
        result.unchanged += not stored["gone"]  # one that is back is counted as updated
        result.good.add(stored["id"])
        self._note_time(stored["updated_at"])
        return True

    def _reject(self, item: Received, error: RecordError, result: Sorted) -> Listed:
        if item.guessed and read_id(item.raw) != item.ident:
            raise _MisreadError
        run_id, page = item.ident, item.page
        source = Source(item.raw, page.url, page.number)
        reject = Reject(run_id, source, error.reason, error.message, item.key)
        result.batch.rejects.append(reject)
        if item.key != item.digest:
            self._held_copies.add(item.key)
        result.bad.update(() if run_id is None else (run_id,))
        return Listed(run_id or item.key.hex(), None, None, known=False)

    def _note_time(self, updated_at: datetime | None) -> None:
        if updated_at is not None and (self.newest is None or updated_at > self.newest):
            self.newest = updated_at

    def _count_reject(self, key: bytes) -> None:
        if key not in self._counted:
            self._counted.add(key)
            self.tally.rejects += 1

    def _page_read(
        self,
        page: Page,
        items: int,
        before: tuple[int, int, int, int],
        after: tuple[Mapping[str, RunRows], Mapping[str, RunRows], Sorted],
    ) -> PageRead:
        new, changed, result = after
        counts = (len(new), len(changed), len(result.batch.rejects), result.unchanged)
        found = [max(0, now - then) for now, then in zip(counts, before, strict=True)]
        total = None if page.count is None else max(1, -(-page.count // max(page.take, 1)))
        return PageRead(
            self._store.stream,
            page.number,
            items,
            new=found[0],
            changed=found[1],
            unchanged=found[3],
            rejected=found[2],
            count=page.count,
            pages_total=total,
        )

    def _announce(self, read: PageRead) -> None:
        self.tally.runs_seen += read.items
        if read.page == 0:  # a run read alone is no page
            return
        self.tally.pages += 1
        self._listener(read)

    async def load(self, result: Sorted) -> None:
        """Commit what `sort` found; only then is it counted and told."""
        self.tally.runs_unchanged += result.unchanged
        if result.batch:
            await finish_in_hand(self._commit(result))

    async def _commit(self, result: Sorted) -> None:
        done, refused = await self._store.load(result.batch)
        rejects = result.batch.rejects
        for reject in (*rejects, *(reject for reject in refused if reject not in rejects)):
            self._count_reject(reject.digest)
            if self._held is not None:
                self._held[reject.digest] = Held(reject.run_id, fresh=True)
            self._listener(RunQuarantined(self._store.stream, reject.run_id, reject.reason, reject.error))
        self.tally.runs_inserted += done.inserted
        self.tally.runs_updated += done.updated
        self.tally.runs_unchanged += done.unchanged
        self.tally.runs_gone += done.gone
        self._listener(
            BatchLoaded(
                self._store.stream,
                inserted=done.inserted,
                updated=done.updated,
                unchanged=result.unchanged + done.unchanged,
                gone=done.gone,
                rejected=len(rejects),
                rows=done.rows,
                seconds=done.seconds,
            )
        )

    @property
    def copies(self) -> set[bytes]:
        """Keys of items without ids that equal an earlier one of their reading, and may be the same, met again.

        Those that stood on one page are different items.
        """
        return self._met_copies - self._sure_copies

    async def drop_copies(self, *, earlier: bool) -> None:
        """Settle what was quarantined as one more of equal items without ids, where it may have been the same again.

        Args:
            earlier: also what an earlier process has quarantined so, and this one has met.
        """
        dropped = self.copies if earlier else self.copies & self._held_copies
        await self._store.drop_rejects(list(dropped))
        for key in dropped:
            if self._held is not None:
                self._held.pop(key, None)
        self._held_copies.clear()

    async def mark_gone(self, ids: Sequence[str]) -> None:
        """Give runs that the API no longer lists their `gone_at`."""
        if ids:
            await self.load(Sorted(batch=Batch(gone=list(ids), settled=list(ids))))


async def finish_in_hand(commit: Coroutine[Any, Any, None]) -> None:
    """Await a commit, of a batch or of the ledger.

    A cancellation that arrives meanwhile is raised only when it has ended, and was counted.
    """
    task = asyncio.ensure_future(commit)
    try:
        await asyncio.wait([task])  # not shield: that tells stderr of a failure that comes later
    except asyncio.CancelledError:
        done, _ = await asyncio.wait([task], timeout=COMMIT_PATIENCE_S)
        for each in done:
            if not each.cancelled():
                each.exception()  # looked at, or asyncio writes it to stderr; the cancellation says why all ends
        raise
    await task


def _check_id(run_id: str) -> None:
    if len(run_id) > LONGEST_ID_BYTES / 4 and len(run_id.encode()) > LONGEST_ID_BYTES:
        raise RecordError("invalid_field", f"id: expected at most {LONGEST_ID_BYTES} bytes, found {len(run_id)}")


def _is_erased_and_the_same(rows: RunRows, stored: asyncpg.Record) -> bool:
    """Whether a run was erased, so that no hash of it is stored, and has not changed since as far as that tells."""
    return stored["erased"] and (rows.status, rows.updated_at) == (stored["status"], stored["updated_at"])


def _is_older(rows: RunRows, at_hand: RunRows | None) -> bool:
    """Whether another copy of the run in the same pages is strictly newer."""
    if at_hand is None:
        return False
    mine = effective_updated_at(rows.updated_at, rows.updated_on_day)
    other = effective_updated_at(at_hand.updated_at, at_hand.updated_on_day)
    return mine is not None and other is not None and mine < other
