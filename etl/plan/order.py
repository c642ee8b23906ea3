"""The order of a listing, as its pages show it."""

from __future__ import annotations

from collections import deque
from datetime import datetime, time, timedelta
from enum import StrEnum
from itertools import islice
from math import inf
from typing import TYPE_CHECKING

import msgspec

from etl.plan.paging import MAX_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

OVERLAPPING_ITEMS = 2 * MAX_SIZE
"""A page repeats none of the items that stand further up than this: it begins less than a page above its place."""

SURE_AFTER = 10
"""An order that this many dated items stand in is no accident: of shuffled listings, one in some million has it."""

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


_ORDERS = (Order.CREATED_DESC, Order.UPDATED_DESC, Order.CREATED_ASC)
_UPDATED_ASC = "updated_asc"  # not an order that anything relies on
_BY_CHANGE = {Order.CREATED_DESC: Order.UPDATED_DESC, Order.CREATED_ASC: _UPDATED_ASC}


class Listed(msgspec.Struct, frozen=True):
    """One item of a page, as planning sees it.

    Attributes:
        key: the run's id, or the hash of an item without one.
        created_at: None where the item has none or it cannot be read.
        updated_at: the same.
        known: whether the warehouse (or the quarantine) holds the item exactly as listed.
        recent: whether it was loaded by a sync that did not end, so that the runs below it may be unknown.
        expires_at: when the API removes a new or changed run; None where it does not say.
    """

    key: str
    created_at: datetime | None
    updated_at: datetime | None
    known: bool
    recent: bool = False
    expires_at: datetime | None = None

    @property
    def is_confirmed(self) -> bool:
        """Whether a sync that ended knew it as it is."""
        return self.known and not self.recent


def order_key(item: Listed, order: str) -> datetime | None:
    """Return the time by which `order` sorts the item."""
    return item.updated_at if order in _BY_CHANGE.values() else item.created_at


def latest_reading(moment: datetime) -> datetime:
    """Return the last instant that a listed time may mean: a bare day reads as midnight and may be any time of it."""
    return moment + _A_DAY if moment.time() == time.min else moment


class OrderObserver:
    """Observes which order of the listing its items support.

    An order needs a step in its direction somewhere (ties alone prove nothing) and no step against it. Items that
    recent pages showed are passed over. A bare day stands for any instant of its day.

    Args:
        distance: how many places an item may stand from where its time belongs.
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
        """Observe the next page of the listing."""
        new = [item for item in items if item.key not in self._recent]
        self._dated += sum(item.created_at is not None for item in new)
        for order in self._near:
            if order not in self._broken:
                self._follow(order, [key for item in new if (key := order_key(item, order)) is not None])
        self._recent |= dict.fromkeys(item.key for item in new)
        for old in list(islice(self._recent, max(0, len(self._recent) - OVERLAPPING_ITEMS))):
            del self._recent[old]

    def _follow(self, order: str, times: Sequence[datetime]) -> None:
        """Compare each time with the smallest above it (but for those near it), and with the one right above it."""
        near = self._near[order]
        bound, before = self._bounds.get(order, inf), self._before.get(order, -inf)
        for moment in times:
            reading, earliest = latest_reading(moment), moment.timestamp()
            latest = earliest if reading is moment else reading.timestamp()
            if order in (Order.CREATED_ASC, _UPDATED_ASC):  # the same, mirrored
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
        """Tell whether no item contradicts `order`."""
        return order is not Order.NONE and order not in self._broken

    @property
    def order(self) -> Order | None:
        """The order that the items support; NONE if they contradict every one, None if they do not show any."""
        supported = [order for order in _ORDERS if order in self._shown and order not in self._broken]
        if supported:
            return supported[0]
        return Order.NONE if self._broken.issuperset(_ORDERS) else None

    @property
    def is_settled(self) -> bool:
        """Whether enough items stand in the order for it to be no accident."""
        return self._dated >= SURE_AFTER

    @property
    def is_by_creation(self) -> bool:
        """Whether the order is one by creation for sure.

        A listing sorted by change looks the same until it shows a run that changed long after it was created.
        """
        return self.order is not None and _BY_CHANGE.get(self.order) in self._broken


def order_of(*pages: Sequence[Listed]) -> Order | None:
    """Return the order that some pages of a listing support."""
    observer = OrderObserver()
    for items in pages:
        observer.watch(items)
    return observer.order


def tie_ends(items: Sequence[Listed]) -> bool:
    """Tell whether a newest-first page shows a run that was surely created before its newest.

    Only then does whatever is created at the newest moment show on that page.
    """
    times = [item.created_at for item in items if item.created_at is not None]
    return any(latest_reading(time) < times[0] for time in times)
