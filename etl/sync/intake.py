"""From pages to committed rows. Each item is classified on its own; known items are recognized by their hash."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from etl.api.pages import Page
from etl.db.batch import ID_TAKEN, Batch, Item, Loaded, Reject
from etl.db.liveness import finish_commit
from etl.db.store import Quarantined, Stored
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

    from etl.db.store import Store
    from etl.errors import NotFoundError, RejectReason, TransientError
    from etl.normalize.normalizer import Normalizer
    from etl.sync.listing import Listing

REMEMBERED_ANSWERS = 5000
"""How many runs to remember the time of the response for, which decides which of two copies is newer."""

PAUSE_EVERY = 100
"""How many items to classify before other tasks may run: their commits would wait meanwhile."""

FUTURE = timedelta(days=1)
"""An `updated_at` further ahead of PostgreSQL's clock than this is ignored."""

DECIDED_ANEW = ("other_workflow", "id_taken")
"""Items in quarantine for these reasons are tried again each time that they are listed."""

TWINS = "identical items without ids on one page cannot be told apart"

TWINS_HINT = (
    "Some quarantined items have no id, and equal ones cannot be told apart. "
    "Ask whoever runs the API to give every run an id; see: cortex-etl rejects list"
)

Errors: TypeAlias = "dict[str, NotFoundError | TransientError]"
"""Errors of requests for single runs, by run id."""

Copy: TypeAlias = "RunRows | Stored"
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
        batch: what to load; `load` adds the runs to it.
        stored: the stored state of the runs on the pages, by id.
        pages: each item as planning needs it, page by page.
        newest: the newest valid copies of the runs, by id.
        older: ids of runs of which another copy, stored or listed, claims to be newer. `load` looks them up.
        invalid: ids of runs with an invalid copy.
    """

    batch: Batch
    stored: Mapping[str, Stored]
    pages: list[list[Listed]] = field(default_factory=list)
    newest: dict[str, Copy] = field(default_factory=dict)
    older: set[str] = field(default_factory=set)
    invalid: set[str | None] = field(default_factory=set)


class Intake:
    """Loads the pages of one stream.

    Args:
        store: the stream in the warehouse.
        normalizer: turns items into rows.
        listener: receives events about pages, batches and rejects.
        listing: where to look up a run whose stored copy claims to be newer than the listed one; None to load items
            again that are in quarantine.
        window: runs created outside of it are not loaded.

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
        self._quarantined: dict[bytes, Quarantined] = {}
        self._requested: frozenset[str] = frozenset()
        self._latest = store.state.read_at + FUTURE  # a later `updated_at` is ignored
        self._rejected: set[bytes] = set()  # the hashes of quarantined items that were counted
        self._recent: dict[bytes, Listed] = {}  # recent items by their hash
        self._answered: dict[str, float] = {}  # when recent runs were received

    async def begin(self) -> None:
        """Prepare for a pass."""
        self.doubt = ""
        self._recent.clear()
        self._quarantined |= {} if self._listing is None else await self._store.open_rejects()
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
        found = Classified(Batch(authoritative=authoritative), stored)
        for page, of_page in zip(pages, items, strict=True):
            listed: dict[bytes, Listed] = {}
            for ordinal, item in enumerate(of_page):
                if ordinal % PAUSE_EVERY == 0:
                    await asyncio.sleep(0)  # let other streams' commits proceed
                if item.digest in listed:
                    self.doubt = TWINS if item.run_id is None else self.doubt
                elif item.digest in self._recent and not authoritative:  # an overlapping page showed it
                    listed[item.digest] = self._recent[item.digest]
                else:
                    listed[item.digest] = self._classify_item(item, found)
            found.pages.append([listed[item.digest] for item in of_page])
            if page.is_listed:
                self._announce(page, len(listed.keys() - self._recent.keys()))
                self._recent |= listed
                for content in list(islice(self._recent, max(0, len(self._recent) - OVERLAPPING_ITEMS))):
                    del self._recent[content]
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

    async def _identify(self, pages: Sequence[Page]) -> tuple[list[list[Item]], dict[str, Stored]]:
        """Return the items with their run ids, and the stored state of these runs by id.

        An unchanged item is not parsed: the id near its beginning is right if the warehouse holds the same bytes under
        that id.
        """
        hashed = [[(raw, digest(raw), guess_id(raw)) for raw in page.items] for page in pages]
        guesses = [guess for items in hashed for _, _, guess in items if guess is not None]
        stored = await self._store.known(guesses)
        found: list[list[Item]] = []
        for page, items in zip(pages, hashed, strict=True):
            found.append([])
            for raw, content, guess in items:
                is_known = guess in stored and stored[guess].digest == content
                run_id = guess if is_known else _read_id(raw)
                found[-1].append(Item(raw, content, run_id, page.url, page.number, page.received_at))
        unasked = {item.run_id for items in found for item in items if item.run_id is not None}.difference(guesses)
        if unasked:
            stored |= await self._store.known(list(unasked))
        return found, stored

    def _classify_item(self, item: Item, found: Classified) -> Listed:
        """Classify one item: invalid, unchanged, or made into rows."""
        stored, quarantined = found.stored.get(item.key), self._quarantined.get(item.digest)
        is_listed_here = stored is not None and stored.listed_under == self._workflow_id
        try:
            if stored is not None and is_listed_here and stored.digest == item.digest:
                copy: Copy = stored
            elif quarantined is None or quarantined.reason in DECIDED_ANEW:
                copy = self._normalizer.normalize(item.raw, item.digest)
            else:
                return self._classify_invalid(item, quarantined.reason, "", found)
            self._check_identity(item, copy, stored)
        except RecordError as error:
            return self._classify_invalid(item, error.reason, error.message, found)
        if stored is not None:
            self._note_listed(stored, found.batch)
        return self._classify_copy(item, copy, stored, found)

    def _check_identity(self, item: Item, copy: Copy, stored: Stored | None) -> None:
        """Check that a run belongs to this listing and has an id that fits.

        Raises:
            RecordError: the run names another workflow that is synced too, another such workflow listed the id first,
                or the id is too long.
        """
        if item.run_id is None:
            size = len(copy.run_id.encode())
            raise RecordError("invalid_field", f"id: expected at most {LONGEST_ID_BYTES} bytes, got {size}")
        if copy.workflow_id != self._workflow_id and copy.workflow_id in self._requested:
            raise RecordError("other_workflow", f"the run names the workflow {copy.workflow_id}, which is read too")
        if stored is None or stored.gone or self._workflow_id in (stored.workflow_id, stored.listed_under):
            return
        if stored.listed_under in self._requested:
            raise RecordError("id_taken", ID_TAKEN.format(stored.listed_under))

    def _classify_invalid(self, item: Item, reason: RejectReason, error: str, found: Classified) -> Listed:
        """Quarantine an item, unless it is in quarantine for the same reason."""
        quarantined = self._quarantined.get(item.digest)
        found.invalid.add(item.run_id)
        if quarantined is not None and quarantined.reason == reason:
            self._count_reject(item.digest)
            return Listed(item.key, None, None, known=not quarantined.recent)
        found.batch.rejects.append(Reject(item.run_id, item, reason, error))
        return Listed(item.key, None, None, known=False)

    def _note_listed(self, stored: Stored, batch: Batch) -> None:
        """Note that a stored run is in this listing, if this is not recorded yet."""
        if stored.gone:
            batch.restored.append(stored.run_id)
        elif stored.listed_under != self._workflow_id:
            batch.claimed.append(stored.run_id)
        elif not stored.is_ours:
            batch.shared.append(stored.run_id)

    def _classify_copy(self, item: Item, copy: Copy, stored: Stored | None, found: Classified) -> Listed:
        """Take a copy of a run, unless another one is newer; it is the stored one if the run is unchanged."""
        # An erased run has no hash. PostgreSQL compares all of its columns, but not in a dry run.
        is_same = stored is not None and (
            copy is stored or (stored.erased and (copy.status, copy.updated_at) == (stored.status, stored.updated_at))
        )
        if stored is not None and is_same and self._store.is_dry_run:
            copy = stored
        self.has_undated = self.has_undated or copy.created_at is None
        self.note_time(copy.updated_at)
        if self._window.holds(copy.created_at):
            other = found.newest.get(copy.run_id, stored)
            if found.batch.authoritative or self._is_newest(item, copy, other):
                found.newest[copy.run_id] = copy
                found.batch.items[copy.run_id] = item
                self._answered[copy.run_id] = item.received_at
                if len(self._answered) > REMEMBERED_ANSWERS:
                    del self._answered[next(iter(self._answered))]
            elif item.received_at >= self._answered.get(copy.run_id, 0.0):
                found.older.add(copy.run_id)
        return Listed(
            copy.run_id,
            copy.created_at,
            copy.updated_at,
            known=stored is not None and is_same and not stored.recent,
            expires_at=copy.retention_due_at if isinstance(copy, RunRows) else None,
        )

    def _is_newest(self, item: Item, copy: Copy, other: Copy | None) -> bool:
        """Return whether a copy of a run is newer than the newest other one, on these pages or stored.

        If `updated_at` does not decide, the copy received last does; pages may be handed on in another order.
        """
        if other is not None and other is not copy:
            mine, others = self._changed_at(copy), self._changed_at(other)
            if mine is not None and others is not None and mine != others:
                return mine > others
        return item.received_at >= self._answered.get(copy.run_id, 0.0)

    def _changed_at(self, copy: Copy) -> datetime | None:
        """Return the time by which copies of a run are compared; None if there is none to trust."""
        time = effective_updated_at(copy.updated_at, copy.updated_on_day)
        return None if time is None or time > self._latest else time

    def note_time(self, updated_at: datetime | None) -> None:
        """Let the watermark advance to this time once everything is committed."""
        is_later = updated_at is not None and (self.newest is None or updated_at > self.newest)
        if updated_at is not None and is_later and updated_at <= self._latest:
            self.newest = updated_at

    def _count_reject(self, key: bytes) -> None:
        """Count a quarantined item, once."""
        self.tally.rejects += key not in self._rejected
        self._rejected.add(key)

    def _announce(self, page: Page, items: int) -> None:
        self.tally.pages += 1
        total = None if page.count is None else max(1, -(-page.count // max(page.size, 1)))
        self._listener(PageRead(self._store.stream, page.number, items, page.count, total))

    async def load(self, found: Classified) -> None:
        """Commit what `classify` found; count it and emit events after the commit."""
        batch, errors = found.batch, await self.ask(sorted(found.older))
        for run_id in errors:
            self.doubt = (
                f"the listed copy of the run {run_id} is older than the stored one, and the run could not be looked up"
            )
        for run_id in found.older - errors.keys():  # the answer counts, even if another listed copy is newer
            found.newest.pop(run_id, None)
        unchanged = 0
        for run_id, copy in found.newest.items():
            if isinstance(copy, Stored):
                unchanged += not copy.gone  # one that is back is counted as updated
            else:
                (batch.changed if run_id in found.stored else batch.new).append(copy)
        held = found.newest if self._listing is None else {each.run_id for each in self._quarantined.values()}
        batch.resolved = sorted((found.newest.keys() & held) - found.invalid)
        self.tally.runs_unchanged += unchanged
        if batch:
            await finish_commit(self._commit(batch, unchanged))

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
