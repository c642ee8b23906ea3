"""Reconciles that are part of a sync: how much of one to read now, and how far it has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from etl.plan.order import Order
from etl.plan.slices import Reconciled, deadline
from etl.plan.window import EVERYTHING, Window

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from etl.db.session import StreamState
    from etl.db.store import Store
    from etl.plan.paging import Paging
    from etl.plan.slices import Allowance
    from etl.sync.crawl import Crawled


class Due(NamedTuple):
    """What a sync reads of a due reconcile.

    Attributes:
        window: EVERYTHING, or one slice; None if other streams have used up the share of this sync.
        pages: how many pages the reconcile still has to read.
        taken: how many of them this sync reads.
    """

    window: Window | None
    pages: int
    taken: int


async def due_part(store: Store, paging: Paging, allowance: Allowance, every: timedelta, now: datetime) -> Due | None:
    """Return what a sync reads of a stream's reconcile; None if none is due.

    A reconcile that takes more requests than are left of the share is read in slices, newest first. A listing that is
    not sorted by creation, newest first, or whose slices cannot be proved complete, is read as a whole.
    """
    state = store.state
    last = state.last_reconciled_at
    if not every or (last is not None and now - last < every):
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


def progress_of(state: StreamState, crawl: Crawled | None) -> Reconciled:
    """Return the progress of reconciles after a complete crawl of everything or of a slice, or after none."""
    if crawl is None:
        return Reconciled(None, state.reconcile_began_at, state.reconciled_since)
    began = state.reconcile_began_at if crawl.window.is_bounded else None
    began, since = began or crawl.began, crawl.window.since
    return Reconciled(began, None, None) if since is None else Reconciled(None, began, since)
