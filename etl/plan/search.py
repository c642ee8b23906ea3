"""Finding what left a listing sorted by creation without reading all of it, by bisection.

A break is a place inside a page where the creation time changes. If page 5, of 100 runs, has one behind its 30th run,
the API lists 430 runs above it; if the warehouse holds 433 on that side of the time, 3 have gone there: the surplus.
Between two breaks with the same surplus nothing has gone. A search is a mapping from the numbers of the pages read to
their breaks; two more stand in front of the first page and behind the last one.
"""

from __future__ import annotations

from itertools import pairwise
from math import log2
from typing import TYPE_CHECKING, NamedTuple

from etl.plan.order import Order

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from etl.plan.order import Listed


class Break(NamedTuple):
    """A change of the creation time: `surplus` more runs stand above it in the warehouse, `below` is the next time."""

    surplus: int
    below: datetime | None = None


def break_of(items: Sequence[Listed], order: Order) -> int | None:
    """Return the place of the first item created at another time than the one above it; None if not sorted by time."""
    times = [item.created_at for item in items if item.created_at is not None]
    if len(times) < len(items) or times != sorted(times, reverse=order is Order.CREATED_DESC):
        return None
    return next((place for place, (above, below) in enumerate(pairwise(times), 1) if above != below), None)


def _with_surplus(breaks: Mapping[int, Break]) -> Iterator[tuple[int, int]]:
    """Yield neighbouring pages read between which the warehouse holds more runs than the API lists."""
    for above, below in pairwise(sorted(breaks)):
        if breaks[above].surplus != breaks[below].surplus:
            yield above, below


def next_page(breaks: Mapping[int, Break]) -> int | None:
    """Return the page to read next; None when every stretch with a surplus was read."""
    for above, below in _with_surplus(breaks):
        if below - above > 1:
            # What has expired is oldest, so the far end is asked first; then the middle.
            return below - 1 if len(breaks) == 2 else (above + below) // 2
    return None


def pages_left(breaks: Mapping[int, Break]) -> float:
    """Return how many pages the search may still have to read: halving finds one run among n pages with log2(n) + 1."""
    left = 0.0
    for above, below in _with_surplus(breaks):
        unread, gone = below - above - 1, abs(breaks[below].surplus - breaks[above].surplus)
        left += min(unread, gone * (log2(max(unread / gone, 1)) + 2))
    return left


def stretches(breaks: Mapping[int, Break]) -> list[tuple[datetime | None, datetime | None, int]]:
    """Return where runs are gone: the creation times between which they are (the second not included), and how many."""
    return [
        (breaks[above].below, breaks[below].below, breaks[below].surplus - breaks[above].surplus)
        for above, below in _with_surplus(breaks)
    ]
