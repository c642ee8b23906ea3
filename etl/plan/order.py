"""The order of a listing, inferred from its pages, and how far a sync reads from its newest end."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from itertools import islice
from math import inf
from typing import TYPE_CHECKING

import msgspec

from etl.plan.paging import MAX_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

OVERLAPPING_ITEMS = 2 * MAX_SIZE
"""How many items back a page may repeat: an overlapping page begins less than one page early."""

SURE_AFTER = 10
"""After this many dated items an order is trusted: a shuffled listing looks sorted that long once in millions."""

_A_DAY = timedelta(days=1) - timedelta(microseconds=1)


class Order(StrEnum):
    """The observed order of a listing."""

    CREATED_DESC = "created_desc"
    UPDATED_DESC = "updated_desc"
    CREATED_ASC = "created_asc"
    NONE = "none"

    @property
    def newest_first(self) -> bool:
        """Whether new or changed runs appear at the head."""
        return self in (Order.CREATED_DESC, Order.UPDATED_DESC)

    @property
    def by_creation(self) -> bool:
        """Whether only creations and removals change the position of a run."""
        return self in (Order.CREATED_DESC, Order.CREATED_ASC)


_ORDERS = (Order.CREATED_DESC, Order.UPDATED_DESC, Order.CREATED_ASC)
_UPDATED_ASC = "updated_asc"  # observed only to tell it from CREATED_ASC
_BY_CHANGE = {Order.CREATED_DESC: Order.UPDATED_DESC, Order.CREATED_ASC: _UPDATED_ASC}


class Listed(msgspec.Struct, frozen=True):
    """One item of a page, with what planning needs to know of it.

    Attributes:
        key: the run's id, or the hash of an item without an id.
        created_at: when the run was created; None if the item has no time or an invalid one.
        updated_at: when the run last changed; None likewise.
        known: whether a finished sync has loaded or quarantined the item exactly as listed. If an unfinished one has,
            runs below it may be unknown.
        expires_at: when the API will remove a new or changed run; None if it does not say.
    """

    key: str
    created_at: datetime | None
    updated_at: datetime | None
    known: bool
    expires_at: datetime | None = None


def order_key(item: Listed, order: str) -> datetime | None:
    """Return the time that `order` sorts the item by."""
    return item.updated_at if order in _BY_CHANGE.values() else item.created_at


def latest_instant(moment: datetime) -> datetime:
    """Return the latest instant that a listed time may stand for: midnight may be a date without a time of day."""
    return moment + _A_DAY if moment.time() == time.min else moment


class OrderObserver:
    """Infers the order of a listing from its items.

    An order is supported if at least two items are sorted by it (ties prove nothing) and none contradicts it. Items
    repeated from recent pages are ignored. A date without a time of day may be any instant of its day.

    Args:
        distance: how many places an item may be from its sorted position.
    """

    def __init__(self, distance: int = 0) -> None:
        self._distance = distance
        self._near: dict[str, deque[float]] = {order: deque() for order in (*_ORDERS, _UPDATED_ASC)}
        self._bounds: dict[str, float] = {}
        self._before: dict[str, float] = {}
        self._shown: set[str] = set()
        self._broken: set[str] = set()
        self._dated = 0
        self._recent: dict[str, None] = {}

    def watch(self, items: Sequence[Listed]) -> None:
        """Take the next page of the listing into account."""
        new = [item for item in items if item.key not in self._recent]
        self._dated += sum(item.created_at is not None for item in new)
        for order in self._near:
            if order not in self._broken:
                self._follow(order, [key for item in new if (key := order_key(item, order)) is not None])
        self._recent |= dict.fromkeys(item.key for item in new)
        for old in list(islice(self._recent, max(0, len(self._recent) - OVERLAPPING_ITEMS))):
            del self._recent[old]

    def _follow(self, order: str, times: Sequence[datetime]) -> None:
        """Compare each time with the item above it, and with the smallest time more than `distance` places above it."""
        near = self._near[order]
        bound, before = self._bounds.get(order, inf), self._before.get(order, -inf)
        for moment in times:
            reading, earliest = latest_instant(moment), moment.timestamp()
            latest = earliest if reading is moment else reading.timestamp()
            if order in (Order.CREATED_ASC, _UPDATED_ASC):  # mirrored
                earliest, latest = -latest, -earliest
            if earliest > bound:
                self._broken.add(order)
                return
            if latest < before:
                self._shown.add(order)
            before = earliest
            near.append(latest)
            if len(near) > self._distance:
                bound = min(bound, near.popleft())
        self._bounds[order], self._before[order] = bound, before

    def agrees_with(self, order: Order) -> bool:
        """Return whether no item contradicts `order`."""
        return order is not Order.NONE and order not in self._broken

    @property
    def order(self) -> Order | None:
        """The order that the items support: NONE if they contradict every order, None if they show too little."""
        supported = [order for order in _ORDERS if order in self._shown and order not in self._broken]
        if supported:
            return supported[0]
        return Order.NONE if self._broken.issuperset(_ORDERS) else None

    def proves(self, order: Order) -> bool:
        """Return whether the listing is certainly sorted by `order`, which is one by creation."""
        return self.order is order and self.has_enough and self.is_by_creation

    @property
    def has_enough(self) -> bool:
        """Whether enough items were seen to rule out chance."""
        return self._dated >= SURE_AFTER

    @property
    def is_by_creation(self) -> bool:
        """Whether the listing is certainly sorted by creation.

        A listing sorted by change looks the same until it shows a run that changed long after its creation.
        """
        return self.order is not None and _BY_CHANGE.get(self.order) in self._broken


def order_of(*pages: Sequence[Listed]) -> Order | None:
    """Return the order that these pages of a listing support."""
    observer = OrderObserver()
    for items in pages:
        observer.watch(items)
    return observer.order


def tie_ends(items: Sequence[Listed]) -> bool:
    """Return whether a newest-first page shows a run that was certainly created before its first run.

    Only then does a later run with the same creation time as the first one appear on this page.
    """
    times = [item.created_at for item in items if item.created_at is not None]
    return any(latest_instant(time) < times[0] for time in times)


def head_is_read(
    items: Sequence[Listed],
    order: Order,
    *,
    watermark: datetime | None,
    lookback: timedelta,
    now: datetime,
    by_day: bool = False,
    distance: int = 0,
) -> bool:
    """Return whether everything below `items` is known, so that reading can stop.

    If all items are known, reading stops below the items that share the first item's time: an idle sync costs one
    request, and no change is hidden by a tie. If some are new, reading stops at a known item that is strictly older
    than `watermark - lookback`, so that ties and late commits near the watermark are read again.

    Args:
        items: the items read so far, newest first.
        order: the order of the listing.
        watermark: the watermark of the stream.
        lookback: how far below the watermark to read again.
        now: the current time; a known item dated later does not show where new items end.
        by_day: whether some times are only dates, so that a change may be anywhere within the first item's day.
        distance: how many places an item may be from its sorted position.
    """
    times = [(key, item) for item in items if (key := order_key(item, order)) is not None]
    if len(times) <= distance or not items[-1].known:
        return False
    first, lowest = times[0][0], latest_instant(times[-1 - distance][0])
    if all(item.known for item in items):
        if by_day:
            first = datetime.combine(first.astimezone(UTC), time.min, UTC)
        return lowest < first
    newest = first if first <= now else next((key for key, item in times if not item.known), first)
    start = newest if watermark is None else min(watermark, newest)
    return lowest < start - lookback
