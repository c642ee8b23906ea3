"""How far the newest end of a listing has to be read."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import TYPE_CHECKING

from etl.plan.order import Listed, Order, latest_reading, order_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta


def head_is_read(
    items: Sequence[Listed],
    order: Order,
    *,
    watermark: datetime | None,
    lookback: timedelta,
    now: datetime,
    by_day: bool = False,
    distance: int = 0,
) -> bool:
    """Tell whether everything below the items read from the newest end on is known.

    If every item is known, reading ends below the ties of the first one: an idle sync is one request, and no change
    hides behind a tie. After a new item, it ends at a known one strictly below `watermark - lookback`, so that ties and
    late commits around the watermark are read again.

    Args:
        items: of the listing, the newest first.
        order: in which they stand.
        watermark: of the stream.
        lookback: how far below the watermark to read again.
        now: the present time; a known item dated later does not show where new items end.
        by_day: whether some times are bare days, so that a change may be listed anywhere within the first item's day.
        distance: how many places an item may stand from where its time belongs.
    """
    times = [(key, item) for item in items if (key := order_key(item, order)) is not None]
    if len(times) <= distance or not items[-1].is_confirmed:
        return False
    first, lowest = times[0][0], latest_reading(times[-1 - distance][0])
    if all(item.is_confirmed for item in items):
        if by_day and order is Order.UPDATED_DESC:
            first = datetime.combine(first.astimezone(UTC), time.min, UTC)
        return lowest < first
    newest = first if first <= now else next((key for key, item in times if not item.is_confirmed), first)
    start = newest if watermark is None else min(watermark, newest)
    return lowest < start - lookback
