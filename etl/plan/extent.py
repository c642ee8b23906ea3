"""How far a listing reaches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Extent:
    """How far a listing reaches, as its pages tell it.

    `take` is what the server really hands out a page; `count` its latest total, None where it sends none; `end` the
    last page with items, None while it has not shown. A full page never ends a listing whose count is unknown or
    disagrees: only raw sizes and counts decide. Where pages are of uneven size (a server that filters what it has cut
    into pages), the count tells no place, so that only an empty page ends it.
    """

    take: int
    count: int | None = None
    end: int | None = None
    _first_short: int | None = None
    _last_filled: int = 0
    _uneven: bool = False

    def begin(self) -> None:
        """Begin to read anew: where the listing ends is to show once more."""
        self.end = self._first_short = None
        self._last_filled, self._uneven = 0, False

    def observe(self, number: int, size: int, take: int, count: int | None) -> None:
        """Take in that page `number` held `size` raw items, with the headers' `take` and `count`."""
        self.count = count
        if number == 1:
            # A server may cap `take` without saying so: then its first page is short although more is counted.
            silently_capped = count is not None and 0 < size < take and size < count
            self.take = size if silently_capped else max(take, size)
        self._compare_sizes(number, size)
        if size == 0:
            self.end = number - 1 if self.end is None else min(self.end, number - 1)
        elif not self._uneven and count is not None and size < self.take and (number - 1) * self.take + size >= count:
            self.end = number
        elif self.end is not None and number >= self.end:
            self.end = None

    def _compare_sizes(self, number: int, size: int) -> None:
        """Notice a short page above one with items, or one longer than the first."""
        if size:
            self._last_filled = max(self._last_filled, number)
        if 0 < size < self.take:
            self._first_short = number if self._first_short is None else min(self._first_short, number)
        follows_short = self._first_short is not None and self._first_short < self._last_filled
        if not self._uneven and (size > self.take or follows_short):
            self._uneven, self.end = True, None

    @property
    def pages(self) -> int | None:
        """How many pages the count asks for; None when it is unknown."""
        return None if self.count is None else max(1, -(-self.count // self.take))

    def wants(self, number: int) -> bool:
        """Whether page `number` may hold items: no page before it has shown the end."""
        return self.end is None or number <= self.end
