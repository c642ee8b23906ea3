"""Finding what left a listing without reading all of it."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from etl.plan.order import Listed


@dataclass(frozen=True, slots=True, order=True)
class _Point:
    """A place in the listing where the key strictly changes.

    `offset` items stand above it, and `surplus` more in the warehouse; `below` is the key of the first item under the
    break (None at the two ends).
    """

    offset: int
    surplus: int = field(compare=False)
    below: datetime | None = field(compare=False)


@dataclass(frozen=True, slots=True)
class Suspects:
    """A stretch of the listing that was read whole and in which the warehouse holds more than the API.

    The warehouse's runs with `upper >= created_at > lower` (descending; mirrored when ascending; None is open) that are
    not among the items read have gone.
    """

    upper: datetime | None
    lower: datetime | None
    surplus: int


class GoneSearch:
    """Finds runs that left a listing sorted by creation, by bisection instead of reading it all.

    Wherever the key strictly changes inside a page, the number of items above that break is known for the API (its
    offset) and for the warehouse (a count); their difference says how many have gone above. Stretches without a
    difference are never read.
    """

    def __init__(self, *, count: int, size: int, warehouse_count: int) -> None:
        self._size = size
        self._pages = max(1, -(-count // size))
        self._points = [_Point(-1, 0, None), _Point(count, warehouse_count - count, None)]
        self._read: set[int] = set()

    def breaks(self, number: int, items: Sequence[Listed]) -> tuple[int, datetime] | None:
        """The first strict change of key in a page: the offset of the item below it, and that item's key."""
        keys = [item.created_at for item in items]
        for place in range(1, len(keys)):
            above, below = keys[place - 1], keys[place]
            if above is not None and below is not None and above != below:
                return (number - 1) * self._size + place, below
        return None

    def observe(self, number: int, at: tuple[int, datetime] | None, warehouse_above: int) -> None:
        """Take in page `number`: its break (from `breaks`) and how many runs the warehouse holds above that break."""
        self._read.add(number)
        if at is not None:
            insort(self._points, _Point(at[0], warehouse_above - at[0], at[1]))

    def _span(self, above: _Point, below: _Point) -> range:
        first = max(above.offset, 0) // self._size + 1
        last = min((max(below.offset, 1) - 1) // self._size + 1, self._pages)
        return range(first, last + 1)

    def next_page(self) -> int | None:
        """The page to read next, or None when every stretch with a surplus was read."""
        for above, below in pairwise(self._points):
            if below.surplus != above.surplus:
                unread = [number for number in self._span(above, below) if number not in self._read]
                if unread:
                    # What has expired is oldest, so the far end is asked first; then the middle.
                    return unread[-1] if not self._read else unread[len(unread) // 2]
        return None

    @property
    def suspects(self) -> list[Suspects]:
        """The stretches that hold the gone runs; complete when `next_page` is None."""
        return [
            Suspects(above.below, below.below, below.surplus - above.surplus)
            for above, below in pairwise(self._points)
            if below.surplus != above.surplus
        ]
