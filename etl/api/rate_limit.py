"""Rate limiting: at most the allowed number of requests in any sliding window, and pauses for all tasks.

`LocalLimiter` counts the requests of one process. `SharedLimiter` leases requests from a budget that all processes of a
warehouse share, because the API counts requests per IP address. Neither is a token bucket: a full bucket that refills
at the same rate lets nearly twice the limit through in its first window.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import Protocol

from etl.limits import GUARD_SHARE, WINDOW_S

VALID_SHARE = 1 / 200  # of the window: validity of leased tokens (0.3 s of 60 s)
LONGEST_VALID_SHARE = 1 / 12  # of the window: maximum validity, for a budget that answers slowly (5 s of 60 s)
LONGEST_LAG_SHARE = 1 / 12  # of the window: maximum lag of the event loop that is taken into account (5 s of 60 s)
LONGEST_SLEEP_S = 5.0  # a waiting task checks again after this time, in case the clock was set


class Limiter(Protocol):
    """Decides when a client may send its next request."""

    async def acquire(self) -> None:
        """Wait until one request may be sent, and count it as sent."""

    async def pause(self, seconds: float) -> None:
        """Pause all requests for `seconds`, unless a longer pause is in effect."""


class Lease(Protocol):
    """Requests that a budget has granted."""

    @property
    def granted(self) -> int:
        """Number of requests that may be sent; it may be less than requested."""

    @property
    def wait_s(self) -> float:
        """If no request was granted, the number of seconds to wait before asking again."""

    @property
    def valid_until(self) -> float:
        """When the lease expires, as a value of `time.monotonic()`."""


class SharedBudget(Protocol):
    """A request budget that processes share. `etl.db.budget.Budget` stores it in PostgreSQL."""

    async def lease(self, want: int, valid_s: float, lag_s: float = 0.0) -> Lease:
        """Lease up to `want` requests, to be sent within `valid_s` seconds; each may take `lag_s` more to leave."""

    async def pause(self, seconds: float) -> None:
        """Grant no leases to any process for `seconds`."""


class LoopLag:
    """Measures the lag of the event loop: the longest delay of a callback in the last window.

    On a busy machine, a request is sent later than the limiter allowed it. If the next one is sent on time, the
    interval between the two is shorter than intended, by the lag.
    """

    def __init__(self, window_s: float) -> None:
        self.seconds = 0.0
        self._window_s = window_s
        self._measured_at = 0.0

    def measure(self) -> None:
        """Measure the delay of a callback that is scheduled now."""
        asyncio.get_running_loop().call_soon(self._record, monotonic())

    def _record(self, scheduled_at: float) -> None:
        now = monotonic()
        lag_s = min(now - scheduled_at, self._window_s * LONGEST_LAG_SHARE)
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
        """Wait until one request may be sent, and count it as sent now plus the lag of the event loop."""
        if not self._turn.locked() and self._wait_s() <= 0:
            self._count()
            return
        async with self._turn:
            while (wait_s := self._wait_s()) > 0:  # noqa: ASYNC110 - only time ends the wait, no event
                await asyncio.sleep(min(wait_s, LONGEST_SLEEP_S))
            self._count()

    def _count(self) -> None:
        self._sent.append(monotonic() + self._lag.seconds)
        self._lag.measure()

    async def pause(self, seconds: float) -> None:
        """Pause the requests of this process for `seconds`, unless a longer pause is in effect."""
        self._paused_until = max(self._paused_until, monotonic() + seconds)

    def _wait_s(self) -> float:
        now = monotonic()
        free_at = self._sent[0] + self._held_s if len(self._sent) == self._sent.maxlen else now
        return max(free_at, self._paused_until) - now


class SharedLimiter:
    """The rate limit of all processes that share a budget.

    One task at a time leases tokens for all waiting tasks, so a burst of requests needs one round trip. Tokens expire
    soon (after 0.3 s with a window of 60 s), and the budget counts each token as sent when it expires, plus the lag of
    the event loop. The limit therefore holds in any window, even if a process is killed.

    Each lease requests `ahead` tokens more than are needed now, to save round trips if the limit is in the tens of
    thousands per minute. At 500 per minute, `ahead` is 0, because no process can use a leased but unused token for a
    whole window.
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
        """Wait until one request may be sent. The caller must send it immediately.

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
                        await asyncio.sleep(min(wait_s, LONGEST_SLEEP_S))
        finally:
            self._waiting -= 1

    async def pause(self, seconds: float) -> None:
        """Pause the requests of all processes for `seconds`, unless a longer pause is in effect.

        Other processes may still send the requests that they have leased.

        Raises:
            DatabaseError: the budget cannot be reached or used.
        """
        until = monotonic() + seconds
        longer_by_s = until - self._paused_until
        self._paused_until = max(self._paused_until, until)
        # The tasks of a process get similar pauses at about the same time: only the first one is passed to the budget.
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
        """Lease tokens for all waiting tasks; return the seconds to wait if none were granted, else 0."""
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
