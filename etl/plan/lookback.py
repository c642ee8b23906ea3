"""How far a sync has to read from the newest end of a listing."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import TYPE_CHECKING

from etl.plan.order import Listed, Order, latest_instant, order_key

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
    """Return whether everything below `items` is known, so that reading can stop.

    If all items are known, reading stops below the items that share the first item's time: an idle sync costs one
    request, and no change is hidden by a tie. If some are new, reading stops at a known item that is strictly older
    than `watermark - lookback`, so that ties and late commits near the watermark are read again.

    Args:
        items: the items read so far, newest first.
        order: the order of the listing.
        watermark: the watermark of the stream.
        lookback: how far below the watermark to read again.
        now: the current time; a known item dated later does not show where new items end.
        by_day: whether some times are only dates, so that a change may be anywhere within the first item's day.
        distance: how many places an item may be from its sorted position.
    """
    times = [(key, item) for item in items if (key := order_key(item, order)) is not None]
    if len(times) <= distance or not items[-1].is_confirmed:
        return False
    first, lowest = times[0][0], latest_instant(times[-1 - distance][0])
    if all(item.is_confirmed for item in items):
        if by_day:
            first = datetime.combine(first.astimezone(UTC), time.min, UTC)
        return lowest < first
    newest = first if first <= now else next((key for key, item in times if not item.is_confirmed), first)
    start = newest if watermark is None else min(watermark, newest)
    return lowest < start - lookback
