"""When runs are created: activity by hour and weekday. Times are epoch milliseconds, UTC."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS

_OFFICE: Final = (2, 1, 1, 1, 2, 3, 6, 12, 18, 22, 23, 21, 17, 20, 22, 21, 18, 14, 9, 7, 6, 5, 4, 3)
_NIGHT: Final = (4, 30, 60, 40, 10, 6, 6, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 4, 4)
_WEEKDAYS: Final = (1.1, 1.15, 1.1, 1.05, 0.95, 0.4, 0.3)


def to_ms(moment: datetime) -> int:
    """Convert an aware datetime to epoch milliseconds."""
    return round(moment.timestamp() * 1000)


def from_ms(moment_ms: int) -> datetime:
    """Convert epoch milliseconds to a UTC datetime."""
    return datetime.fromtimestamp(moment_ms / 1000, UTC)


class ActivityPattern:
    """Relative activity of each hour of the week, with a mean of 1."""

    def __init__(self, *, nightly: bool) -> None:
        hours = _NIGHT if nightly else _OFFICE
        raw = [day * hour for day in _WEEKDAYS for hour in hours]
        mean = sum(raw) / len(raw)
        self._week = [value / mean for value in raw]
        self._peak = max(self._week)

    def at(self, moment_ms: int) -> float:
        """Return the relative activity in the hour of `moment_ms`."""
        # 1970-01-01 was a Thursday: day 3 of a week that begins on Monday.
        return self._week[(moment_ms // HOUR_MS + 3 * 24) % len(self._week)]

    def moment(self, random: Random, start_ms: int, end_ms: int) -> int:
        """Choose a moment in [start_ms, end_ms), weighted by activity."""
        while True:
            moment_ms = start_ms + int(random.random() * (end_ms - start_ms))
            if random.random() * self._peak <= self.at(moment_ms):
                return moment_ms

    def moments(self, random: Random, start_ms: int, end_ms: int, per_day: float) -> list[int]:
        """Return the moments of a Poisson process with `per_day` events per day on average, in chronological order."""
        found: list[int] = []
        cell = start_ms
        while cell < end_ms:
            until = min(end_ms, (cell // HOUR_MS + 1) * HOUR_MS)
            mean = per_day * self.at(cell) * (until - cell) / DAY_MS
            found += sorted(cell + int(random.random() * (until - cell)) for _ in range(poisson(random, mean)))
            cell = until
        return found


def poisson(random: Random, mean: float) -> int:
    """Draw from a Poisson distribution (approximated by a normal distribution if the mean is large)."""
    if mean > 30:
        return max(0, round(random.gauss(mean, math.sqrt(mean))))
    limit, count, product = math.exp(-mean), 0, random.random()
    while product > limit:
        count += 1
        product *= random.random()
    return count
