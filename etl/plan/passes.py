"""What one reading of a listing that may move meanwhile proves."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from etl.plan.order import Order

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_PASSES = 6
"""How often a listing is read anew before a crawl stops waiting for a quiet pass."""

LARGE_LISTING_PAGES = 200
"""Above this many pages, two passes must do: later reconciles catch what a never quiet API hides."""


@dataclass(slots=True)
class Pass:
    """One reading of a listing.

    Pages are read one after another while runs come and go: one that comes above the place of reading pushes items down
    (they are read twice), one that goes pulls them up (one is missed). Both show in the counts, unless they happen
    together; then what came shows at the listing's new end, where it has one.

    Attributes:
        whole: whether it began at the first page.
        base: the count when it began.
        counts: the count that came with each page.
        items, distinct: how many items were read, and how many different ones.
        news: how many of them the warehouse did not hold.
        arrived: how many stand now beyond the item that was the newest at the beginning; None where that is unknown.
        anchored: whether all that can arrive must show there.
    """

    whole: bool = True
    base: int | None = None
    counts: dict[int, int | None] = field(default_factory=dict)
    items: int = 0
    distinct: int = 0
    news: int = 0
    arrived: int | None = None
    anchored: bool = False
    _trail: Any = field(default_factory=lambda: blake2b(digest_size=16))

    def observe(self, number: int, count: int | None, idents: Iterable[str], fresh: int) -> None:
        """Take in page `number`: its (different) items, of which `fresh` are new to this pass."""
        if not self.counts and self.base is None:
            self.base = count
        self.counts[number] = count
        size = 0
        self._trail.update(f"\n{number} {count}".encode())
        for ident in idents:
            size += 1
            self._trail.update(b"\0" + ident.encode("utf-8", "surrogatepass"))
        self.items += size
        self.distinct += fresh

    @property
    def fingerprint(self) -> bytes:
        """What the pass showed; two in a row with the same one saw the same listing."""
        digest: bytes = self._trail.digest()
        return digest

    @property
    def steady(self) -> bool:
        """Whether so far every answer gave the same count and no item came twice."""
        return self.items == self.distinct and set(self.counts.values()) <= {self.base}

    @property
    def growing(self) -> bool:
        """Whether the count never fell from one page to the next, and was no less than what was read."""
        counts = [self.base, *self.counts.values()]
        risen = all(above is not None and here is not None and here >= above for above, here in pairwise(counts))
        return risen and (counts[-1] or 0) >= self.distinct

    @property
    def quiet(self) -> bool:
        """Whether nothing was seen to move, and as many items came as were counted."""
        return self.steady and not self.arrived and (not self.whole or self.base in (None, self.distinct))

    @property
    def conclusive(self) -> bool:
        """Whether the pages are one consistent picture for certain: quiet, and nothing could move unseen."""
        if len(self.counts) <= 1 and self.whole:
            return self.quiet
        return self.quiet and self.base is not None and self.anchored and self.arrived is not None

    def only_grew(self, last_count: int | None) -> bool:
        """Whether all movement is explained by what was created at the newest end since the pass began.

        Args:
            last_count: the count at the time when `arrived` was looked up.
        """
        if not self.anchored or self.arrived is None or self.base is None or None in self.counts.values():
            return False
        return self.base + self.arrived == last_count

    def gaps(self, order: Order, take: int, last_count: int) -> list[int]:
        """Pages to read again in a listing that only grew (see `only_grew`).

        A page that was answered before the one above it had slid down leaves a gap between them. Where its items stand
        now follows from the counts.

        Args:
            order: of the listing; an oldest-first one grows at its end and slides nowhere.
            take: page size in force.
            last_count: the listing's present count.
        """
        if order is Order.CREATED_ASC or self.base is None:
            return []
        pages: set[int] = set()
        for number in sorted(self.counts):
            above, here = self.counts.get(number - 1), self.counts[number]
            if above is not None and here is not None and here < above:
                first = (number - 1) * take + last_count - above
                last = (number - 1) * take + last_count - here - 1
                pages.update(range(max(0, first) // take + 1, max(0, last) // take + 2))
        return sorted(pages)


def passes_allowed(pages: int) -> int:
    """How many passes a listing of `pages` pages may take until a quiet one is given up."""
    return MAX_PASSES if pages <= LARGE_LISTING_PAGES else 2
