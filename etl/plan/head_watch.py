"""How far the newest end of a listing has to be read."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import TYPE_CHECKING

from etl.plan.order import Listed, Order, OrderObserver, latest_reading, order_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta


class HeadWatch:
    """Watches items from the newest on and tells when everything below is known.

    While every item is known, reading ends below the ties of the first item: an idle sync is one request, and no change
    hides behind a tie. After a new item, it ends at a known item strictly below `watermark - lookback`, so that ties
    and late commits around the watermark are read again.

    Args:
        order: of the listing; pass the items of an oldest-first one from its end upwards.
        watermark: of the stream.
        lookback: how far below the watermark to read again.
        now: the present time; a known item dated later does not show where new items end.
        by_day: whether some times are bare days, so that a change may be listed anywhere within the first item's day.
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
        self._first_new: datetime | None = None
        self._lowest: datetime | None = None
        self._last: Listed | None = None

    def watch(self, items: Sequence[Listed]) -> None:
        """Watch the next page, its newest item first."""
        self._observer.watch(items)
        for item in items:
            self._all_known = self._all_known and item.is_confirmed
            self._last = item
            key = order_key(item, self._order)
            if key is not None:
                self._first = key if self._first is None else self._first
                self._lowest = latest_reading(key)
                if self._first_new is None and not item.is_confirmed:
                    self._first_new = key

    @property
    def in_order(self) -> bool:
        """Whether the items are sorted as the order says."""
        return self._observer.agrees_with(self._order)

    @property
    def is_done(self) -> bool:
        """Whether everything below the last item is known."""
        if self._last is None or not self._last.is_confirmed or self._first is None or self._lowest is None:
            return False
        if self._all_known:
            by_day = self._by_day and self._order is Order.UPDATED_DESC
            top = datetime.combine(self._first.astimezone(UTC), time.min, UTC) if by_day else self._first
            return self._lowest < top
        newest = self._first if self._first <= self._now else self._first_new or self._first
        start = newest if self._watermark is None else min(self._watermark, newest)
        return self._lowest < start - self._lookback
