"""From pages to committed rows. Each item is classified on its own; known items are recognized by their hash."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from etl.api.pages import Page
from etl.db.batch import ID_TAKEN, Batch, Item, Loaded, Reject
from etl.db.liveness import finish_commit
from etl.db.store import Quarantined
from etl.decode.items import digest, guess_id, peek_id
from etl.decode.json_text import clean_text
from etl.errors import RecordError
from etl.events import BatchLoaded, Listener, PageRead, RunQuarantined
from etl.normalize.rows import RunRows, effective_updated_at
from etl.plan.order import OVERLAPPING_ITEMS, Listed
from etl.plan.window import EVERYTHING, Window
from etl.tables import LONGEST_ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import asyncpg

    from etl.db.store import Store
    from etl.errors import NotFoundError, TransientError
    from etl.normalize.normalizer import Normalizer
    from etl.sync.listing import Listing

REMEMBERED_ANSWERS = 5000
"""How many runs to remember the time of the response for, which decides which of two copies is newer."""

PAUSE_EVERY = 100
"""How many items to classify before other tasks may run: their commits would wait meanwhile."""

FUTURE = timedelta(days=1)
"""An `updated_at` further ahead of PostgreSQL's clock than this is ignored."""

TWINS = "identical items without ids on one page cannot be told apart"

TWINS_HINT = (
    "Some quarantined items have no id, and equal ones cannot be told apart. "
    "Ask whoever runs the API to give every run an id; see: cortex-etl rejects list"
)

Errors: TypeAlias = "dict[str, NotFoundError | TransientError]"
"""Errors of requests for single runs, by run id."""

Copy: TypeAlias = "RunRows | asyncpg.Record"
"""A copy of a run, as received or as stored."""


@dataclass(slots=True)
class Tally:
    """Counts of what a stream's sync has read and done so far."""

    pages: int = 0
    runs_inserted: int = 0
    runs_updated: int = 0
    runs_unchanged: int = 0
    runs_gone: int = 0
    rejects: int = 0

    def count(self, done: Loaded) -> None:
        """Add the result of a transaction."""
        self.runs_inserted += done.inserted
        self.runs_updated += done.updated
        self.runs_unchanged += done.unchanged
        self.runs_gone += done.gone

    def add(self, other: Tally) -> None:
        """Add what another process has read and done."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def count_once(self, met: int) -> None:
        """Count runs that several passes have read once; the last pass has read `met` runs, the whole listing."""
        self.runs_unchanged = max(0, met - self.runs_inserted - self.runs_updated - self.rejects)

    @property
    def runs_seen(self) -> int:
        """Runs received; those repeated on overlapping pages count once."""
        return self.runs_inserted + self.runs_updated + self.runs_unchanged + self.rejects


@dataclass(slots=True)
class Classified:
    """Classified pages.

    Attributes:
        pages: each item as planning needs it, page by page.
        new: rows of runs that the warehouse does not hold, by id.
        changed: rows of runs that differ from the stored ones, by id.
        older: ids of runs of which another copy, stored or listed, claims to be newer. `load` looks them up.
        unchanged: how many runs are stored as listed.
        valid: ids of runs with a valid copy.
        invalid: ids of runs with an invalid copy.
        batch: everything else to load.
    """

    pages: list[list[Listed]] = field(default_factory=list)
    new: dict[str, RunRows] = field(default_factory=dict)
    changed: dict[str, RunRows] = field(default_factory=dict)
    older: set[str] = field(default_factory=set)
    unchanged: int = 0
    valid: set[str] = field(default_factory=set)
    invalid: set[str | None] = field(default_factory=set)
    batch: Batch = field(default_factory=Batch)


class Intake:
    """Loads the pages of one stream.

    Args:
        store: the stream in the warehouse.
        normalizer: turns items into rows.
        listener: receives events about pages, batches and rejects.
        listing: where to look up a run whose stored copy claims to be newer than the listed one; None: do not.
        window: runs created outside of it are not loaded.
        retry: whether to normalize items again that are in quarantine.

    Attributes:
        tally: counts of what was read and done.
        newest: the largest `updated_at` read.
        doubt: why an item read since `begin` may be out of date, or may stand for several; empty if none does.
        has_undated: whether a run without a creation time was read.
    """

    def __init__(
        self,
        store: Store,
        normalizer: Normalizer,
        listener: Listener,
        *,
        listing: Listing | None = None,
        window: Window = EVERYTHING,
        retry: bool = False,
    ) -> None:
        self.tally = Tally()
        self.newest: datetime | None = None
        self.doubt = ""
        self.has_undated = False
        self._store = store
        self._workflow_id = clean_text(store.stream.workflow_id)
        self._normalizer = normalizer
        self._listener = listener
        self._listing = listing
        self._window = window
        self._retry = retry
        self._quarantined: dict[bytes, Quarantined] = {}
        self._requested: frozenset[str] = frozenset()
        self._latest: datetime | None = None  # a later `updated_at` is ignored
        self._rejected: set[bytes] = set()
        self._recent: dict[bytes, Listed] = {}  # recent items by their hash
        self._answered: dict[str, float] = {}

    async def begin(self) -> None:
        """Prepare for a pass."""
        self.doubt = ""
        self._recent.clear()
        self._latest = self._store.state.read_at + FUTURE
        self._quarantined |= {} if self._retry else await self._store.open_rejects()
        self._requested = await self._store.session.requested_workflows()

    async def process(self, pages: Sequence[Page], *, authoritative: bool = False) -> list[list[Listed]]:
        """Classify and load pages; return their items as planning needs them."""
        classified = await self.classify(pages, authoritative=authoritative)
        await self.load(classified)
        return classified.pages

    async def classify(self, pages: Sequence[Page], *, authoritative: bool = False) -> Classified:
        """Classify items as known, new, changed or invalid, and make rows of new and changed ones.

        Args:
            pages: the pages as read.
            authoritative: whether they are responses to requests for single runs; see `Batch`.
        """
        items, stored = await self._identify(pages)
        found = Classified(batch=Batch(authoritative=authoritative))
        for page, of_page in zip(pages, items, strict=True):
            listed: dict[bytes, Listed] = {}
            counts: Counter[str] = Counter()
            for ordinal, item in enumerate(of_page):
                if ordinal % PAUSE_EVERY == 0:
                    await asyncio.sleep(0)  # let other streams' commits proceed
                if item.digest not in listed:
                    shown = None if authoritative else self._recent.get(item.digest)  # on an overlapping page
                    listed[item.digest] = shown or self._classify_item(item, stored.get(item.key), found, counts)
                elif item.run_id is None:
                    self.doubt = TWINS
            found.pages.append([listed[item.digest] for item in of_page])
            if page.is_listed:
                self._recent |= listed
                for content in list(islice(self._recent, max(0, len(self._recent) - OVERLAPPING_ITEMS))):
                    del self._recent[content]
            found.unchanged += counts["unchanged"]
            self._announce(page, counts)
        batch, quarantined = found.batch, {each.run_id for each in self._quarantined.values()}
        batch.new, batch.changed = list(found.new.values()), list(found.changed.values())
        batch.resolved = sorted(
            run_id for run_id in found.valid - found.invalid if self._retry or run_id in quarantined
        )
        return found

    def peek(self, page: Page) -> list[Listed]:
        """Return the items of a page as planning needs them, without loading the page."""
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
        """Return the items with their run ids, and the stored state of these runs by id.

        An unchanged item is not parsed: the id near its beginning is right if the warehouse holds the same bytes under
        that id.
        """
        hashed = [[(raw, digest(raw), guess_id(raw)) for raw in page.items] for page in pages]
        guesses = [guess for items in hashed for _, _, guess in items if guess is not None]
        stored = dict(await self._store.known(guesses))
        found: list[list[Item]] = []
        for page, items in zip(pages, hashed, strict=True):
            found.append([])
            for raw, content, guess in items:
                is_known = guess in stored and stored[guess]["content_hash"] == content
                run_id = guess if is_known else _read_id(raw)
                found[-1].append(Item(raw, content, run_id, page.url, page.number, page.received_at))
        unasked = {item.run_id for items in found for item in items if item.run_id is not None}.difference(guesses)
        if unasked:
            stored |= await self._store.known(list(unasked))
        return found, stored

    def _classify_item(
        self, item: Item, stored: asyncpg.Record | None, found: Classified, counts: Counter[str]
    ) -> Listed:
        """Classify one item: unchanged, in quarantine already, or made into rows."""
        if stored is not None and stored["content_hash"] == item.digest and self._is_ours(stored):
            self._note_listed(stored, found.batch)
            return self._classify_unchanged(item, stored, found, counts)
        quarantined = self._quarantined.get(item.digest)
        if quarantined is not None and quarantined.reason not in ("other_workflow", "id_taken"):
            return self._classify_quarantined(item, quarantined, found, counts)
        try:
            rows = self._normalizer.normalize(item.raw, item.digest)
            self._check_identity(item, rows, stored)
        except RecordError as error:
            if quarantined is not None and quarantined.reason == error.reason:
                return self._classify_quarantined(item, quarantined, found, counts)
            found.batch.rejects.append(Reject(item.run_id, item, error.reason, error.message))
            found.invalid.add(item.run_id)
            counts["rejected"] += 1
            return Listed(item.key, None, None, known=False)
        if stored is not None:
            self._note_listed(stored, found.batch)
        return self._classify_rows(item, rows, stored, found, counts)

    def _is_ours(self, stored: asyncpg.Record) -> bool:
        """Return whether a stored run belongs to this listing, as far as its columns show."""
        is_own = stored["workflow_id"] == self._workflow_id
        is_here = bool(stored["listed_under"] == self._workflow_id)
        return is_here and (is_own or stored["workflow_id"] not in self._requested)

    def _check_identity(self, item: Item, rows: RunRows, stored: asyncpg.Record | None) -> None:
        """Check that a run belongs to this listing and has an id that fits.

        Raises:
            RecordError: the run names another workflow that is synced too, another such workflow listed the id first,
                or the id is too long.
        """
        if item.run_id is None:
            size = len(rows.run_id.encode())
            raise RecordError("invalid_field", f"id: expected at most {LONGEST_ID_BYTES} bytes, got {size}")
        if rows.workflow_id != self._workflow_id and rows.workflow_id in self._requested:
            raise RecordError("other_workflow", f"the run names the workflow {rows.workflow_id}, which is read too")
        if stored is None or stored["gone"] or self._workflow_id in (stored["workflow_id"], stored["listed_under"]):
            return
        if stored["listed_under"] in self._requested:
            raise RecordError("id_taken", ID_TAKEN.format(stored["listed_under"]))

    def _note_listed(self, stored: asyncpg.Record, batch: Batch) -> None:
        """Note that a stored run is in this listing, if this is not recorded yet."""
        if stored["gone"]:
            batch.restored.append(stored["id"])
        elif stored["listed_under"] != self._workflow_id:
            batch.claimed.append(stored["id"])
        elif not stored["is_ours"]:
            batch.shared.append(stored["id"])

    def _classify_quarantined(
        self, item: Item, quarantined: Quarantined, found: Classified, counts: Counter[str]
    ) -> Listed:
        counts["quarantined"] += self._count_reject(item.digest)
        found.invalid.add(quarantined.run_id)
        return Listed(quarantined.run_id or item.key, None, None, known=not quarantined.recent)

    def _classify_unchanged(
        self, item: Item, stored: asyncpg.Record, found: Classified, counts: Counter[str]
    ) -> Listed:
        if not stored["gone"] and self._window.holds(stored["created_at"]):
            counts["unchanged"] += 1  # one that is back is counted as updated
        if stored["id"] in found.changed and self._is_newest(item, stored, found.changed[stored["id"]]):
            del found.changed[stored["id"]]
        found.valid.add(stored["id"])
        self.has_undated = self.has_undated or stored["created_at"] is None
        self.note_time(stored["updated_at"])
        self._note_answer(item, stored["id"])
        times = (stored["created_at"], stored["updated_at"])
        return Listed(stored["id"], *times, known=not stored["recent"])

    def _classify_rows(
        self, item: Item, rows: RunRows, stored: asyncpg.Record | None, found: Classified, counts: Counter[str]
    ) -> Listed:
        """Take a new or changed run, unless another copy of it is newer."""
        is_same = stored is not None and _is_erased_and_the_same(rows, stored)
        if stored is not None and is_same and self._store.is_dry_run:  # else PostgreSQL compares all columns
            return self._classify_unchanged(item, stored, found, counts)
        group, kind = (found.new, "new") if stored is None else (found.changed, "changed")
        self.has_undated = self.has_undated or rows.created_at is None
        self.note_time(rows.updated_at)
        if self._window.holds(rows.created_at):
            if found.batch.authoritative or self._is_newest(item, rows, group.get(rows.run_id, stored)):
                counts[kind] += rows.run_id not in group
                group[rows.run_id] = rows
                found.valid.add(rows.run_id)
                found.batch.items[rows.run_id] = item
                self._note_answer(item, rows.run_id)
            elif item.received_at >= self._answered.get(rows.run_id, 0.0):
                found.older.add(rows.run_id)
        return Listed(
            rows.run_id,
            rows.created_at,
            rows.updated_at,
            known=stored is not None and is_same and not stored["recent"],
            expires_at=rows.retention_due_at,
        )

    def _is_newest(self, item: Item, copy: Copy, other: Copy | None) -> bool:
        """Return whether a copy of a run is newer than the newest other one, on these pages or stored.

        If `updated_at` does not decide, the copy received last does; pages may be handed on in another order.
        """
        mine, others = self._changed_at(copy), None if other is None else self._changed_at(other)
        if mine is None or others is None or mine == others:
            return item.received_at >= self._answered.get(item.key, 0.0)
        return mine > others

    def _changed_at(self, copy: Copy) -> datetime | None:
        """Return the time by which copies of a run are compared; None if there is none to trust."""
        if isinstance(copy, RunRows):
            time = effective_updated_at(copy.updated_at, copy.updated_on_day)
        else:
            time = effective_updated_at(copy["updated_at"], copy["updated_on_day"])
        return None if time is None or self._is_ahead(time) else time

    def _is_ahead(self, time: datetime) -> bool:
        return self._latest is not None and time > self._latest

    def _note_answer(self, item: Item, run_id: str) -> None:
        """Remember when a run was received, for the last few thousand runs."""
        if len(self._answered) >= REMEMBERED_ANSWERS:
            del self._answered[next(iter(self._answered))]
        self._answered[run_id] = item.received_at

    def note_time(self, updated_at: datetime | None) -> None:
        """Let the watermark advance to this time once everything is committed."""
        is_later = updated_at is not None and (self.newest is None or updated_at > self.newest)
        if updated_at is not None and is_later and not self._is_ahead(updated_at):
            self.newest = updated_at

    def _count_reject(self, key: bytes) -> bool:
        """Count a quarantined item once; return whether it was counted now."""
        is_first = key not in self._rejected
        self._rejected.add(key)
        self.tally.rejects += is_first
        return is_first

    def _announce(self, page: Page, counts: Mapping[str, int]) -> None:
        if not page.is_listed:
            return
        self.tally.pages += 1
        self._listener(
            PageRead(
                self._store.stream,
                page.number,
                sum(counts.values()),
                new=counts["new"],
                changed=counts["changed"],
                unchanged=counts["unchanged"],
                rejected=counts["rejected"],
                count=page.count,
                pages_total=None if page.count is None else max(1, -(-page.count // max(page.size, 1))),
            )
        )

    async def load(self, found: Classified) -> None:
        """Commit what `classify` found; count it and emit events after the commit."""
        batch, errors = found.batch, await self.ask(sorted(found.older))
        for run_id in errors:
            self.doubt = (
                f"the listed copy of the run {run_id} is older than the stored one, and the run could not be looked up"
            )
        if answered := found.older - errors.keys():  # the answers count, even if another listed copy is newer
            batch.new = [rows for rows in batch.new if rows.run_id not in answered]
            batch.changed = [rows for rows in batch.changed if rows.run_id not in answered]
            batch.resolved = [run_id for run_id in batch.resolved if run_id not in answered]
        self.tally.runs_unchanged += found.unchanged
        if batch:
            await finish_commit(self._commit(batch, found.unchanged))

    async def ask(self, ids: Sequence[str]) -> Errors:
        """Request runs one by one and load their current state; return the errors."""
        errors: Errors = {}
        if self._listing is not None:
            async with aclosing(self._listing.runs(ids)) as batches:
                async for answers in batches:
                    found = [answer for answer in answers.values() if isinstance(answer, Page)]
                    await self.process(found, authoritative=True)
                    errors |= {run_id: answer for run_id, answer in answers.items() if not isinstance(answer, Page)}
        return errors

    async def mark_gone(self, ids: Sequence[str]) -> None:
        """Set `gone_at` of runs that the API no longer lists."""
        if ids:
            await finish_commit(self._commit(Batch(gone=list(ids), resolved=list(ids))))

    async def _commit(self, batch: Batch, unchanged: int = 0) -> None:
        done, refused = await self._store.load(batch)
        batch.rejects += refused
        for reject in batch.rejects:
            self._count_reject(reject.digest)
            self._quarantined[reject.digest] = Quarantined(reject.run_id, reject.reason, recent=True)
            self._listener(RunQuarantined(self._store.stream, reject.run_id, reject.reason, reject.error))
        self.tally.count(done)
        self._listener(
            BatchLoaded(
                self._store.stream,
                inserted=done.inserted,
                updated=done.updated,
                unchanged=unchanged + done.unchanged,
                gone=done.gone,
                rejected=len(batch.rejects),
                rows=done.rows,
                seconds=done.seconds,
            )
        )


@dataclass(frozen=True, slots=True)
class StreamIO:
    """The two ends of a stream, its listing in the API and its rows in the warehouse, and the intake between them."""

    listing: Listing
    intake: Intake
    store: Store


def _read_id(raw: bytes) -> str | None:
    """Return the id of an item, cleaned; None if it has none, or one too long for an index."""
    run_id = peek_id(raw)
    return None if run_id is not None and len(run_id.encode("utf-8", "surrogatepass")) > LONGEST_ID_BYTES else run_id


def _is_erased_and_the_same(rows: RunRows, stored: asyncpg.Record) -> bool:
    """Return whether a run was erased, which leaves no hash, and has not changed since."""
    return stored["erased"] and (rows.status, rows.updated_at) == (stored["status"], stored["updated_at"])
