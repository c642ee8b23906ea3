"""How fast requests may leave: never more than the allowance in any rolling window, pauses obeyed by all tasks.

`LocalLimiter` counts for one process. `SharedLimiter` leases from a ledger that all processes on a warehouse share,
because the API counts per IP address. Neither is a token bucket: a full bucket that refills at the same rate lets
nearly twice the allowance through in its first window.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import Protocol

WINDOW_S = 60.0  # the API counts requests in any 60 seconds
GUARD_SHARE = 1 / 150  # of the window: how unevenly late requests may reach the API (0.4 s of 60 s)
VALID_SHARE = 1 / 200  # of the window: how long leased tokens may be used (0.3 s of 60 s)
LONGEST_VALID_SHARE = 1 / 12  # of the window: validity grows up to this where the ledger answers slowly (5 s of 60 s)
LONGEST_NAP_S = 5.0  # a waiting task looks again at least this often, so that a stepped clock cannot hold it


class Limiter(Protocol):
    """What a client asks before each request."""

    async def acquire(self) -> None:
        """Return when one request may be sent, and count it as sent now."""

    async def pause(self, seconds: float) -> None:
        """Let nobody send for that many seconds from now; a longer pause in force stays."""


class Lease(Protocol):
    """What a ledger granted."""

    @property
    def granted(self) -> int:
        """How many requests may be sent; may be fewer than wanted."""

    @property
    def wait_s(self) -> float:
        """Seconds until asking again makes sense; only meaningful when nothing was granted."""

    @property
    def valid_until(self) -> float:
        """The reading of `time.monotonic` after which the granted requests may no longer be sent."""


class Ledger(Protocol):
    """The shared account of what was sent (`etl.db.budget` has the one in PostgreSQL)."""

    async def lease(self, want: int, valid_s: float) -> Lease:
        """Grant up to `want` requests, each to be sent within `valid_s` seconds."""

    async def pause(self, seconds: float) -> None:
        """Grant nothing to anybody for that many seconds."""


class LocalLimiter:
    """The allowance of one process: `requests_per_minute` requests in any `window_s` seconds."""

    def __init__(self, requests_per_minute: int, *, window_s: float = WINDOW_S) -> None:
        self._sent: deque[float] = deque(maxlen=requests_per_minute)
        self._held_s = window_s * (1 + GUARD_SHARE)
        self._paused_until = 0.0
        self._turn = asyncio.Lock()

    async def acquire(self) -> None:
        """Return when one request may be sent, and count it as sent now."""
        if not self._turn.locked() and self._wait_s() <= 0:
            self._sent.append(monotonic())
            return
        async with self._turn:
            while (wait_s := self._wait_s()) > 0:  # noqa: ASYNC110 - time frees a place, no event does
                await asyncio.sleep(min(wait_s, LONGEST_NAP_S))
            self._sent.append(monotonic())

    async def pause(self, seconds: float) -> None:
        """Let no task of this process send for that many seconds from now; a longer pause in force stays."""
        self._paused_until = max(self._paused_until, monotonic() + seconds)

    def _wait_s(self) -> float:
        now = monotonic()
        free_at = self._sent[0] + self._held_s if len(self._sent) == self._sent.maxlen else now
        return max(free_at, self._paused_until) - now


class SharedLimiter:
    """The allowance of all processes that share a ledger.

    One task at a time leases for all that wait, so a burst costs one round trip. Tokens are valid for a moment only
    (0.3 s of a 60 s window) and the ledger counts each as sent at the end of its validity: that makes the rule hold in
    any window, whatever becomes of the processes.

    `ahead` tokens more than needed are leased at a time. That spares round trips where the allowance is in the tens of
    thousands; at 500 a minute it is 0, because what is leased and not sent is lost to all for a window.
    """

    def __init__(self, ledger: Ledger, *, ahead: int = 0, window_s: float = WINDOW_S) -> None:
        self._ledger = ledger
        self._ahead = ahead
        self._valid_s = self._shortest_valid_s = window_s * VALID_SHARE
        self._longest_valid_s = window_s * LONGEST_VALID_SHARE
        self._tokens = 0
        self._valid_until = 0.0
        self._paused_until = 0.0
        self._waiting = 0
        self._turn = asyncio.Lock()

    async def acquire(self) -> None:
        """Return when one request may be sent; it must be sent at once.

        Raises:
            DatabaseError: the ledger cannot be reached or used.
        """
        if self._take():
            return
        self._waiting += 1
        try:
            async with self._turn:
                while not self._take():
                    wait_s = self._paused_until - monotonic()
                    if wait_s <= 0:
                        wait_s = await self._lease()
                    if wait_s > 0:
                        await asyncio.sleep(min(wait_s, LONGEST_NAP_S))
        finally:
            self._waiting -= 1

    async def pause(self, seconds: float) -> None:
        """Let no process send for that many seconds from now; a longer pause in force stays.

        Other processes learn of it with their next lease, within the validity of their tokens.

        Raises:
            DatabaseError: the ledger cannot be reached or used.
        """
        until = monotonic() + seconds
        longer_by_s = until - self._paused_until
        self._paused_until = max(self._paused_until, until)
        if (
            longer_by_s > self._shortest_valid_s
        ):  # the tasks of one process are told to pause all at about the same time
            await self._ledger.pause(seconds)

    def _take(self) -> bool:
        now = monotonic()
        if self._tokens == 0 or now >= self._valid_until or now < self._paused_until:
            return False
        self._tokens -= 1
        return True

    async def _lease(self) -> float:
        """Lease for all that wait; return the seconds to wait before the next try (0: tokens are there)."""
        lease = await self._ledger.lease(self._waiting + self._ahead, self._valid_s)
        answered_at = monotonic()
        self._tokens = lease.granted
        self._valid_until = lease.valid_until
        if not lease.granted:
            return max(lease.wait_s, 0.001)
        if answered_at >= lease.valid_until:
            self._valid_s = min(2 * self._valid_s, self._longest_valid_s)
        elif lease.valid_until - answered_at > self._valid_s * 3 / 4:
            self._valid_s = max(self._valid_s / 2, self._shortest_valid_s)
        return 0.0
