"""What to do about an answer, and how long to wait before the next try."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from random import random
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING

from stamina.instrumentation import set_on_retry_hooks

from etl.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]+)?")

set_on_retry_hooks(())  # tries are told through events; stamina would log each a second time


class Action(Enum):
    """What to do about an answer."""

    USE = "read the body"
    RETRY = "try again with growing pauses, a few times"
    SLOW_DOWN = "let everybody pause, then try again"
    REFUSED = "stop everything: the key is refused"
    MISSING = "stop the stream: what was asked for does not exist"
    FAIL = "stop the stream: asking again would not help"


ACTIONS: Mapping[int, Action] = MappingProxyType(
    {
        200: Action.USE,
        401: Action.REFUSED,
        404: Action.MISSING,
        408: Action.RETRY,
        425: Action.RETRY,
        429: Action.SLOW_DOWN,
    }
)
ACTIONS_BY_HUNDRED: Mapping[int, Action] = MappingProxyType(
    {
        2: Action.RETRY,  # the API always sends a body with 200
        3: Action.FAIL,  # the key is not carried to where a redirect leads
        4: Action.FAIL,
        5: Action.RETRY,
    }
)


def action_for(status: int) -> Action:
    """Tell what to do about an answer with that HTTP status."""
    return ACTIONS.get(status) or ACTIONS_BY_HUNDRED.get(status // 100, Action.RETRY)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently to try. All times are in seconds.

    `attempts` bounds the tries of one request that fail otherwise than by 429; `patience_s` bounds the time since its
    first 429. Pauses double from `first_pause_s` to `longest_pause_s`, then up to `jitter` of them is added by chance.
    No pause that a server asks for is obeyed for longer than `longest_obeyed_s`.
    """

    attempts: int = 6
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    jitter: float = 0.5
    patience_s: float = 600.0
    longest_obeyed_s: float = 300.0

    def pause_s(self, failures: int, chance: float) -> float:
        """Tell how long to pause after so many failures (from 1); `chance` is a random number from 0 to 1."""
        doublings = min(failures - 1, 32)  # far beyond any pause, yet no overflow
        return min(self.longest_pause_s, self.first_pause_s * 2.0**doublings) * (1 + self.jitter * chance)

    def obeyed_s(self, asked_s: float | None, answers: int, chance: float) -> float:
        """Tell how long all pause after a request got so many 429 (from 1); `asked_s` is what the server asked for."""
        if asked_s is None:
            return self.pause_s(answers + 1, chance)
        return min(max(asked_s, self.first_pause_s), self.longest_obeyed_s)


def retry_after_s(value: str | None, date: str | None, now: datetime) -> float | None:
    """Read a `Retry-After` header.

    Args:
        value: the header: seconds, or an HTTP date.
        date: the `Date` header of the same answer; a date in `value` is measured against it, whatever our clock says.
        now: our clock, for an answer without `Date`.

    Returns:
        Seconds from now, at least 0; None where there is no such header or it makes no sense.
    """
    if value is None:
        return None
    if _SECONDS.fullmatch(value.strip()):
        return float(value)
    until = http_date(value)
    if until is None:
        return None
    return max(0.0, (until - (http_date(date) or now)).total_seconds())


def http_date(value: str | None) -> datetime | None:
    """Read an HTTP date; None where it is absent or makes no sense."""
    if value is None:
        return None
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError, TypeError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Tries:
    """The tries of one request: decides for stamina whether and when the next one comes, and tells of it.

    `on_retry` receives the number of tries that failed, the reason, and the seconds until the next.
    """

    __slots__ = ("_failures", "_limited_since", "_limits", "_on_retry", "_policy")

    def __init__(self, policy: RetryPolicy, on_retry: Callable[[int, str, float], None]) -> None:
        self._policy = policy
        self._on_retry = on_retry
        self._failures = 0
        self._limits = 0
        self._limited_since = 0.0

    def __call__(self, error: Exception) -> bool | float:
        """Return the seconds until the next try, or False to let the error out."""
        if not isinstance(error, TransientError):
            return False
        self._failures += 1
        if self._failures >= self._policy.attempts:
            return False
        pause_s = self._policy.pause_s(self._failures, random())  # noqa: S311 - spreads load, keeps no secret
        if error.retry_after_s is not None:
            pause_s = max(pause_s, min(error.retry_after_s, self._policy.longest_obeyed_s))
        self._on_retry(self._failures + self._limits, error.message, pause_s)
        return pause_s

    def rate_limited(self, asked_s: float | None) -> float | None:
        """Take note of a 429; return the seconds for which all pause, or None when the patience is used up."""
        now = monotonic()
        if self._limits == 0:
            self._limited_since = now
        elif now - self._limited_since >= self._policy.patience_s:
            return None
        self._limits += 1
        pause_s = self._policy.obeyed_s(asked_s, self._limits, random())  # noqa: S311 - spreads load, keeps no secret
        self._on_retry(self._failures + self._limits, "429 Too Many Requests", pause_s)
        return pause_s
