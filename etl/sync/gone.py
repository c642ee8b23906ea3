"""Runs that the listing does not show: looked up one by one, or found by bisection where the listing is sorted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from etl.api.pages import Page
from etl.decode import REPLACEMENT, peek_id
from etl.errors import NoDocumentError, NotFoundError, TransientError
from etl.plan import GoneSearch, Order, Span, latest_reading

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from etl.db.store import Store
    from etl.plan import Listed
    from etl.sync.intake import Intake
    from etl.sync.listing import Listing

LOOKED_UP = 50
"""So many runs that a pass did not show are looked up one by one."""

SAMPLED = 20
"""Of more runs than that, so many are looked up after a complete pass before the others are marked with them."""

SEARCH_SHARE = 4
"""A search for gone runs gives up for a full pass once it has read a quarter of the listing."""

UNANSWERED_RUNS = 3
"""So many runs may stay without an answer when each is looked up; with more it is the API that fails."""


@dataclass(slots=True)
class Unsettled:
    """Result of looking up runs; those in the lists stay as they are."""

    unnamed: list[str] = field(default_factory=list)
    """The API knows no run by an id that was cleaned, or answered with something that is not a run."""
    unanswered: list[str] = field(default_factory=list)
    """The API had no sensible answer."""
    listed: int = 0
    """How many runs the API still knows."""

    def __bool__(self) -> bool:
        return bool(self.unnamed or self.unanswered)


async def look_up(listing: Listing, intake: Intake, ids: Sequence[str]) -> Unsettled:
    """Ask for runs one by one, some at once: take in their present state, or mark them gone.

    Raises:
        TransientError: there are more than `UNANSWERED_RUNS` without an answer.
    """
    unsettled = Unsettled(unnamed=[run_id for run_id in ids if REPLACEMENT in run_id])
    known = [run_id for run_id in ids if REPLACEMENT not in run_id]
    for start in range(0, len(known), listing.window):
        some = known[start : start + listing.window]
        results = await asyncio.gather(*(_ask(listing, run_id) for run_id in some))
        answers = dict(zip(some, results, strict=True))
        pages = [answer for answer in answers.values() if isinstance(answer, Page)]
        await intake.take_in(pages)
        unsettled.unnamed += [run_id for run_id, answer in answers.items() if _is_nameless(answer)]
        await intake.mark_gone([run_id for run_id, answer in answers.items() if answer is None])
        failures = {
            run_id: answer
            for run_id, answer in answers.items()
            if isinstance(answer, TransientError) and not _is_nameless(answer)
        }
        unsettled.unanswered += failures
        unsettled.listed += sum(not _is_nameless(page) for page in pages)
        if len(unsettled.unanswered) > UNANSWERED_RUNS:
            raise next(iter(failures.values()))
    return unsettled


async def _ask(listing: Listing, run_id: str) -> Page | TransientError | None:
    try:
        page = await listing.run(run_id)
        if peek_id(page.items[0]) != run_id:
            page = await listing.run(run_id)  # an answer to something else: it may have been a passing fault
    except NotFoundError:
        return None
    except TransientError as error:
        return error
    if peek_id(page.items[0]) not in (run_id, None):
        return TransientError(f"asked for the run {run_id}, the API answered with another one")
    return page


def _is_nameless(answer: Page | TransientError | None) -> bool:
    """Tell whether the answer is JSON, but not a run: no object, or one without an id."""
    return isinstance(answer, NoDocumentError) or (isinstance(answer, Page) and peek_id(answer.items[0]) is None)


async def settle_unseen(listing: Listing, intake: Intake, unseen: Sequence[str], *, complete: bool) -> bool:
    """Look up runs that a pass did not show; after a complete pass, of many only a sample.

    Args:
        listing: the source side.
        intake: takes in the answers.
        unseen: ids, those created last first.
        complete: whether the pass proved that it read everything listed.

    Returns:
        Whether nothing speaks against the pass: no run of the sample is listed after all.
    """
    if complete and len(unseen) > LOOKED_UP:
        half = SAMPLED // 2
        sample = [*unseen[:half], *unseen[half :: max(1, len(unseen) // half)][:half]]
        found = await look_up(listing, intake, sample)
        rest = [run_id for run_id in unseen if run_id not in set(sample)]
        if not (found.listed or found.unanswered):
            await intake.mark_gone([*found.unnamed, *rest])
            return True
        await look_up(listing, intake, rest)
        return False
    found = await look_up(listing, intake, unseen[:LOOKED_UP])
    if complete:
        await intake.mark_gone(found.unnamed)
    return not found.unanswered


class GoneHunt:
    """Finds the runs that left a listing sorted by creation, by bisection; they are looked up before they are marked.

    Args:
        listing: the source side; its count is what the API counts now.
        intake: takes in the pages read.
        store: the warehouse side.
        order: of the listing.
    """

    def __init__(self, listing: Listing, intake: Intake, store: Store, order: Order) -> None:
        self._listing = listing
        self._intake = intake
        self._store = store
        self._order = order
        # PostgreSQL, and so perhaps the API, sorts runs without a time as the latest ones.
        self._undated_first = order is Order.CREATED_DESC
        self._listed: set[str] = set()

    async def find(self) -> bool:
        """Search.

        Returns:
            Whether it found exactly as many as were missing. False where the listing does not allow the search, moved
            meanwhile, or reading it all is cheaper.
        """
        count, size = self._listing.count, self._listing.paging.size
        if not self._order.by_creation or count is None or self._store.filters != ("ALL", "ALL"):
            return False
        if self._listing.paging.aligned or await self._store.open_rejects():
            return False
        search = GoneSearch(count=count, size=size, warehouse_count=await self._store.count())
        end = await self._newest(count)
        budget = max(3, -(-count // size) // SEARCH_SHARE)
        while (number := search.next_page()) is not None:
            items = await self._read(Span(number, size))
            budget -= 1
            if items is None or self._listing.count != count or budget < 0 or not self._in_order(items):
                return False
            at = search.breaks(number, items)
            above = 0
            if at is not None:
                above = await self._store.count_above(self._order, at[1], undated_first=self._undated_first)
            search.observe(number, at, above)
        gone = await self._missing(search)
        if gone is None or await self._newest(count) != end or self._listing.count != count:
            return False
        if (await self._listing.probe(count + 1)).items:
            return False  # the count is not where the listing ends
        return await settle_unseen(self._listing, self._intake, gone, complete=True)

    async def _newest(self, count: int) -> str | None:
        """Return the item at the end where new ones show: while it and the count stay, nothing moves."""
        page = await self._listing.probe(1 if self._order is Order.CREATED_DESC else max(1, count))
        return peek_id(page.items[0]) if len(page.items) == 1 else None

    async def _read(self, span: Span) -> Sequence[Listed] | None:
        """Read a page; None where it holds what the warehouse does not."""
        found = await self._intake.classify([await self._listing.read(span)])
        await self._intake.load(found)
        self._listed.update(found.keys)
        return None if found.has_new else found.pages[0]

    def _in_order(self, items: Sequence[Listed]) -> bool:
        """Tell whether the page is sorted as strictly as the search needs, its undated items where they should be."""
        dated = [item.created_at for item in items if item.created_at is not None]
        if self._order is Order.CREATED_ASC:
            dated.reverse()
        if any(below > above for above, below in pairwise(dated)):
            return False
        if not all(map(_has_its_place, dated)):
            return False
        undated = [place for place, item in enumerate(items) if item.created_at is None]
        places = range(len(undated)) if self._undated_first else range(len(items) - len(undated), len(items))
        return undated == list(places)

    async def _missing(self, search: GoneSearch) -> list[str] | None:
        """Return the runs of the stretches with a surplus that were not listed there; None if the numbers disagree."""
        gone: list[str] = []
        for stretch in search.suspects:
            here = await self._store.runs_in(self._order, stretch, undated_first=self._undated_first)
            missing = [run_id for run_id in here if run_id not in self._listed]
            if len(missing) != stretch.surplus or not all(_has_its_place(here[run_id]) for run_id in missing):
                return None
            gone.extend(missing)
        return gone


def _has_its_place(created_at: datetime | None) -> bool:
    """Tell whether a time says where a run stands; without one, or with a bare day, it may be on any page."""
    return created_at is not None and latest_reading(created_at) == created_at
