"""How far a listing reaches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Extent:
    """How far a listing reaches, as its pages tell it.

    `take` is what the server really hands out a page; `count` its latest total, None where it sends none; `end` the
    last page with items, None while it has not shown. A full page never ends a listing whose count is unknown or
    disagrees: only raw sizes and counts decide.
    """

    take: int
    count: int | None = None
    end: int | None = None

    def observe(self, number: int, size: int, take: int, count: int | None) -> None:
        """Take in that page `number` held `size` raw items, with the headers' `take` and `count`."""
        self.count = count
        if number == 1:
            # A server may cap `take` without saying so: then its first page is short although more is counted.
            silently_capped = count is not None and 0 < size < take and size < count
            self.take = size if silently_capped else max(take, size)
        if size == 0:
            self.end = number - 1 if self.end is None else min(self.end, number - 1)
        elif count is not None and size < self.take and (number - 1) * self.take + size >= count:
            self.end = number
        elif self.end is not None and number >= self.end:
            self.end = None

    @property
    def pages(self) -> int | None:
        """How many pages the count asks for; None when it is unknown."""
        return None if self.count is None else max(1, -(-self.count // self.take))

    def wants(self, number: int) -> bool:
        """Whether page `number` may hold items: no page before it has shown the end."""
        return self.end is None or number <= self.end
