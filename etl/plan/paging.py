"""Which pages to request, so that adjacent pages overlap although the API only takes a page number and a size."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

PageT = TypeVar("PageT")

FIRST_TRIED = 1000
"""The page size to try first if the settings do not fix one."""

HEAD, SMALLEST_HEAD, HEAD_BYTES = 100, 20, 2 * 1024 * 1024
"""How many runs a sync reads first at the newest end, where usually none are new; fewer if runs are large."""

OUT_OF_PLACE = 0.1
"""In a sorted listing, a run may be this share of a page from its sorted position, as after a slow insert."""

LINK = 2
"""How many runs adjacent pages share. In a shuffled listing, a single run may be shared by chance."""

MAX_SIZE = 10_000
"""The largest page size to request."""

SIZES = (1000, 500, 250, 100, 50, 25, 10, 5, 3, 1)
"""If the server refuses a size, the next smaller one is tried."""

FITTING_BYTES = 5 * 1024 * 1024
"""The target size of a page in bytes; it leaves room for a larger page, up to 8 MiB."""

FEW, FEW_FITTING_BYTES = 12, 20 * 1024 * 1024
"""A page of at most so many runs may have so many bytes."""


class Span(NamedTuple):
    """One request for a page of a listing: page `number` (from 1) of `size` items."""

    number: int
    size: int

    @property
    def start(self) -> int:
        """The position of the first item, from 0."""
        return (self.number - 1) * self.size

    @property
    def end(self) -> int:
        """The position behind the last item."""
        return self.number * self.size


class Answer(NamedTuple, Generic[PageT]):
    """A page, with what planning needs to know of it.

    `keys` identify its items: the run's id, or the hash of an item without an id. `total` is the server's count of all
    items and `size` the page size that it reports; None if it does not. `token` requests the next page if the server
    pages by token.
    """

    page: PageT
    keys: tuple[str, ...]
    total: int | None
    size: int | None = None
    token: str | None = None


def head_size(run_bytes: int | None) -> int:
    """Return how many runs to read first at the newest end, by their average size."""
    return HEAD if not run_bytes else min(max(HEAD_BYTES // run_bytes, SMALLEST_HEAD), HEAD)


def next_span(position: int, size: int, overlap: int = LINK, *, capped: bool = False) -> Span:
    """Return the page that ends furthest past `position` and begins at least `overlap` items before it.

    Sizes between half of `size` and `size` are tried. If none fits, which happens only for sizes below 13, the page is
    slightly larger, or overlaps less if the server is `capped` at this size.
    """
    start = max(position - overlap, 0)

    def page(of: int) -> Span:
        return Span(start // of + 1, of)

    best = page(max(range(size, max(size // 2, 1) - 1, -1), key=lambda of: of - start % of))
    if best.end > position:
        return best
    if overlap == 0:
        return Span(position // size + 1, size)
    if capped:
        return next_span(position, size, min(overlap, LINK) - 1, capped=True)
    return next(page(of) for of in range(size + 1, position + 2) if page(of).end > position)


def meets(page: Sequence[str], head: Sequence[str]) -> bool:
    """Return whether a page reaches `head`, the first items of a part that was read before."""
    wanted = set(head)
    upto = max((place for place, key in enumerate(page, 1) if key in wanted), default=0)
    return link(page[:upto], head) >= min(LINK, len(head))


def link(above: Sequence[str], below: Sequence[str]) -> int:
    """Return how many runs the end of one page shares with the beginning of the next; 0 if the pages do not meet.

    The shared runs are in the same order on both pages. A few other runs may be between them: those that were created,
    removed or moved to the newest end between the two responses.
    """
    places = {key: place for place, key in enumerate(below)}
    shared = [(place, places[key]) for place, key in enumerate(above) if key in places]
    if not shared:
        return 0
    rising: list[int] = []  # rising[n]: the smallest end of n + 1 shared runs that are in the same order on both
    for _, place in shared:
        at = bisect_left(rising, place)
        rising[at : at + 1] = [place]
    edge = max(len(above) - shared[0][0], max(place for _, place in shared) + 1)
    return len(rising) if 2 * len(rising) > edge else 0


@dataclass(slots=True)
class Paging:
    """How the server pages, learned from its responses.

    Attributes:
        size: the largest page size to request.
        known: the largest page size that the server has given or reported; None until then.
        fit: how many runs make a page of about `FITTING_BYTES`.
        may_round: whether the server returned a smaller page than requested, and none of the requested size since.
        aligned: whether pages cannot overlap, because the server rounds page sizes, or pages by token.
        fixed: whether the server gives larger pages than requested; all are requested with its size.
        uneven: whether short pages occur before the end, as from a server that filters each page after cutting it, or
            reports the requested size although it gives smaller pages.
    """

    size: int
    known: int | None = None
    fit: int = MAX_SIZE
    may_round: bool = False
    aligned: bool = False
    fixed: bool = False
    uneven: bool = False

    def next(self, position: int, overlap: int = LINK, most: int = MAX_SIZE, *, capped: bool = False) -> Span:
        """Return the page to request if everything before `position` has been read.

        Args:
            position: where to continue.
            overlap: how many items to read again.
            most: the largest size; a page of less than 13 may be slightly larger, to overlap, unless `capped`.
            capped: whether `most` must not be exceeded.
        """
        size = self.size if self.fixed else min(self.usual, most)
        if self.aligned:
            return Span(position // size + 1, size)
        return next_span(position, size, overlap, capped=capped or size == self.known)

    def spans(self, position: int, end: int) -> list[Span]:
        """Return the pages to request from one position to another."""
        spans: list[Span] = []
        while position < end:
            spans.append(self.next(position))
            position = spans[-1].end
        return spans

    @property
    def usual(self) -> int:
        """The size to request now."""
        return min(self.size, self.fit)

    @property
    def expected(self) -> int:
        """The size to plan with: the server may not give the largest pages."""
        return min(self.size if self.known or self.size < FIRST_TRIED else HEAD, self.fit)

    @property
    def distance(self) -> int:
        """How many places a run may be from its sorted position."""
        return int(min(self.size, HEAD) * OUT_OF_PLACE)

    def lower(self, size: int) -> None:
        """Request only smaller pages from now on: the server refuses this size."""
        self.known = self.size = min(self.size, next((step for step in SIZES if step < size), 1))
        self.may_round = False

    def notice_cap(self, span: Span, answer: Answer[Any]) -> bool:
        """Return whether the server may have lowered its cap without telling; then request only such pages.

        That is, whether a page is short although the count shows that it is not the end of the listing.
        """
        items = len(answer.keys)
        is_inside = answer.total is not None and span.end <= answer.total
        if not is_inside or not 0 < items < min(span.size, self.size) or self.uneven or self.aligned:
            return False
        self.known = self.size = items
        return True

    def weigh(self, items: int, size: int) -> None:
        """Adapt the number of runs per page to a page of `size` bytes; it at most doubles."""
        if items and size:
            fitting = FITTING_BYTES * items // size
            if fitting < FEW:  # adjacent pages share two runs: smaller pages would read most runs twice
                fitting = min(max(FEW_FITTING_BYTES * items // size, LINK + 1), FEW)
            self.fit = min(fitting, self.fit if self.aligned else 2 * self.fit)

    def observe(self, span: Span, answer: Answer[Any], seen: int = 0) -> Span:
        """Learn from the response to `span`; return the page that it is, whose size may be another one.

        `seen` is how many items from the beginning of the listing are known already. For example:
        - 1,000 requested, 100 reported: pages are capped at 100.
        - 98 requested then, and 98 received: the cap is confirmed, and smaller pages are exact.
        - 98 requested then, and 90 reported: the server rounds page sizes, so that pages cannot overlap.
        - More received than requested: the server ignores the size.
        - 1,000 requested, 100 received and no size reported, but a larger count: pages are capped silently.
        """
        items, is_first = len(answer.keys), span.number == 1
        if answer.token is not None:
            self.aligned = True
        if answer.size is not None and answer.size != span.size:
            if self.aligned:  # the requested size was limited, to one that the server rounds
                self.fit = min(self.fit, answer.size)
            self.fixed = self.fixed or answer.size > span.size
            self.aligned = self.aligned or self.fixed or (self.may_round and not is_first)
            # Whole pages may be as large as any before. Otherwise, each rounded page would make the next ones smaller.
            self.known = answer.size if span.size >= (self.known or 0) else max(self.known or 0, answer.size)
            self.size = self.known if self.aligned else answer.size
            self.may_round = True
            return Span(span.number, answer.size)
        if items == span.size and 2 * span.size >= self.size:
            self.may_round = False
            self.known = self.size if items >= FIRST_TRIED else self.known
        if items > span.size:
            self.size, self.aligned, self.fixed = items, True, True
            return Span(span.number, items)
        # The cap may be silent. Without a count, a short first page may be capped or may be the whole listing.
        more = items > max(LINK, seen) if answer.total is None else items < answer.total
        if is_first and 0 < items < span.size and more:
            self.known = self.size = min(self.size, items)
            self.uneven = self.uneven or answer.size is not None  # or it filters pages after cutting them
            return Span(span.number, items)
        return span
