"""The request budget of an API host, kept in PostgreSQL so that all processes on a warehouse share it.

The API counts requests per IP address. One row a host says when how many requests were sent; a process leases a few
at a time and sends them at once. The clock is PostgreSQL's, so the processes' own clocks do not matter.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import random
from time import monotonic

import asyncpg

from etl.db.refusals import LOST, unusable
from etl.db.statements import statements
from etl.errors import DatabaseError

WINDOW_S = 60.0  # the API counts requests in any 60 seconds
_GUARD_SHARE = 1 / 150  # of the window: how unevenly late requests may reach the API (0.4 s of 60 s)
_SLOT_SHARE = 1 / 300  # of the window: leases this close together share an entry (0.2 s of 60 s)

_PASSING = (*LOST, asyncpg.InsufficientResourcesError)  # the server comes back, or has room again
_PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6)  # before each retry
_LONGEST_RETRY_S = 15.0  # no retry begins later


@dataclass(frozen=True, slots=True)
class BudgetLease:
    """What was granted: `granted` requests to be sent before `time.monotonic()` reads `valid_until`.

    Where nothing was granted, `wait_s` says in how many seconds to ask again.
    """

    granted: int
    wait_s: float
    valid_until: float


class Budget:
    """The budget of one API host: `requests_per_minute` requests in any `window_s` seconds over all processes.

    Give it a pool of its own with one connection: a lease that waits for a busy pool holds all requests up.
    """

    def __init__(self, pool: asyncpg.Pool, host: str, requests_per_minute: int, *, window_s: float = WINDOW_S) -> None:
        self._pool = pool
        self._host = host
        self._requests_per_minute = requests_per_minute
        self._held_s = window_s * (1 + _GUARD_SHARE)
        self._slot_s = window_s * _SLOT_SHARE

    async def lease(self, want: int, valid_s: float) -> BudgetLease:
        """Lease up to `want` requests that are sent within `valid_s` seconds from now.

        Raises:
            DatabaseError: the database stays unreachable for some seconds, or refuses.
        """
        terms = (want, self._requests_per_minute, self._held_s, valid_s, self._slot_s)
        row, asked_at = await self._query("lease", *terms)
        while row is None:  # the first lease from this host
            await self._query("open")
            row, asked_at = await self._query("lease", *terms)
        return BudgetLease(row["granted"], row["wait_s"], asked_at + valid_s)

    async def pause(self, seconds: float) -> None:
        """Grant nothing to anybody for that many seconds; a longer pause in force stays.

        Raises:
            DatabaseError: the database stays unreachable for some seconds, or refuses.
        """
        await self._query("pause", seconds)

    async def _query(self, name: str, *values: float) -> tuple[asyncpg.Record | None, float]:
        """Run a statement for this host; give its row and the monotonic time just before PostgreSQL got it."""
        sql = statements("budget")[name]
        give_up_at = monotonic() + _LONGEST_RETRY_S
        for pause_s in (*_PAUSES_S, None):
            try:
                async with self._pool.acquire() as connection:
                    asked_at = monotonic()
                    return await connection.fetchrow(sql, self._host, *values), asked_at
            except (*_PASSING, asyncpg.PostgresError) as error:
                if pause_s is None or not isinstance(error, _PASSING) or monotonic() > give_up_at:
                    raise DatabaseError(
                        f"the request budget in the database cannot be used: {error or type(error).__name__}",
                        hint=unusable(error).hint,
                    ) from error
                await asyncio.sleep(pause_s + random() / 5)  # noqa: S311 - spreads load, keeps no secret
        raise AssertionError("unreachable: the last attempt returns or raises")
