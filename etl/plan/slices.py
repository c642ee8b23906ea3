"""Slices: windows of creation times in which several processes, or several syncs, read a big listing."""

from __future__ import annotations

from datetime import UTC, datetime, time
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from etl.plan.order import Order, OrderObserver, latest_reading
from etl.plan.window import Window

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from etl.plan.order import Listed


def split(pages: Sequence[Sequence[Listed]]) -> list[Window]:
    """Return windows that begin about where the given pages begin; together they contain every time.

    Args:
        pages: the first page and some later ones, in order.

    Returns:
        The windows, newest first; none unless the pages prove that the listing is sorted by creation, newest first, and
        all of their items have a time.
    """
    observer = OrderObserver()
    for items in pages:
        observer.watch(items)
    times = [item.created_at for items in pages for item in items]
    is_sorted = observer.order is Order.CREATED_DESC and observer.is_settled and observer.is_by_creation
    if not is_sorted or None in times:
        return []
    by_day = any(latest_reading(moment) != moment for moment in times if moment is not None)
    bounds: list[datetime | None] = [None]
    for items in pages[1:]:
        bound = items[0].created_at if items else None
        if bound is not None and by_day:  # a date may stand for any time of its day, so no bound may divide a day
            bound = datetime.combine(bound.astimezone(UTC), time.min, UTC)
        above = bounds[-1]
        if bound is not None and (above is None or bound < above):
            bounds.append(bound)
    return [Window(since, until) for until, since in pairwise([*bounds, None])]


class Reconciled(NamedTuple):
    """The progress of a stream's reconciles.

    Attributes:
        at: when the reconcile that is now complete began; None if none is.
        began: when the unfinished reconcile began; None if there is none.
        since: the unfinished reconcile has compared the runs created since then.
    """

    at: datetime | None
    began: datetime | None
    since: datetime | None


def deadline(every: timedelta, last: datetime | None, began: datetime | None, now: datetime) -> datetime:
    """Return when a due reconcile has to be complete: `every` after it began, or after it became due."""
    return (min(began, now) if began else now if last is None else last + every) + every


class Allowance:
    """The requests that a process may spend on reconciles in one sync: `share` in total, of which `left` remain."""

    def __init__(self, share: int) -> None:
        self.share = self.left = share

    def take(self, pages: int, *, interval: timedelta, remaining: timedelta) -> int:
        """Return how many pages of a reconcile to read now, and deduct them.

        Usually what is left of the share. If even the whole share in each sync would not complete the reconcile in
        time, it is as much as each sync has to read.

        Args:
            pages: how many pages are left to read.
            interval: the time since the last sync; the next one is expected after the same time.
            remaining: the time until the reconcile has to be complete.
        """
        needed = pages if remaining <= interval else ceil(pages * interval / remaining)
        taken = needed if needed > self.share else min(pages, max(self.left, 0))
        self.left -= taken
        return taken
