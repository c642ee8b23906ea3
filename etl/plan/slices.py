"""Slices: a reconcile that takes many requests is spread over several syncs, each of which reads one window."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from etl.plan.window import Window


class Due(NamedTuple):
    """What a sync reads of a due reconcile.

    Attributes:
        window: EVERYTHING, or one slice; None if other streams have used up the share of this sync.
        pages: how many pages the reconcile still has to read.
        taken: how many of them this sync reads.
    """

    window: Window | None
    pages: int
    taken: int


class Reconciled(NamedTuple):
    """The progress of a stream's reconciles.

    Attributes:
        at: when the reconcile that is now complete began; None if none is.
        began: when the unfinished reconcile began; None if there is none.
        since: the unfinished reconcile has compared the runs created since then.
    """

    at: datetime | None
    began: datetime | None
    since: datetime | None


def deadline(every: timedelta, last: datetime | None, began: datetime | None, now: datetime) -> datetime:
    """Return when a due reconcile has to be complete: `every` after it began, or after it became due."""
    return (min(began, now) if began else now if last is None else last + every) + every


class Allowance:
    """The requests that a process may spend on reconciles in one sync: `share` in total, of which `left` remain."""

    def __init__(self, share: int) -> None:
        self.share = self.left = share

    def take(self, pages: int, *, interval: timedelta, remaining: timedelta) -> int:
        """Return how many pages of a reconcile to read now, and deduct them.

        Usually what is left of the share. If even the whole share in each sync would not complete the reconcile in
        time, it is as much as each sync has to read.

        Args:
            pages: how many pages are left to read.
            interval: the time since the last sync; the next one is expected after the same time.
            remaining: the time until the reconcile has to be complete.
        """
        needed = pages if remaining <= interval else ceil(pages * interval / remaining)
        taken = needed if needed > self.share else min(pages, max(self.left, 0))
        self.left -= taken
        return taken
