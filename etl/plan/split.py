"""Where to split a big listing into windows of creation times, so that several processes can read it."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import TYPE_CHECKING, NamedTuple

from etl.plan.order import Order, OrderObserver, latest_reading
from etl.plan.window import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etl.plan.order import Listed


class Part(NamedTuple):
    """A window of a listing sorted by creation, newest first, and about how many runs precede it."""

    window: Window
    start: int


def split(pages: Sequence[tuple[int, Sequence[Listed]]]) -> list[Part]:
    """Return windows that begin about where the given pages begin; together they contain every time.

    Args:
        pages: the first page and some later ones, in order, each with the position of its first item.

    Returns:
        The windows; none unless the pages prove that the listing is sorted by creation, newest first, and all of their
        items have a time.
    """
    observer = OrderObserver()
    for _, items in pages:
        observer.watch(items)
    times = [item.created_at for _, items in pages for item in items]
    is_sorted = observer.order is Order.CREATED_DESC and observer.is_settled and observer.is_by_creation
    if not is_sorted or None in times:
        return []
    by_day = any(latest_reading(moment) != moment for moment in times if moment is not None)
    bounds: list[tuple[datetime | None, int]] = [(None, 0)]
    for start, items in pages[1:]:
        bound = items[0].created_at if items else None
        if bound is not None and by_day:  # a date may stand for any time of its day, so no bound may divide a day
            bound = datetime.combine(bound.astimezone(UTC), time.min, UTC)
        above = bounds[-1][0]
        if bound is not None and (above is None or bound < above):
            bounds.append((bound, start))
    lower = [*(bound for bound, _ in bounds[1:]), None]
    return [Part(Window(since, until), start) for since, (until, start) in zip(lower, bounds, strict=True)]
