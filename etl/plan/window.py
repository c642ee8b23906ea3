"""A range of creation times, to which a backfill can be limited."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec reads the annotations of a window
from typing import TYPE_CHECKING, NamedTuple

from etl.plan.order import Listed, Order, latest_reading

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

    def sides(self, items: Sequence[Listed], order: Order | None, *, by_creation: bool) -> set[int]:
        """Return where the dated items of a page are: `IN_FRONT` of the window, in it (0), or `BEHIND` it.

        The result is empty if the listing is not sorted by creation. If it may be sorted by change instead
        (`by_creation` is false), only an item that was both created and last changed before the window is behind it.
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
