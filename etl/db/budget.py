"""The request budget of an API host, stored in PostgreSQL so that all processes of a warehouse share it.

The API counts requests per IP address. One row per host and address records the requests sent; a process leases a few
at a time and sends them immediately. Only PostgreSQL's clock is used, so the clocks of the processes do not matter.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import random
from time import monotonic

import asyncpg

from etl.db import liveness
from etl.db.refusals import LOST, unusable
from etl.db.statements import statements
from etl.errors import DatabaseError
from etl.limits import GUARD_SHARE, WINDOW_S

_SLOT_SHARE = 1 / 300  # of the window: leases in the same slot share an array entry (0.2 s of 60 s)

_UNCOUNTED = 10
"""How many requests count as sent when the schema was created: `doctor` may have sent them before the first sync."""

_TEMPORARY = (*LOST, asyncpg.InsufficientResourcesError)
_LONGEST_PAUSE_S = 1.6  # between attempts


@dataclass(frozen=True, slots=True)
class BudgetLease:
    """A lease of `granted` requests, to be sent before `time.monotonic()` reaches `valid_until`.

    If nothing was granted, `wait_s` is the number of seconds to wait before asking again.
    """

    granted: int
    wait_s: float
    valid_until: float


class Budget:
    """The budget of one API host: `requests_per_minute` requests in any `window_s` seconds, over all processes.

    `egress` names the address from which requests reach the host; processes without an `egress` share a budget.

    Use a separate pool with one connection: waiting for a busy pool would delay all requests. If the database is
    unreachable, statements are retried for `retry_for_s` seconds (default: `liveness.OUTAGE_S`).
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        host: str,
        requests_per_minute: int,
        *,
        egress: str | None = None,
        window_s: float = WINDOW_S,
        retry_for_s: float | None = None,
    ) -> None:
        self._pool = pool
        self._key = (host, egress or "")
        self._requests_per_minute = requests_per_minute
        self._retry_for_s = liveness.OUTAGE_S if retry_for_s is None else retry_for_s
        self._held_s = window_s * (1 + GUARD_SHARE)
        self._slot_s = window_s * _SLOT_SHARE

    async def lease(self, want: int, valid_s: float, lag_s: float = 0.0) -> BudgetLease:
        """Lease up to `want` requests.

        Args:
            want: the number of requests wanted.
            valid_s: seconds from now within which they must be sent.
            lag_s: seconds that a request may take to reach the host.

        Raises:
            DatabaseError: the database stays unreachable, or refuses the statement.
        """
        terms = (want, self._requests_per_minute, self._held_s, valid_s + lag_s, self._slot_s)
        row, asked_at = await self._query("lease", *terms)
        while row is None:  # the first lease for this host
            await self._query("open", min(_UNCOUNTED, self._requests_per_minute // 2))
            row, asked_at = await self._query("lease", *terms)
        return BudgetLease(row["granted"], row["wait_s"], asked_at + valid_s)

    async def pause(self, seconds: float) -> None:
        """Grant no requests to any process for `seconds`, unless a longer pause is in effect.

        Raises:
            DatabaseError: the database stays unreachable, or refuses the statement.
        """
        await self._query("pause", seconds)

    async def _query(self, name: str, *values: float) -> tuple[asyncpg.Record | None, float]:
        """Run a statement for this host; return its row and the monotonic time just before it was sent."""
        sql = statements("budget")[name]
        give_up_at, pause_s = monotonic() + self._retry_for_s, 0.1
        while True:
            try:
                async with self._pool.acquire() as connection:
                    asked_at = monotonic()
                    return await connection.fetchrow(sql, *self._key, *values), asked_at
            except (*_TEMPORARY, asyncpg.PostgresError) as error:
                if not isinstance(error, _TEMPORARY) or monotonic() > give_up_at:
                    raise DatabaseError(
                        f"the request budget in the database cannot be used: {error or type(error).__name__}",
                        hint=unusable(error).hint,
                    ) from error
                await asyncio.sleep(pause_s + random() / 5)  # noqa: S311 - jitter, not a secret
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
