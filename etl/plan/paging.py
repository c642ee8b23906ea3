"""Which pages to ask for, so that neighbours overlap although the API pages by number and size only."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

PageT = TypeVar("PageT")

LARGEST = 1000
"""The page size that is asked for first, where it is not set."""

HEAD, SMALLEST_HEAD, HEAD_BYTES = 100, 20, 2 * 1024 * 1024
"""How many runs are read first at the newest end, where usually none are new; fewer if they have more bytes."""

OUT_OF_PLACE = 10
"""In a sorted listing a run may stand a tenth of a page from its place, as one that takes long to be created does."""

LINK = 2
"""How many runs neighbouring pages share: a single one may be shared by chance where a listing is shuffled."""

MAX_SIZE = 10_000
"""The largest page that is asked for."""

SIZES = (1000, 500, 250, 100, 50, 25, 10, 5, 3, 1)
"""Where a server refuses a size, the next smaller one of these is asked for."""

FITTING_BYTES = 5 * 1024 * 1024
"""The bytes that a page should have: room is left for the next one to be larger, up to 8 MiB."""

FEW, FEW_FITTING_BYTES = 12, 20 * 1024 * 1024
"""A page of at most this many runs may have more bytes."""


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
    """A page, and what planning sees of it.

    `keys` identify its items: the run's id, or the hash of an item without one. `total` is what the server counts in
    all and `size` the page size that it says it used; None where it says nothing. `token` leads to the next page where
    the server hands tokens out.
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
    """Return the page that reaches furthest past `position` and begins at least `overlap` items before it.

    Sizes between half of `size` and `size` are tried. At some positions none of them fits, which happens for sizes
    below 13 only; there a slightly larger page is taken, or, if the server gives no larger ones, a smaller overlap.
    """
    start = max(position - overlap, 0)

    def page(of: int) -> Span:
        return Span(start // of + 1, of)

    best = max((page(of) for of in range(size, max(size // 2, 1) - 1, -1)), key=lambda span: span.end)
    if best.end > position:
        return best
    if overlap == 0:
        return Span(position // size + 1, size)
    if capped:
        return next_span(position, size, min(overlap, LINK) - 1, capped=True)
    return next(page(of) for of in range(size + 1, position + 2) if page(of).end > position)


def meets(page: Sequence[str], head: Sequence[str]) -> bool:
    """Tell whether a page reaches the first items of a part that was read before."""
    wanted = set(head)
    upto = max((place for place, key in enumerate(page, 1) if key in wanted), default=0)
    return link(page[:upto], head) >= min(LINK, len(head))


def link(above: Sequence[str], below: Sequence[str]) -> int:
    """Return how many runs the end of one page shares with the beginning of the next; 0 if they do not meet.

    The shared runs stand in the same order. A few others may stand between them: runs that were created or removed, or
    moved to the listing's newest end, between the two answers.
    """
    places = {key: place for place, key in enumerate(below)}
    shared = [(place, places[key]) for place, key in enumerate(above) if key in places]
    if not shared:
        return 0
    rising: list[int] = []  # rising[n]: the smallest end of n + 1 shared runs that stand in the same order in both
    for _, place in shared:
        at = bisect_left(rising, place)
        rising[at : at + 1] = [place]
    edge = max(len(above) - shared[0][0], max(place for _, place in shared) + 1)
    return len(rising) if 2 * len(rising) > edge else 0


@dataclass(slots=True)
class Paging:
    """How a server pages, as its answers show.

    Attributes:
        size: the largest page it gives.
        known: the same, once the server has shown or said it.
        fit: how many runs make a page of about `FITTING_BYTES`, as far as pages have shown.
        capped: whether larger pages were refused.
        proven: whether it gave a page of just the size asked for since then, of about the largest size.
        aligned: whether pages cannot overlap, because it rounds sizes or pages by token.
        uneven: whether short pages stand among full ones, as where a server filters what it has cut into pages.
    """

    size: int
    known: int | None = None
    fit: int = MAX_SIZE
    capped: bool = False
    proven: bool = False
    aligned: bool = False
    uneven: bool = False

    def next(self, position: int, overlap: int = LINK, most: int = MAX_SIZE, *, capped: bool = False) -> Span:
        """Return the page to ask for when everything before `position` was read.

        Args:
            position: where to go on.
            overlap: with what was read.
            most: bounds its size; a page below 13 may be larger where it would not overlap, unless `capped`.
            capped: whether it must not be larger.
        """
        size = min(self.size, self.fit, most)
        if self.aligned:
            return Span(position // size + 1, size)
        return next_span(position, size, overlap, capped=capped or (self.capped and size == self.size))

    @property
    def distance(self) -> int:
        """How many places a run may stand from where its time belongs in a sorted listing."""
        return min(self.size, HEAD) // OUT_OF_PLACE

    def lower(self, size: int) -> None:
        """Ask for no page of this size any more, as the server refuses it."""
        self.known = self.size = min(self.size, next((step for step in SIZES if step < size), 1))
        self.capped, self.proven = True, False

    def weigh(self, items: int, size: int) -> None:
        """Learn from a page of `size` bytes how many runs a page should have; it grows to twice as many at most."""
        if items and size:
            fitting = FITTING_BYTES * items // size
            if fitting < FEW:  # neighbours share two runs, so still smaller pages would read most of them twice
                fitting = min(max(FEW_FITTING_BYTES * items // size, LINK + 1), FEW)
            self.fit = min(fitting, 2 * self.fit)

    def observe(self, span: Span, answer: Answer[Any]) -> int:
        """Learn from the answer to `span`; return how many positions it covers, 0 if it is not the page asked for."""
        items, is_first = len(answer.keys), span.number == 1
        if answer.token is not None:
            self.aligned = True
        if answer.size is not None and answer.size != span.size:
            # One that gave less than asked before, and nothing as asked since, rounds.
            if answer.size > span.size or (self.capped and not self.proven and not is_first):
                self.aligned = True
            self.known = self.size = answer.size
            self.capped, self.proven = True, False
            return answer.size if is_first else 0
        self.proven = self.proven or (items == span.size and 2 * span.size >= self.size)
        if items == span.size >= LARGEST:
            self.known = self.size
        if items > span.size:
            self.size, self.aligned = items, True
            return items if is_first else 0
        # A server may cap silently. Without a count, a short first page may be capped, or all there is.
        more = items > LINK if answer.total is None else items < answer.total
        if is_first and 0 < items < span.size and answer.size is None and more:
            self.size, self.capped = min(self.size, items), True
            self.known = self.known if answer.total is None else self.size
            return items
        return span.size
