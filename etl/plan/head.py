"""How far the end of a listing at which news show has to be read."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import TYPE_CHECKING

from etl.plan.order import Listed, Order, OrderObserver, latest_reading, order_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta


class HeadWatch:
    """Watches items from the newest on and says when known and unchanged ground is met.

    While all is known, the reading ends below the ties of the first item (so an idle sync is one request, and no change
    hides behind a tie). Once something was new, it ends at a known item strictly below `watermark - lookback`, so that
    ties and late commits around the watermark are read again.

    Args:
        order: of the listing; items of an oldest-first one are to be given from its end upwards.
        watermark: of the stream.
        lookback: how far below the watermark is read again.
        now: by our clock; a known item ahead of it tells nothing of how far the news reach.
        by_day: whether some times are bare days, so that a change of the first item's day may stand anywhere in it.
    """

    def __init__(
        self, order: Order, *, watermark: datetime | None, lookback: timedelta, now: datetime, by_day: bool = False
    ) -> None:
        self._order = Order.CREATED_DESC if order is Order.CREATED_ASC else order
        self._watermark = watermark
        self._lookback = lookback
        self._now = now
        self._by_day = by_day
        self._observer = OrderObserver()
        self._all_known = True
        self._first: datetime | None = None
        self._first_news: datetime | None = None
        self._lowest: datetime | None = None
        self._last: Listed | None = None

    def watch(self, items: Sequence[Listed]) -> None:
        """Take in the next page, its newest item first."""
        self._observer.watch(items)
        for item in items:
            self._all_known = self._all_known and item.is_ground
            self._last = item
            key = order_key(item, self._order)
            if key is not None:
                self._first = key if self._first is None else self._first
                self._lowest = latest_reading(key)
                if self._first_news is None and not item.is_ground:
                    self._first_news = key

    @property
    def in_order(self) -> bool:
        """Whether the items stand as the order says."""
        return self._observer.agrees_with(self._order)

    @property
    def met(self) -> bool:
        """Whether what follows is known ground."""
        if self._last is None or not self._last.is_ground or self._first is None or self._lowest is None:
            return False
        if self._all_known:
            by_day = self._by_day and self._order is Order.UPDATED_DESC
            top = datetime.combine(self._first.astimezone(UTC), time.min, UTC) if by_day else self._first
            return self._lowest < top
        newest = self._first if self._first <= self._now else self._first_news or self._first
        mark = newest if self._watermark is None else min(self._watermark, newest)
        return self._lowest < mark - self._lookback
