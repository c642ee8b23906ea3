"""What to read next: pure decisions from what is known of a stream and what its pages show.

The API promises no order, no change filter and no stable pages, so nothing here assumes them: the order of a listing is
observed, early stops are allowed only where that order makes them safe, and `pagination-count` has the last word.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_PASSES = 6
"""How often a listing is read anew before a crawl stops waiting for a quiet pass."""

LARGE_LISTING_PAGES = 200
"""Above this many pages, two passes must do: later reconciles catch what a never quiet API hides."""

_A_DAY = timedelta(days=1) - timedelta(microseconds=1)


class Order(StrEnum):
    """The observed order of a listing."""

    CREATED_DESC = "created_desc"
    UPDATED_DESC = "updated_desc"
    CREATED_ASC = "created_asc"
    NONE = "none"

    @property
    def newest_first(self) -> bool:
        """Whether what is new or changed shows at the head."""
        return self in (Order.CREATED_DESC, Order.UPDATED_DESC)

    @property
    def by_creation(self) -> bool:
        """Whether places in the listing never change but for what is created or removed."""
        return self in (Order.CREATED_DESC, Order.CREATED_ASC)


@dataclass(frozen=True, slots=True)
class Listed:
    """One item of a page, as planning sees it.

    `ident` is the run's id, or the digest's hex where no id can be told; `known` says that the warehouse (or the
    quarantine) holds it exactly as listed; a time is None where the item has none or cannot be read.
    """

    ident: str
    created_at: datetime | None
    updated_at: datetime | None
    known: bool


def order_key(item: Listed, order: Order) -> datetime | None:
    """The time by which `order` places the item."""
    return item.updated_at if order is Order.UPDATED_DESC else item.created_at


def latest_reading(moment: datetime) -> datetime:
    """The last instant that a listed time may mean: a bare day reads as midnight and may be any time of that day."""
    return moment + _A_DAY if moment.time() == time.min else moment


class OrderObserver:
    """Watches pages in their order and tells which order of the listing they support.

    An order needs a strict step somewhere (ties alone prove nothing) and no step against it. Items repeated from the
    page before are drift and are passed over.
    """

    def __init__(self) -> None:
        self._last: dict[Order, datetime] = {}
        self._strict: dict[Order, int] = dict.fromkeys((Order.CREATED_DESC, Order.UPDATED_DESC, Order.CREATED_ASC), 0)
        self._broken: set[Order] = set()
        self._before: set[str] = set()

    def watch(self, items: Sequence[Listed]) -> None:
        """Take in the next page of the listing."""
        for item in items:
            if item.ident not in self._before:
                for order in self._strict:
                    self._step(order, order_key(item, order))
        self._before = {item.ident for item in items}

    def _step(self, order: Order, key: datetime | None) -> None:
        if key is None:
            return
        last = self._last.get(order)
        if last is not None and last != key:
            if (key > last) is (order is Order.CREATED_ASC):
                self._strict[order] += 1
            else:
                self._broken.add(order)
        self._last[order] = key

    def agrees_with(self, order: Order) -> bool:
        """Whether nothing seen speaks against `order`."""
        return order is not Order.NONE and order not in self._broken

    @property
    def order(self) -> Order | None:
        """The order that the pages support; NONE when they contradict every one, None when they do not tell."""
        supported = [order for order, strict in self._strict.items() if strict and order not in self._broken]
        if supported:
            return supported[0]
        return Order.NONE if len(self._broken) == len(self._strict) else None


def head_is_met(
    items: Sequence[Listed], order: Order, *, page: int, watermark: datetime | None, lookback: timedelta
) -> bool:
    """Whether a newest-first listing, read down to the end of `items`, has met known and unchanged ground.

    A first page that is all known ends the reading (an idle sync is one request), unless its last item ties with its
    first: a change could hide behind the tie. Otherwise the page must end in a known item strictly below
    `watermark - lookback`, so that ties and late commits around the watermark are read again.
    """
    if not items or not items[-1].known:
        return False
    keys = [key for item in items if (key := order_key(item, order)) is not None]
    if not keys:
        return False
    lowest = latest_reading(keys[-1])
    if page == 1 and all(item.known for item in items):
        return lowest < keys[0]
    mark = watermark if watermark is not None else keys[0]
    return lowest < mark - lookback


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
            self.take = size if silently_capped else take
        if size == 0:
            self.end = number - 1
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


@dataclass(slots=True)
class Pass:
    """One reading of a whole listing, and whether it was quiet.

    Quiet means that every response gave the same count, no item came twice, as many came as were counted, and the first
    page still read the same afterwards: then the pages are one consistent picture, and what they lack is gone.
    """

    base: int | None = None
    counts: dict[int, int | None] = field(default_factory=dict)
    items: int = 0
    distinct: int = 0
    head_moved: bool = False
    arrived: int = 0
    whole: bool = True

    def observe(self, number: int, count: int | None, size: int, fresh: int) -> None:
        """Take in page `number` of `size` items, `fresh` of them new to this pass; `base` is the first count seen."""
        if not self.counts and self.base is None:
            self.base = count
        self.counts[number] = count
        self.items += size
        self.distinct += fresh

    @property
    def steady(self) -> bool:
        """Whether so far every answer gave the same count and no item came twice."""
        return self.items == self.distinct and set(self.counts.values()) == {self.base}

    @property
    def growing(self) -> bool:
        """Whether the count never fell from one page to the next."""
        counts = [self.base, *self.counts.values()]
        return all(above is not None and here is not None and here >= above for above, here in pairwise(counts))

    @property
    def quiet(self) -> bool:
        """Whether nothing moved while the pages were read."""
        return self.steady and not self.head_moved and (not self.whole or self.base in (None, self.distinct))

    def only_grew(self, order: Order | None, last_count: int | None) -> bool:
        """Whether all movement is explained by runs created at the head of a newest-created-first listing.

        Then pages only slid down: whatever was read in page order met repeats, never gaps.
        """
        if order is not Order.CREATED_DESC or self.base is None or None in self.counts.values():
            return False
        return self.base + self.arrived == last_count

    def gaps(self) -> list[int]:
        """Pages to read again in a listing that only grew: those answered before the page above them had slid down."""
        return [
            number
            for number in sorted(self.counts)
            if (above := self.counts.get(number - 1)) is not None
            and (here := self.counts[number]) is not None
            and here < above
        ]


EXPIRY_HORIZON = timedelta(days=1)
"""What leaves the API within this time is fetched ahead of the rest of a history."""


def expires_soon(due: Sequence[datetime | None], now: datetime) -> bool:
    """Whether the run of a page that leaves the API first does so before a long history load may come to it."""
    return any(moment is not None and moment <= now + EXPIRY_HORIZON for moment in due)


def pages_to_rescue(pages: int) -> int:
    """How many pages at the far end of a history may be fetched ahead."""
    return max(1, pages // 4)


def passes_allowed(pages: int) -> int:
    """How many passes a listing of `pages` pages may take until a quiet one is given up."""
    return MAX_PASSES if pages <= LARGE_LISTING_PAGES else 2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a history load came: the finished prefix of a listing and what its top looked like.

    The first `offset` items of a listing of `count` items that began with `first` are committed, and so are its pages
    from `tail` on, where what expires soonest was fetched ahead; `newest` is the largest updated_at among them.
    """

    offset: int
    count: int | None
    first: str
    order: Order | None
    newest: datetime | None = None
    tail: int | None = None


def resume_page(checkpoint: Checkpoint, *, take: int, arrived: int, count: int | None) -> int:
    """The page at which a history load goes on.

    Args:
        checkpoint: where the earlier process stopped.
        take: the page size in force.
        arrived: items now listed above the checkpoint's first one.
        count: the listing's present total.

    Returns:
        A page number. Everything before it was committed: items slid down by `arrived`, and up by at most as many as
        have been removed. 1 (start over) where the listing's order or its count do not allow that conclusion.
    """
    if count is None or checkpoint.count is None:
        return 1
    removed = checkpoint.count + arrived - count
    moved = arrived != 0 or removed != 0
    if removed < 0 or (moved and checkpoint.order is not Order.CREATED_DESC):
        return 1
    return max(1, (checkpoint.offset + arrived - removed) // take + 1)


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

    def __init__(self, *, count: int, take: int, warehouse_count: int) -> None:
        self._take = take
        self._pages = max(1, -(-count // take))
        self._points = [_Point(-1, 0, None), _Point(count, warehouse_count - count, None)]
        self._read: set[int] = set()

    def breaks(self, number: int, items: Sequence[Listed]) -> tuple[int, datetime] | None:
        """The first strict change of key in a page: the offset of the item below it, and that item's key."""
        keys = [item.created_at for item in items]
        for place in range(1, len(keys)):
            above, below = keys[place - 1], keys[place]
            if above is not None and below is not None and above != below:
                return (number - 1) * self._take + place, below
        return None

    def observe(self, number: int, at: tuple[int, datetime] | None, warehouse_above: int) -> None:
        """Take in page `number`: its break (from `breaks`) and how many runs the warehouse holds above that break."""
        self._read.add(number)
        if at is not None:
            insort(self._points, _Point(at[0], warehouse_above - at[0], at[1]))

    def _span(self, above: _Point, below: _Point) -> range:
        first = max(above.offset, 0) // self._take + 1
        last = min((max(below.offset, 1) - 1) // self._take + 1, self._pages)
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


class WindowSearch:
    """Finds the first page of a window of creation times in a sorted listing, by bisection."""

    def __init__(self, order: Order, pages: int, *, since: datetime | None, until: datetime | None) -> None:
        self._descending = order is Order.CREATED_DESC
        self._bound = until if self._descending else since
        self._low, self._high = (1, pages) if self._bound is not None else (1, 1)

    def next_page(self) -> int | None:
        """The page to probe next, or None when `first_page` is known."""
        return (self._low + self._high) // 2 if self._low < self._high else None

    def observe(self, number: int, items: Iterable[Listed]) -> None:
        """Take in a probed page: does the window begin at or before it?"""
        times = [item.created_at for item in items if item.created_at is not None]
        begins = bool(times) and self._bound is not None and self._reached(times[-1])
        if begins or not times:
            self._high = number
        else:
            self._low = number + 1

    def _reached(self, last: datetime) -> bool:
        assert self._bound is not None  # noqa: S101 - the caller asked; this only tells the type checker
        return last < self._bound if self._descending else last >= self._bound

    @property
    def first_page(self) -> int:
        """The page at which reading begins."""
        return self._low


def window_is_passed(
    items: Sequence[Listed], order: Order | None, *, since: datetime | None, until: datetime | None
) -> bool:
    """Whether a listing sorted by creation has left the window by the end of this page."""
    times = [item.created_at for item in items if item.created_at is not None]
    if not times:
        return False
    if order is Order.CREATED_DESC:
        return since is not None and latest_reading(times[-1]) < since
    return order is Order.CREATED_ASC and until is not None and times[-1] >= until


def in_window(created_at: datetime | None, *, since: datetime | None, until: datetime | None) -> bool:
    """Whether a run belongs to a bounded backfill: since inclusive, until exclusive; without a time, never."""
    if created_at is None:
        return since is None and until is None
    return (since is None or created_at >= since) and (until is None or created_at < until)


def list_by_status(open_by_status: Mapping[str, int], take: int) -> set[str]:
    """The statuses whose open runs are cheaper to find through the status filter than one by one.

    A filtered page shows up to `take` runs for one request, and only those that have ended since cost one more each.
    """
    return {status for status, runs in open_by_status.items() if runs > 2 + runs // max(take, 1)}
