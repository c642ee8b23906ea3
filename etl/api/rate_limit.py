"""The rate limit: never more than the allowed requests in any rolling window, and pauses that all tasks obey.

`LocalLimiter` counts for one process. `SharedLimiter` leases requests from a budget that all processes on a warehouse
share, because the API counts per IP address. Neither is a token bucket: a full bucket that refills at the same rate
lets nearly twice the limit through in its first window.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import Protocol

WINDOW_S = 60.0  # the API counts requests in any 60 seconds
GUARD_SHARE = 1 / 150  # of the window: how much the delay of requests may vary (0.4 s of 60 s)
VALID_SHARE = 1 / 200  # of the window: how long leased tokens may be used (0.3 s of 60 s)
LONGEST_VALID_SHARE = 1 / 12  # of the window: the validity grows up to this if the budget answers slowly (5 s)
LONGEST_LAG_SHARE = 1 / 12  # of the window: how much lag of the event loop the guard allows for (5 s)
LONGEST_NAP_S = 5.0  # a waiting task checks again at least this often, in case the clock was set


class Limiter(Protocol):
    """Decides when a client may send its next request."""

    async def acquire(self) -> None:
        """Wait until one request may be sent, and count it as sent now."""

    async def pause(self, seconds: float) -> None:
        """Stop all requests for that many seconds from now; a longer pause in force stays."""


class Lease(Protocol):
    """Requests that a budget has granted."""

    @property
    def granted(self) -> int:
        """How many requests may be sent, possibly fewer than wanted."""

    @property
    def wait_s(self) -> float:
        """If nothing was granted, the seconds to wait before the next try."""

    @property
    def valid_until(self) -> float:
        """When the lease expires, as a reading of `time.monotonic`."""


class SharedBudget(Protocol):
    """The request budget that processes share (`etl.db.budget.Budget` keeps it in PostgreSQL)."""

    async def lease(self, want: int, valid_s: float, lag_s: float = 0.0) -> Lease:
        """Lease up to `want` requests, each to be sent within `valid_s` seconds, and on its way `lag_s` after that."""

    async def pause(self, seconds: float) -> None:
        """Grant no lease to any process for that many seconds."""


class LoopLag:
    """How late the event loop is, as a request that may be sent waits for its turn: the longest of the last window.

    On a busy machine, a request leaves later than it was allowed to. The next one may be on time, and then the two are
    closer together than they were meant to be, by the lag.
    """

    def __init__(self, window_s: float) -> None:
        self.seconds = 0.0
        self._window_s = window_s
        self._measured_at = 0.0

    def measure(self) -> None:
        """Measure how long what is due now waits for its turn."""
        asyncio.get_running_loop().call_soon(self._note, monotonic())

    def _note(self, began: float) -> None:
        now = monotonic()
        lag_s = min(now - began, self._window_s * LONGEST_LAG_SHARE)
        if lag_s >= self.seconds or now - self._measured_at > self._window_s:
            self.seconds, self._measured_at = lag_s, now


class LocalLimiter:
    """The rate limit of one process: `requests_per_minute` requests in any `window_s` seconds."""

    def __init__(self, requests_per_minute: int, *, window_s: float = WINDOW_S) -> None:
        self._sent: deque[float] = deque(maxlen=requests_per_minute)
        self._held_s = window_s * (1 + GUARD_SHARE)
        self._lag = LoopLag(window_s)
        self._paused_until = 0.0
        self._turn = asyncio.Lock()

    async def acquire(self) -> None:
        """Wait until one request may be sent, and count it as sent now, or later by the lag of the event loop."""
        if not self._turn.locked() and self._wait_s() <= 0:
            self._count()
            return
        async with self._turn:
            while (wait_s := self._wait_s()) > 0:  # noqa: ASYNC110 - no event ends the wait, only time
                await asyncio.sleep(min(wait_s, LONGEST_NAP_S))
            self._count()

    def _count(self) -> None:
        self._sent.append(monotonic() + self._lag.seconds)
        self._lag.measure()

    async def pause(self, seconds: float) -> None:
        """Stop the tasks of this process for that many seconds from now; a longer pause in force stays."""
        self._paused_until = max(self._paused_until, monotonic() + seconds)

    def _wait_s(self) -> float:
        now = monotonic()
        free_at = self._sent[0] + self._held_s if len(self._sent) == self._sent.maxlen else now
        return max(free_at, self._paused_until) - now


class SharedLimiter:
    """The rate limit of all processes that share a budget.

    One task at a time leases tokens for all that wait, so a burst costs one round trip. Tokens expire soon (after 0.3 s
    of a 60 s window), and the budget counts each as sent when it expires: so the limit holds in any window, even if a
    process is killed. On a busy machine, it counts them as sent later, by the lag of the event loop.

    Each lease asks for `ahead` tokens more than are needed now. That saves round trips if the limit is in the tens of
    thousands. At 500 a minute it is 0, because a token that is leased and not used is lost to everyone for a window.
    """

    def __init__(self, budget: SharedBudget, *, ahead: int = 0, window_s: float = WINDOW_S) -> None:
        self._budget = budget
        self._ahead = ahead
        self._lag = LoopLag(window_s)
        self._valid_s = self._shortest_valid_s = window_s * VALID_SHARE
        self._longest_valid_s = window_s * LONGEST_VALID_SHARE
        self._tokens = 0
        self._valid_until = 0.0
        self._paused_until = 0.0
        self._waiting = 0
        self._turn = asyncio.Lock()

    async def acquire(self) -> None:
        """Wait until one request may be sent; it must be sent at once.

        Raises:
            DatabaseError: the budget cannot be reached or used.
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
        """Stop all processes for that many seconds from now; a longer pause in force stays.

        Other processes notice with their next lease, when their tokens have expired.

        Raises:
            DatabaseError: the budget cannot be reached or used.
        """
        until = monotonic() + seconds
        longer_by_s = until - self._paused_until
        self._paused_until = max(self._paused_until, until)
        # The tasks of a process are asked to pause at about the same time: the first of them tells the others.
        if longer_by_s > self._shortest_valid_s:
            await self._budget.pause(seconds)

    def _take(self) -> bool:
        now = monotonic()
        if self._tokens == 0 or now >= self._valid_until or now < self._paused_until:
            return False
        self._tokens -= 1
        self._lag.measure()
        return True

    async def _lease(self) -> float:
        """Lease for all tasks that wait; return the seconds to wait before the next try (0: there are tokens)."""
        lease = await self._budget.lease(self._waiting + self._ahead, self._valid_s, self._lag.seconds)
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
