"""How much of a reconcile a sync reads: if it takes many requests, several syncs share it, and each reads a slice."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime, timedelta


class Reconciled(NamedTuple):
    """How far the reconciles of a stream have come.

    Attributes:
        at: when everything was compared, or began to be; None if only a part, or nothing, has been since.
        began: when a reconcile began that is not complete; None if there is none.
        since: the runs created since then are compared by it.
    """

    at: datetime | None
    began: datetime | None
    since: datetime | None


def reconcile_is_due(every: timedelta, last: datetime | None, now: datetime) -> bool:
    """Return whether a sync should reconcile; if `every` is 0, none should."""
    return bool(every) and (last is None or now - last >= every)


def deadline(every: timedelta, last: datetime | None, began: datetime | None, now: datetime) -> datetime:
    """Return when a due reconcile has to be complete: `every` after it began, or after it was due if it has not."""
    return (min(began, now) if began else now if last is None else last + every) + every


class Allowance:
    """The requests that a process may spend on the reconciles of one sync: `share` in all, of which some are `left`."""

    def __init__(self, share: int) -> None:
        self.share = self.left = share

    def take(self, pages: int, *, interval: timedelta, remaining: timedelta) -> int:
        """Return how many pages of a reconcile to read now, and deduct them.

        It is as many as are left of the share. If not even the whole share in each sync would be enough to complete the
        reconcile in time, it is what each sync has to read.

        Args:
            pages: what is left to read.
            interval: the time since the last sync, after which the next one is expected.
            remaining: the time until the reconcile has to be complete.
        """
        needed = pages if remaining <= interval else ceil(pages * interval / remaining)
        taken = needed if needed > self.share else min(pages, max(self.left, 0))
        self.left -= taken
        return taken
