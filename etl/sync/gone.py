"""Runs that the listing no longer shows: looked up one by one, or found by bisection if the listing is sorted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from etl.decode.items import peek_id
from etl.errors import NoDocumentError, NotFoundError
from etl.plan.order import Order
from etl.plan.paging import Span
from etl.plan.search import Break, break_of, next_page, pages_left, stretches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from etl.db.store import Store
    from etl.sync.intake import Errors, Intake, StreamIO
    from etl.sync.listing import Listing

LOOKED_UP = 50
"""How many runs that a pass did not show are looked up at most."""

SAMPLED = 20
"""If more are missing after a complete pass, so many are looked up; if all of these are gone, so are the others."""

TRIAL_SHARE = 0.05
"""This share of a listing may be read on trial: runs that expired together are found with few pages."""

NOT_LISTED = (NotFoundError, NoDocumentError)
"""The errors of a request for a run that the API does not list; the second also if the run's id was cleaned."""


async def look_up(intake: Intake, ids: Sequence[str]) -> Errors:
    """Request runs one by one: load their current state, or mark them as gone; return the errors."""
    errors = await intake.ask(ids)
    for run_id, error in errors.items():
        if not isinstance(error, NOT_LISTED):
            intake.doubt = f"the listing does not show the run {run_id}, and it could not be looked up"
    await intake.mark_gone([run_id for run_id, error in errors.items() if isinstance(error, NotFoundError)])
    return errors


async def settle_unseen(intake: Intake, unseen: Sequence[str], *, complete: bool) -> bool:
    """Look up runs that a pass did not show; if there are many after a complete pass, only a sample.

    Args:
        intake: requests and loads them.
        unseen: their ids, most recently created first.
        complete: whether the pass was proved complete.

    Returns:
        Whether the pass still counts as complete: the API answered for each run that was looked up, and none of a
        sample is listed after all.
    """
    sample, rest = list(unseen[:LOOKED_UP]), list[str]()
    if complete and len(unseen) > LOOKED_UP:
        half = SAMPLED // 2
        sample = [*unseen[:half], *unseen[half :: max(1, len(unseen) // half)][:half]]
        rest = [run_id for run_id in unseen if run_id not in set(sample)]
    errors = await look_up(intake, sample)
    absent = [run_id for run_id, error in errors.items() if isinstance(error, NOT_LISTED)]
    if rest and len(absent) < len(sample):
        await look_up(intake, rest)
        return False
    if complete:
        await intake.mark_gone([*absent, *rest])
    return len(absent) == len(errors)


async def settle_unseen_elsewhere(listing: Listing, intake: Intake, unseen: Mapping[str, Sequence[str]]) -> None:
    """Mark runs of listings that are not read any more as gone, if the API answers that no app has them.

    Stops at the first look-ups that the API does not answer.

    Args:
        listing: a listing of the same workflow, of which a complete pass did not show the runs.
        intake: marks the runs.
        unseen: the apps whose listings contained the runs, by run id.
    """
    runs, absent = list(unseen), list[str]()
    for start in range(0, len(runs), listing.concurrency):
        some = runs[start : start + listing.concurrency]
        answers = await asyncio.gather(*(listing.lacks(run_id, unseen[run_id]) for run_id in some))
        absent += [run_id for run_id, is_absent in zip(some, answers, strict=True) if is_absent]
        if None in answers:  # each further request may take several attempts; the next reconcile asks again
            break
    await intake.mark_gone(absent)


async def find_gone(io: StreamIO, order: Order) -> None:
    """Find runs that are gone from a listing sorted by creation, by bisection; look them up before they are marked.

    Does nothing if the listing does not allow the search, if it moves in the meantime, or if reading all is cheaper.
    """
    listing, store = io.listing, io.store
    count, paging = listing.count, listing.paging
    if not order.by_creation or count is None or store.filters != ("ALL", "ALL"):
        return
    if paging.aligned or await store.open_rejects():
        return
    size = paging.usual
    pages = max(1, -(-count // size))
    breaks = {0: Break(0), pages + 1: Break(await store.count() - count)}
    listed, end = set[str](), await _newest(listing, order)
    while (number := next_page(breaks)) is not None:
        read = len(breaks) - 2
        if read > int(pages * TRIAL_SHARE) and read + pages_left(breaks) >= pages:
            return
        span = Span(number, size)
        (items,) = await io.intake.process([await listing.read(span)])
        listed.update(item.key for item in items)
        place = break_of(items, order)
        if place is None or listing.count != count:
            return
        below = items[place].created_at
        assert below is not None  # noqa: S101 - the break is between two times; this only tells the type checker
        breaks[number] = Break(await store.count_above(order, below) - span.start - place, below)
    gone = await _missing(store, order, breaks, listed)
    if gone is None or await _newest(listing, order) != end:
        return
    if listing.count == count and not (await listing.probe(count + 1)).items:  # the count is where the listing ends
        await settle_unseen(io.intake, gone, complete=True)


async def _newest(listing: Listing, order: Order) -> str | None:
    """Return the item at the end where new ones appear: while it and the count stay the same, nothing moves."""
    page = await listing.probe(1 if order is Order.CREATED_DESC else max(1, listing.count or 0))
    return peek_id(page.items[0]) if len(page.items) == 1 else None


async def _missing(store: Store, order: Order, breaks: dict[int, Break], listed: set[str]) -> list[str] | None:
    """Return the runs that are missing between breaks with different surpluses; None if the numbers disagree."""
    gone: list[str] = []
    for upper, lower, surplus in stretches(breaks):
        missing = [run_id for run_id in await store.runs_between(order, upper, lower) if run_id not in listed]
        if len(missing) != surplus:
            return None
        gone += missing
    return gone
