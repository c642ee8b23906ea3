"""Values that are computed after loads: daily rollups, and own credits.

Rollups let the daily views read few rows. The views are always correct: a change to runs records the affected days in
its own transaction, and the views compute those days from the runs until they are rolled up.

Own credits are the cost of runs and steps without the runs that they started. A load records the runs that it writes;
after the commit, PostgreSQL computes the own credits of their parents. For both, see `migrations/0003_rollups.sql`.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from etl.db.statements import statements

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import date

    import asyncpg

    Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy[Any]

_SQL = statements("rollups")

_NO_DELAY: Final = timedelta(0)


async def roll_up(connection: Connection, *more: Connection, seconds: float) -> int:
    """Roll up changed days, newest first, each in its own transaction.

    The cost is proportional to the changes: see `due` in `sql/rollups.sql`.

    Args:
        connection: a connection to the warehouse, outside of a transaction.
        more: further connections, on which other days, or parts of a large day, are rolled up concurrently.
        seconds: time after which no further day is started. Remaining days are rolled up by a later call.

    Returns:
        The number of days, or parts of large days, that were rolled up; 0 if another process is rolling up.

    Raises:
        asyncpg.PostgresError: PostgreSQL refused a statement; the views stay correct.
    """
    if not await connection.fetchval(_SQL["lock_all"]):
        return 0
    until = monotonic() + seconds
    try:
        due = iter(await connection.fetch(_SQL["due"], 1 + len(more)))
        tasks = [_roll_up_due(each, due, until) for each in (connection, *more)]
        results = await asyncio.gather(*tasks, return_exceptions=True)  # if one connection is lost, the others continue
    finally:
        if not connection.is_closed():
            await connection.execute(_SQL["unlock_all"])
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return sum(result for result in results if isinstance(result, int))


async def _roll_up_due(connection: Connection, due: Iterator[asyncpg.Record], until: float) -> int:
    """Roll up days until none is left or `until` has passed; several connections may share `due`."""
    done = 0
    for row in due:
        await _roll_up_days(connection, row["days"], row["workflows"])
        done += len(row["days"])
        if monotonic() >= until:
            break
    return done


async def _roll_up_days(connection: Connection, days: Sequence[date], workflows: Sequence[str]) -> None:
    # Under REPEATABLE READ, the statement fails if another process has rolled up these days since the snapshot.
    async with connection.transaction(isolation="repeatable_read"):
        await connection.execute(_SQL["wait_for_erasing"])
        await connection.execute(_SQL["tune"])
        await connection.execute(_SQL["roll_up"], days, workflows)


async def note_changes(connection: Connection, run_ids: Collection[str]) -> None:
    """Record runs whose own credits, or whose parents' own credits, may have changed.

    Args:
        connection: a connection in the transaction that writes the runs.
        run_ids: ids of the written runs, and of the runs that they start or started according to their earlier copies.
    """
    if run_ids:
        await connection.execute(_SQL["note_changes"], run_ids)


async def update_own_credits(connection: Connection, *, min_age: timedelta = _NO_DELAY) -> bool:
    """Compute the own credits that recorded changes affect.

    Args:
        connection: a connection outside of a transaction.
        min_age: do nothing unless the oldest record is at least this old; computing many changes at once is faster.

    Returns:
        Whether no recorded change is left. Some are left if other connections are writing the same runs.
    """
    # Each statement has to see all earlier commits, whatever isolation level is the default of the role.
    async with connection.transaction(isolation="read_committed"):
        return bool(await connection.fetchval(_SQL["update_own_credits"], min_age))
