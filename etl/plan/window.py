"""Ranges of creation times: to limit a backfill, or to read a big listing in slices.

Several processes of an invocation read slices of a listing concurrently. A reconcile that takes many requests is spread
over several syncs, each of which reads one slice.
"""

from __future__ import annotations

from datetime import UTC, datetime, time
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from etl.plan.order import Listed, Order, OrderObserver, latest_instant

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

IN_FRONT, BEHIND = -1, 1
"""On which side of a window a run outside of it is listed."""


class Window(NamedTuple):
    """Creation times from `since` (inclusive) to `until` (exclusive); None means unbounded."""

    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether the window has a bound."""
        return self.since is not None or self.until is not None

    def holds(self, created_at: datetime | None) -> bool:
        """Return whether the window contains a run; one without a time is in no bounded window."""
        if created_at is None:
            return not self.is_bounded
        return (self.since is None or created_at >= self.since) and (self.until is None or created_at < self.until)

    def sides(self, items: Sequence[Listed], order: Order | None, *, is_proven: bool) -> dict[str, int]:
        """Return where dated items are, by key: `IN_FRONT` of the window, in it (0), or `BEHIND` it.

        The result is empty if the listing is not sorted by creation. If it may be sorted by change instead
        (`is_proven` is false), only an item that was both created and last changed before the window is behind it.
        """
        if order is Order.CREATED_DESC and not is_proven:
            return {
                item.key: BEHIND
                for item in items
                if self._is_before(item.created_at) and self._is_before(item.updated_at)
            }
        if order is None or not order.by_creation or not is_proven:
            return {}
        too_late, too_early = (IN_FRONT, BEHIND) if order is Order.CREATED_DESC else (BEHIND, IN_FRONT)
        sides = {}
        for item in items:
            if item.created_at is not None:
                is_late = self.until is not None and item.created_at >= self.until
                sides[item.key] = too_late if is_late else too_early if self._is_before(item.created_at) else 0
        return sides

    def _is_before(self, moment: datetime | None) -> bool:
        return moment is not None and self.since is not None and latest_instant(moment) < self.since


EVERYTHING = Window()


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
    if not observer.proves(Order.CREATED_DESC) or None in times:
        return []
    by_day = any(latest_instant(moment) != moment for moment in times if moment is not None)
    bounds: list[datetime | None] = [None]
    for items in pages[1:]:
        bound = items[0].created_at if items else None
        if bound is not None and by_day:  # a date may stand for any time of its day, so no bound may divide a day
            bound = datetime.combine(bound.astimezone(UTC), time.min, UTC)
        above = bounds[-1]
        if bound is not None and (above is None or bound < above):
            bounds.append(bound)
    return [Window(since, until) for until, since in pairwise([*bounds, None])]


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
