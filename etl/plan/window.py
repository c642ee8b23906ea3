"""A history load that is bounded by creation times."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from etl.plan.order import Listed, Order, latest_reading

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

IN_FRONT, BEHIND = -1, 1
"""Where a listing sorted by creation shows a run outside of a window."""


class Window(NamedTuple):
    """Creation times from `since` (inclusive) to `until` (exclusive); None is open."""

    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_bounded(self) -> bool:
        """Tell whether there is a bound at all."""
        return self.since is not None or self.until is not None

    def holds(self, created_at: datetime | None) -> bool:
        """Tell whether a run is in the window; without a time, never in one that has a bound."""
        if created_at is None:
            return not self.is_bounded
        return (self.since is None or created_at >= self.since) and (self.until is None or created_at < self.until)

    def sides(self, items: Sequence[Listed], order: Order | None, *, by_creation: bool) -> set[int]:
        """Return on which sides of the window the dated items of a page stand: `IN_FRONT`, 0 (in it) or `BEHIND`.

        In a listing that is not sorted by creation this cannot be told, and the set is empty. Where it may be sorted by
        change instead (`by_creation` is false), nothing of the window stands behind an item that was both created and
        last changed before it.
        """
        if order is Order.CREATED_DESC and not by_creation:
            times = [item.updated_at for item in items if self._is_before(item.created_at)]
            return {BEHIND} if any(map(self._is_before, times)) else set()
        if order is None or not order.by_creation or not by_creation:
            return set()
        too_late, too_early = (IN_FRONT, BEHIND) if order is Order.CREATED_DESC else (BEHIND, IN_FRONT)
        sides = set()
        for time in (item.created_at for item in items if item.created_at is not None):
            if self.until is not None and time >= self.until:
                sides.add(too_late)
            elif self._is_before(time):
                sides.add(too_early)
            else:
                sides.add(0)
        return sides

    def _is_before(self, time: datetime | None) -> bool:
        return time is not None and self.since is not None and latest_reading(time) < self.since


EVERYTHING = Window()
