"""From pages to committed rows: each item is classified alone, known ones by the hash of their bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from etl.db.batch import Batch, Loaded, Reject, Source
from etl.db.store import Held
from etl.decode import clean_text, digest, guess_id, peek_id
from etl.errors import RecordError
from etl.events import BatchLoaded, Listener, PageRead, RunQuarantined
from etl.normalize import effective_updated_at
from etl.plan import EVERYTHING, OVERLAPPING_PAGES, Listed, Window

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from datetime import datetime

    import asyncpg

    from etl.api.pages import Page
    from etl.db.store import Store
    from etl.normalize import Normalizer, RunRows

COMMIT_PATIENCE_S = 5.0
"""How long an interrupted process waits for the commit in progress."""

LONGEST_ID_BYTES = 1000
"""Longer ids fit no index of PostgreSQL."""

REMEMBERED_ANSWERS = 5000
"""Of so many items at least the time of the answer is remembered, to tell which of two copies is the newer."""


@dataclass(slots=True)
class Tally:
    """What a stream's crawl has read and done so far."""

    pages: int = 0
    runs_inserted: int = 0
    runs_updated: int = 0
    runs_unchanged: int = 0
    runs_gone: int = 0
    rejects: int = 0

    def count(self, done: Loaded) -> None:
        """Add what a transaction did."""
        self.runs_inserted += done.inserted
        self.runs_updated += done.updated
        self.runs_unchanged += done.unchanged
        self.runs_gone += done.gone

    @property
    def runs_seen(self) -> int:
        """Runs received; what a page shows again of the page before it counts once."""
        return self.runs_inserted + self.runs_updated + self.runs_unchanged + self.rejects


class Item(NamedTuple):
    """An item as received: its bytes, their hash, its run's id (None where it has none), and its page."""

    raw: bytes
    digest: bytes
    run_id: str | None
    page: Page

    @property
    def key(self) -> str:
        """What identifies the item in the listing."""
        return self.digest.hex() if self.run_id is None else self.run_id

    @property
    def source(self) -> Source:
        """Its bytes and where they came from."""
        return Source(self.raw, self.page.url, self.page.number)


@dataclass(slots=True)
class Classified:
    """Classified pages: what to load, and how planning sees each item, page by page."""

    batch: Batch = field(default_factory=Batch)
    pages: list[list[Listed]] = field(default_factory=list)
    unchanged: int = 0
    good: set[str] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)

    @property
    def keys(self) -> list[str]:
        """Return what identifies the items, in the order of the listing."""
        return [item.key for page in self.pages for item in page]

    @property
    def has_new(self) -> bool:
        """Tell whether there are items that the warehouse does not hold."""
        return bool(self.batch.new or self.batch.rejects)


class Intake:
    """Takes in the pages of one stream.

    Args:
        store: the stream's warehouse side.
        normalizer: makes rows of a run's bytes.
        listener: hears of pages, batches and rejects.
        window: runs created outside of it are left alone.
        retry: read items anew although the quarantine holds them.

    Attributes:
        tally: what was read and done.
        newest: the largest updated_at read.
    """

    def __init__(
        self,
        store: Store,
        normalizer: Normalizer,
        listener: Listener,
        *,
        window: Window = EVERYTHING,
        retry: bool = False,
    ) -> None:
        self.tally = Tally()
        self.newest: datetime | None = None
        self._store = store
        self._workflow_id = clean_text(store.stream.workflow_id)
        self._normalizer = normalizer
        self._listener = listener
        self._window = window
        self._retry = retry
        self._held: dict[bytes, Held] | None = None
        self._counted: set[bytes] = set()
        self._recent: deque[dict[bytes, Listed]] = deque(maxlen=OVERLAPPING_PAGES)
        self._answers: list[dict[str, float]] = [{}, {}]

    async def take_in(self, pages: Sequence[Page], *, again: bool = False) -> list[list[Listed]]:
        """Classify pages and commit what they bring; return how planning sees their items."""
        classified = await self.classify(pages, again=again)
        await self.load(classified)
        return classified.pages

    async def classify(self, pages: Sequence[Page], *, again: bool = False) -> Classified:
        """Tell which items are known, new, changed or invalid, and make rows of those that are new or changed.

        Args:
            pages: as read.
            again: whether they were read before in this pass, so that what is unchanged is not counted.
        """
        if self._held is None:
            self._held = {} if self._retry else await self._store.open_rejects()
        items, known = await self._identify(pages)
        result = Classified()
        new: dict[str, RunRows] = {}
        changed: dict[str, RunRows] = {}
        for page, of_page in zip(pages, items, strict=True):
            await asyncio.sleep(0)  # the other streams' commits would wait while a whole batch is normalized
            before = (len(new), len(changed), len(result.batch.rejects), result.unchanged, self.tally.rejects)
            if page.number <= 1:  # the listing is read from the top again, or a run was asked for alone
                self._recent.clear()
            listed: dict[bytes, Listed] = {}
            for item in of_page:
                stored = known.get(item.key)
                if stored is not None and stored["workflow_id"] != self._workflow_id:
                    stored = None  # a run of another workflow, listed here by mistake
                group = changed if stored is not None else new
                if item.digest not in listed:
                    listed[item.digest] = self._shown(item) or self._take(item, stored, result, group)
            result.pages.append([listed[item.digest] for item in of_page])
            if page.number:
                self._recent.append(listed)
            if again:
                result.unchanged = 0
            after = (len(new), len(changed), len(result.batch.rejects), result.unchanged, self.tally.rejects)
            self._announce(page, [now - then for now, then in zip(after, before, strict=True)])
        result.batch.new, result.batch.changed = list(new.values()), list(changed.values())
        held = {each.run_id for each in self._held.values()}
        result.batch.settled = sorted(run for run in result.good - result.bad if self._retry or run in held)
        return result

    def peek(self, page: Page) -> list[Listed]:
        """Return how planning sees a page, without taking it in."""
        found = []
        for raw in page.items:
            content = digest(raw)
            try:
                rows = self._normalizer.normalize(raw, content)
                found.append(Listed(rows.run_id, rows.created_at, rows.updated_at, known=False))
            except RecordError:
                found.append(Listed(content.hex(), None, None, known=False))
        return found

    async def _identify(self, pages: Sequence[Page]) -> tuple[list[list[Item]], dict[str, asyncpg.Record]]:
        """Tell the id of each item, and what the warehouse holds of these runs.

        An unchanged item is not read: the id that it begins with is the right one if the warehouse holds the very same
        bytes under it.
        """
        hashed = [[(raw, digest(raw), guess_id(raw)) for raw in page.items] for page in pages]
        guesses = [guess for items in hashed for _, _, guess in items if guess is not None]
        known = dict(await self._store.known(guesses))
        found: list[list[Item]] = []
        for page, items in zip(pages, hashed, strict=True):
            found.append([])
            for raw, content, guess in items:
                stored = known.get(guess) if guess is not None else None
                is_known = stored is not None and stored["content_hash"] == content
                found[-1].append(Item(raw, content, guess if is_known else _read_id(raw), page))
        ids = {item.run_id for items in found for item in items if item.run_id is not None}
        if unasked := ids.difference(guesses):
            known |= await self._store.known(list(unasked))
        return found, known

    def _shown(self, item: Item) -> Listed | None:
        """Return what was made of the same item on a page that overlaps with its own."""
        return next((page[item.digest] for page in self._recent if item.digest in page), None)

    def _take(self, item: Item, stored: asyncpg.Record | None, result: Classified, group: dict[str, RunRows]) -> Listed:
        """Take one item: unchanged, in quarantine already, or made into rows (which join `group`)."""
        assert self._held is not None  # noqa: S101 - set by `classify`; this only tells the type checker
        if stored is not None and self._is_unchanged(item, stored, result):
            times = (stored["created_at"], stored["updated_at"])
            return Listed(stored["id"], *times, known=True, recent=stored["recent"])
        if (held := self._held.get(item.digest)) is not None:
            self._count_reject(item.digest)
            result.bad.update(() if held.run_id is None else (held.run_id,))
            return Listed(held.run_id or item.key, None, None, known=True, recent=held.recent)
        try:
            rows = self._normalizer.normalize(item.raw, item.digest)
            _check_id(rows.run_id)
        except RecordError as error:
            return self._reject(item, error, result)
        self.note_time(rows.updated_at)
        is_known = stored is not None and _is_erased_and_the_same(rows, stored)
        is_recent = stored is not None and stored["recent"]
        listed = Listed(rows.run_id, rows.created_at, rows.updated_at, known=is_known, recent=is_recent)
        if self._window.holds(rows.created_at) and not self._is_older(item, rows, stored, group.get(rows.run_id)):
            group[rows.run_id] = rows
            result.good.add(rows.run_id)
            result.batch.sources[rows.run_id] = item.source
        return listed

    def _is_unchanged(self, item: Item, stored: asyncpg.Record, result: Classified) -> bool:
        """Note that a stored run stands in this listing, and tell whether it is as it was."""
        if stored["gone"]:
            result.batch.restored.append(stored["id"])
        elif not stored["is_ours"]:
            result.batch.shared.append(stored["id"])
        if stored["content_hash"] != item.digest:
            return False
        if not stored["gone"] and self._window.holds(stored["created_at"]):
            result.unchanged += 1  # one that is back is counted as updated
        result.good.add(stored["id"])
        self.note_time(stored["updated_at"])
        self._note_answer(item, stored["id"])
        return True

    def _is_older(self, item: Item, rows: RunRows, stored: asyncpg.Record | None, at_hand: RunRows | None) -> bool:
        """Tell whether another copy of the run, of these pages or loaded already in this crawl, is the newer one.

        Where updated_at does not tell, it is the one that the API answered last; the pages come in another order.
        """
        answered = max(answers.get(rows.run_id, 0.0) for answers in self._answers)
        mine = effective_updated_at(rows.updated_at, rows.updated_on_day)
        other = None
        if at_hand is not None:
            other = effective_updated_at(at_hand.updated_at, at_hand.updated_on_day)
        elif stored is not None:
            other = effective_updated_at(stored["updated_at"], stored["updated_on_day"])
        if mine is not None and other is not None and mine != other:
            is_older = at_hand is not None and mine < other  # PostgreSQL compares it with what is stored
        else:
            is_older = item.page.received_at < answered
        if not is_older:
            self._note_answer(item, rows.run_id)
        return is_older

    def _note_answer(self, item: Item, run_id: str) -> None:
        """Remember when the API answered with a run, for the last few thousand of them."""
        if len(self._answers[0]) >= REMEMBERED_ANSWERS:
            self._answers = [{}, self._answers[0]]
        self._answers[0][run_id] = item.page.received_at

    def _reject(self, item: Item, error: RecordError, result: Classified) -> Listed:
        reject = Reject(item.run_id, item.source, error.reason, error.message, item.digest)
        result.batch.rejects.append(reject)
        result.bad.update(() if item.run_id is None else (item.run_id,))
        return Listed(item.key, None, None, known=False)

    def note_time(self, updated_at: datetime | None) -> None:
        """Let the watermark reach this time, once all is committed."""
        if updated_at is not None and (self.newest is None or updated_at > self.newest):
            self.newest = updated_at

    def _count_reject(self, key: bytes) -> None:
        if key not in self._counted:
            self._counted.add(key)
            self.tally.rejects += 1

    def _announce(self, page: Page, found: Sequence[int]) -> None:
        if page.number == 0:  # a run read alone is no page
            return
        self.tally.pages += 1
        new, changed, rejected, unchanged, _ = found
        self._listener(
            PageRead(
                self._store.stream,
                page.number,
                sum(found),
                new=new,
                changed=changed,
                unchanged=unchanged,
                rejected=rejected,
                count=page.count,
                pages_total=None if page.count is None else max(1, -(-page.count // max(page.size, 1))),
            )
        )

    async def load(self, result: Classified) -> None:
        """Commit what `classify` found; count it and emit events only then."""
        self.tally.runs_unchanged += result.unchanged
        if result.batch:
            await finish_in_hand(self._commit(result))

    async def _commit(self, result: Classified) -> None:
        done, refused = await self._store.load(result.batch)
        rejects = result.batch.rejects
        for reject in (*rejects, *(reject for reject in refused if reject not in rejects)):
            self._count_reject(reject.digest)
            if self._held is not None:
                self._held[reject.digest] = Held(reject.run_id, recent=True)
            self._listener(RunQuarantined(self._store.stream, reject.run_id, reject.reason, reject.error))
        self.tally.count(done)
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

    async def mark_gone(self, ids: Sequence[str]) -> None:
        """Give runs that the API no longer lists their `gone_at`."""
        if ids:
            await self.load(Classified(batch=Batch(gone=list(ids), settled=list(ids))))


async def finish_in_hand(commit: Coroutine[Any, Any, None]) -> None:
    """Await a commit; a cancellation that arrives meanwhile is raised only when it has ended and was counted."""
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


def _read_id(raw: bytes) -> str | None:
    """Return the id of an item, cleaned; None where it has none, or one that is too long for any index."""
    run_id = peek_id(raw)
    return None if run_id is not None and len(run_id.encode("utf-8", "surrogatepass")) > LONGEST_ID_BYTES else run_id


def _is_erased_and_the_same(rows: RunRows, stored: asyncpg.Record) -> bool:
    """Tell whether a run was erased, so that no hash of it is stored, and looks as it did before."""
    return stored["erased"] and (rows.status, rows.updated_at) == (stored["status"], stored["updated_at"])


def _check_id(run_id: str) -> None:
    if len(run_id) > LONGEST_ID_BYTES / 4 and len(run_id.encode()) > LONGEST_ID_BYTES:
        raise RecordError("invalid_field", f"id: expected at most {LONGEST_ID_BYTES} bytes, got {len(run_id)}")
