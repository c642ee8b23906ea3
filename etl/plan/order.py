"""The order of a listing, as its pages show it."""

from __future__ import annotations

from collections import deque
from datetime import datetime, time, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

OVERLAPPING_PAGES = 4
"""A page begins no further up than so many pages before it; small pages overlap by more than one."""

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


class Listed(msgspec.Struct, frozen=True):
    """One item of a page, as planning sees it.

    Attributes:
        key: the run's id, or the hash of an item without one.
        created_at: None where the item has none or it cannot be read.
        updated_at: the same.
        known: whether the warehouse (or the quarantine) holds the item exactly as listed.
        recent: whether it was loaded by a sync that did not end, so that the runs below it may be unknown.
    """

    key: str
    created_at: datetime | None
    updated_at: datetime | None
    known: bool
    recent: bool = False

    @property
    def is_confirmed(self) -> bool:
        """Whether a sync that ended knew it as it is."""
        return self.known and not self.recent


def order_key(item: Listed, order: Order) -> datetime | None:
    """Return the time by which `order` sorts the item."""
    return item.updated_at if order is Order.UPDATED_DESC else item.created_at


def is_day(moment: datetime) -> bool:
    """Tell whether a time may be a bare day."""
    return moment.time() == time.min


def latest_reading(moment: datetime) -> datetime:
    """Return the last instant that a listed time may mean: a bare day reads as midnight and may be any time of it."""
    return moment + _A_DAY if is_day(moment) else moment


class OrderObserver:
    """Observes which order of the listing its items support.

    An order needs a step in its direction somewhere (ties alone prove nothing) and no step against it. Items that
    recent pages showed are passed over. A bare day stands for any instant of its day.
    """

    def __init__(self) -> None:
        self._last: dict[Order, datetime] = {}
        self._before: dict[Order, datetime] = {}
        self._steps: dict[Order, int] = dict.fromkeys((Order.CREATED_DESC, Order.UPDATED_DESC, Order.CREATED_ASC), 0)
        self._broken: set[Order] = set()
        self._recent: deque[set[str]] = deque(maxlen=OVERLAPPING_PAGES)

    def watch(self, items: Sequence[Listed]) -> None:
        """Observe the next page of the listing."""
        for item in items:
            if not any(item.key in page for page in self._recent):
                for order in self._steps:
                    if order not in self._broken:
                        self._step(order, order_key(item, order))
        self._recent.append({item.key for item in items})

    def _step(self, order: Order, key: datetime | None) -> None:
        """Follow one order: `_last` is the loosest bound for the next item, `_before` the time of the item itself."""
        if key is None:
            return
        earliest, latest = key, latest_reading(key)
        last, before = self._last.get(order), self._before.get(order)
        self._before[order] = key
        if last is None or before is None:
            self._last[order] = earliest if order is Order.CREATED_ASC else latest
        elif order is Order.CREATED_ASC:
            self._broken |= {order} if latest < last else set()
            self._steps[order] += earliest > latest_reading(before)
            self._last[order] = max(last, earliest)
        else:
            self._broken |= {order} if earliest > last else set()
            self._steps[order] += latest < before
            self._last[order] = min(last, latest)

    def agrees_with(self, order: Order) -> bool:
        """Tell whether no item contradicts `order`."""
        return order is not Order.NONE and order not in self._broken

    @property
    def order(self) -> Order | None:
        """The order that the items support; NONE if they contradict every one, None if they do not show any."""
        supported = [order for order, steps in self._steps.items() if steps and order not in self._broken]
        if supported:
            return supported[0]
        return Order.NONE if len(self._broken) == len(self._steps) else None


def tie_ends(items: Sequence[Listed]) -> bool:
    """Tell whether a newest-first page shows a run that was surely created before its newest.

    Only then does whatever is created at the newest moment show on that page.
    """
    times = [item.created_at for item in items if item.created_at is not None]
    return any(latest_reading(time) < times[0] for time in times)
