"""A history load that is bounded by creation times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.plan.order import Listed, Order, latest_reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime


class WindowSearch:
    """Finds the first page of a window of creation times in a sorted listing, by bisection."""

    def __init__(self, order: Order, pages: int, *, since: datetime | None, until: datetime | None) -> None:
        self._descending = order is Order.CREATED_DESC
        self._bound = until if self._descending else since
        self._low, self._high = (1, pages) if self._bound is not None else (1, 1)

    def next_page(self) -> int | None:
        """The page to probe next, or None when `first_page` is known."""
        return (self._low + self._high) // 2 if self._low < self._high else None

    def observe(self, number: int, items: Iterable[Listed]) -> None:
        """Take in a probed page: does the window begin at or before it?"""
        times = [item.created_at for item in items if item.created_at is not None]
        begins = any(self._reached(moment) for moment in times)
        if begins or not times:
            self._high = number
        else:
            self._low = number + 1

    def _reached(self, moment: datetime) -> bool:
        if self._bound is None:
            return True
        return moment < self._bound if self._descending else latest_reading(moment) >= self._bound

    @property
    def first_page(self) -> int:
        """The page at which reading begins."""
        return self._low


def window_is_passed(
    items: Sequence[Listed], order: Order | None, *, since: datetime | None, until: datetime | None
) -> bool:
    """Whether a listing sorted by creation has left the window by the end of this page."""
    times = [item.created_at for item in items if item.created_at is not None]
    if not times:
        return False
    if order is Order.CREATED_DESC:
        return since is not None and latest_reading(times[-1]) < since
    return order is Order.CREATED_ASC and until is not None and times[-1] >= until


def in_window(created_at: datetime | None, *, since: datetime | None, until: datetime | None) -> bool:
    """Whether a run belongs to a bounded backfill: since inclusive, until exclusive; without a time, never."""
    if created_at is None:
        return since is None and until is None
    return (since is None or created_at >= since) and (until is None or created_at < until)
