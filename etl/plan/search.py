"""Bisection: finding the runs that are gone from a listing sorted by creation, without reading all of it.

A break is a position within a page where the creation time changes. If page 5, of 100 runs, has a break after its 30th
run, the API lists 430 runs before the break. If the warehouse holds 433 runs before that time, its surplus is 3: so
many are gone there. Between two breaks with the same surplus no run is gone. A search maps the numbers of the pages
read to their breaks; the beginning and the end of the listing are breaks, too.
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
    """A change of the creation time: the warehouse has `surplus` more runs before it; `below` is the time after it."""

    surplus: int
    below: datetime | None = None


def break_of(items: Sequence[Listed], order: Order) -> int | None:
    """Return the position of the first item whose time differs from the item before; None if the page is not sorted."""
    times = [item.created_at for item in items if item.created_at is not None]
    if len(times) < len(items) or times != sorted(times, reverse=order is Order.CREATED_DESC):
        return None
    return next((place for place, (above, below) in enumerate(pairwise(times), 1) if above != below), None)


def _with_surplus(breaks: Mapping[int, Break]) -> Iterator[tuple[int, int]]:
    """Yield the adjacent pages read between which the warehouse holds more runs than the API lists."""
    for above, below in pairwise(sorted(breaks)):
        if breaks[above].surplus != breaks[below].surplus:
            yield above, below


def next_page(breaks: Mapping[int, Break]) -> int | None:
    """Return the page to read next; None if no run can be missing on a page that was not read."""
    for above, below in _with_surplus(breaks):
        if below - above > 1:
            # Expired runs are the oldest, so the end is read first, then the middle.
            return below - 1 if len(breaks) == 2 else (above + below) // 2
    return None


def pages_left(breaks: Mapping[int, Break]) -> float:
    """Return how many pages the search may still have to read: about log2(n) + 2 for each gone run among n pages."""
    left = 0.0
    for above, below in _with_surplus(breaks):
        unread, gone = below - above - 1, abs(breaks[below].surplus - breaks[above].surplus)
        left += min(unread, gone * (log2(max(unread / gone, 1)) + 2))
    return left


def stretches(breaks: Mapping[int, Break]) -> list[tuple[datetime | None, datetime | None, int]]:
    """Return where runs are gone: the creation times between which they are (the second exclusive), and how many."""
    return [
        (breaks[above].below, breaks[below].below, breaks[below].surplus - breaks[above].surplus)
        for above, below in _with_surplus(breaks)
    ]
