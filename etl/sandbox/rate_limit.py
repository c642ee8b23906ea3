"""The API's rate limit: so many requests an address in any window of time."""

from __future__ import annotations

from collections import deque


class RollingLimit:
    """Counts the requests of each address over a rolling window. Refused requests do not count."""

    def __init__(self, requests: int, window_s: float = 60.0) -> None:
        """Allow `requests` an address in any `window_s` seconds."""
        self._requests = requests
        self._window_s = window_s
        self._allowed: dict[str, deque[float]] = {}

    def refuse_for(self, address: str, now: float) -> float:
        """Ask for one request at `now` (seconds of any clock): 0 where it is allowed, else how many seconds to wait."""
        allowed = self._allowed.setdefault(address, deque())
        while allowed and allowed[0] <= now - self._window_s:
            allowed.popleft()
        if len(allowed) < self._requests:
            allowed.append(now)
            return 0.0
        return allowed[0] + self._window_s - now if allowed else self._window_s
