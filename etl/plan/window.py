"""A history load that is bounded by creation times."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from etl.plan.order import Listed, Order, latest_reading

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


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

    def begins_behind(self, items: Sequence[Listed], order: Order | None) -> bool:
        """Tell whether all runs of a page stand in front of the window, so that it begins on a later page."""
        times = [item.created_at for item in items if item.created_at is not None]
        return bool(times) and all(self._is_before(time, order) for time in times)

    def begins_after(self, items: Sequence[Listed], order: Order | None) -> bool:
        """Tell whether a page of a listing sorted by creation shows a run in front of the window."""
        return any(self._is_before(item.created_at, order) for item in items)

    def ends_before(self, items: Sequence[Listed], order: Order | None) -> bool:
        """Tell whether a page of a listing sorted by creation shows a run behind the window."""
        return any(self._is_behind(item.created_at, order) for item in items)

    def _is_before(self, created_at: datetime | None, order: Order | None) -> bool:
        if created_at is None:
            return False
        if order is Order.CREATED_DESC:
            return self.until is not None and created_at >= self.until
        return order is Order.CREATED_ASC and self.since is not None and latest_reading(created_at) < self.since

    def _is_behind(self, created_at: datetime | None, order: Order | None) -> bool:
        if created_at is None:
            return False
        if order is Order.CREATED_DESC:
            return self.since is not None and latest_reading(created_at) < self.since
        return order is Order.CREATED_ASC and self.until is not None and created_at >= self.until


EVERYTHING = Window()
