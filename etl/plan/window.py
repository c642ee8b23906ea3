"""Ranges of creation times: to limit a backfill, or to read a big listing in slices."""

from __future__ import annotations

from datetime import UTC, datetime, time
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from etl.plan.order import Listed, Order, OrderObserver, latest_instant

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    def sides(self, items: Sequence[Listed], order: Order | None, *, is_proven: bool) -> set[int]:
        """Return where the dated items of a page are: `IN_FRONT` of the window, in it (0), or `BEHIND` it.

        The result is empty if the listing is not sorted by creation. If it may be sorted by change instead
        (`is_proven` is false), only an item that was both created and last changed before the window is behind it.
        """
        if order is Order.CREATED_DESC and not is_proven:
            times = [item.updated_at for item in items if self._is_before(item.created_at)]
            return {BEHIND} if any(map(self._is_before, times)) else set()
        if order is None or not order.by_creation or not is_proven:
            return set()
        too_late, too_early = (IN_FRONT, BEHIND) if order is Order.CREATED_DESC else (BEHIND, IN_FRONT)
        sides = set()
        for moment in (item.created_at for item in items if item.created_at is not None):
            if self.until is not None and moment >= self.until:
                sides.add(too_late)
            elif self._is_before(moment):
                sides.add(too_early)
            else:
                sides.add(0)
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
