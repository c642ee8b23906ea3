"""Runs that the listing does not show: asked for one by one, or found by bisection where the listing is sorted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from etl.api.pages import Page
from etl.decode import REPLACEMENT, peek_id
from etl.errors import NotFoundError, TransientError
from etl.plan import GoneSearch, Order, latest_reading

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from etl.db.store import Store
    from etl.plan import Listed
    from etl.sync.intake import Intake
    from etl.sync.listing import Listing

SEARCH_SHARE = 4
"""A search for gone runs gives up for a full pass once it has read a quarter of the listing."""


UNANSWERED_RUNS = 3
"""So many runs may stay without an answer when each is asked for; with more it is the API that fails."""


@dataclass(slots=True)
class Unsettled:
    """Runs of which asking told nothing."""

    unasked: list[str] = field(default_factory=list)
    """Their ids were cleaned, and by such a one the API knows no run."""
    unanswered: list[str] = field(default_factory=list)
    """The API had no sensible answer; they stay as they are."""
    unnamed: list[str] = field(default_factory=list)
    """The answer has no id that could be read: it was taken in, as one more item of the quarantine."""

    def __bool__(self) -> bool:
        return bool(self.unasked or self.unanswered)


async def look_up(listing: Listing, intake: Intake, ids: Sequence[str]) -> Unsettled:
    """Ask for runs one by one, some at once: take in their present state, or mark them gone.

    Returns:
        Those of which the present state is still not known.

    Raises:
        TransientError: there are more than `UNANSWERED_RUNS` without an answer.
    """
    unsettled = Unsettled(unasked=[run_id for run_id in ids if REPLACEMENT in run_id])
    known = [run_id for run_id in ids if REPLACEMENT not in run_id]
    for start in range(0, len(known), listing.window):
        some = known[start : start + listing.window]
        told = await asyncio.gather(*(_ask(listing, run_id) for run_id in some))
        answers = dict(zip(some, told, strict=True))
        pages = {run_id: answer for run_id, answer in answers.items() if isinstance(answer, Page)}
        await intake.load(await intake.sort(list(pages.values())))
        await intake.mark_gone([run_id for run_id, answer in answers.items() if answer is None])
        failures = {run_id: answer for run_id, answer in answers.items() if isinstance(answer, TransientError)}
        unsettled.unanswered += failures
        unsettled.unnamed += [run_id for run_id, page in pages.items() if peek_id(page.items[0]) is None]
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


class GoneHunt:
    """Marks the runs that left a listing sorted by creation, by bisection.

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
        # PostgreSQL, and so perhaps the API, takes no time for the latest one.
        self._undated_first = order is Order.CREATED_DESC
        self._listed: set[str] = set()

    async def find(self) -> bool:
        """Search.

        Returns:
            Whether it found exactly as many as were missing. False where the listing does not allow the search, moved
            meanwhile, or reading it all is cheaper.
        """
        count = self._listing.count
        if not self._order.by_creation or count is None or self._store.filters != ("ALL", "ALL"):
            return False
        if self._listing.by_token or await self._store.open_rejects():
            return False
        take, ours = self._listing.extent.take, await self._store.count()
        search = GoneSearch(count=count, take=take, warehouse_count=ours)
        end = await self._newest(count)
        budget = max(3, (self._listing.extent.pages or 1) // SEARCH_SHARE)
        while (number := search.next_page()) is not None:
            items = await self._read(number)
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
        await self._intake.mark_gone(gone)
        return True

    async def _newest(self, count: int) -> str | None:
        """The item at the end where new ones show: while it and the count stay, nothing moves."""
        page = await self._listing.probe(1 if self._order is Order.CREATED_DESC else max(1, count))
        return peek_id(page.items[0]) if len(page.items) == 1 else None

    async def _read(self, number: int) -> Sequence[Listed] | None:
        """A page, None where it holds what the warehouse does not."""
        sorted_ = await self._intake.sort([await self._listing.page(number)])
        await self._intake.load(sorted_)
        self._listed.update(sorted_.idents)
        return None if sorted_.news else sorted_.pages[0]

    def _in_order(self, items: Sequence[Listed]) -> bool:
        """Whether the page is sorted as strictly as the search needs, its undated items where they are taken to be."""
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
        """The runs of the stretches with a surplus that were not listed there; None where the numbers do not agree."""
        gone: list[str] = []
        for stretch in search.suspects:
            here = await self._store.runs_in(self._order, stretch, undated_first=self._undated_first)
            missing = [run_id for run_id in here if run_id not in self._listed]
            if len(missing) != stretch.surplus or not all(_has_its_place(here[run_id]) for run_id in missing):
                return None
            gone.extend(missing)
        return gone


def _has_its_place(created_at: datetime | None) -> bool:
    """Whether its time tells where a run stands; without one, or with a bare day, it may be on any page."""
    return created_at is not None and latest_reading(created_at) == created_at
