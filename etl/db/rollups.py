"""Counts anew the days whose runs changed, so that the daily views read few rows.

Nothing depends on when this runs, or whether: a change to runs notes its days in its own transaction, and the views
count those from the runs themselves (see `migrations/0003_rollups.sql`).
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from etl.db.statements import statements

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date
    from typing import Any

    import asyncpg

    Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy[Any]

_SQL = statements("rollups")


async def roll_up(connection: Connection, *more: Connection, seconds: float) -> int:
    """Count days that changed, the newest first, each in a transaction of its own.

    What that costs stays in proportion to what has changed: see `due` in `sql/rollups.sql`.

    Args:
        connection: to the warehouse, outside of a transaction.
        more: others like it, on which further days, or shares of a large one, are counted meanwhile.
        seconds: after which nothing further is begun; what is left is for the next time.

    Returns:
        How many days, or shares of large ones, were counted; 0 as well while another process is at it.

    Raises:
        asyncpg.PostgresError: what PostgreSQL refuses; the views stay right.
    """
    if not await connection.fetchval(_SQL["take_turns"]):
        return 0
    until = monotonic() + seconds
    try:
        due = iter(await connection.fetch(_SQL["due"], 1 + len(more)))
        lanes = [_count_due(each, due, until) for each in (connection, *more)]
        ends = await asyncio.gather(*lanes, return_exceptions=True)  # where one connection is lost, the others go on
    finally:
        if not connection.is_closed():
            await connection.execute(_SQL["give_turn"])
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    return sum(end for end in ends if isinstance(end, int))


async def roll_up_workflow(connection: Connection, workflow_id: str, *, seconds: float) -> int:
    """Count days of one workflow that changed, as `roll_up` does, while other workflows are still loaded.

    Args:
        connection: to the warehouse, outside of a transaction.
        workflow_id: of the workflow.
        seconds: as of `roll_up`.

    Returns:
        How many days were counted; 0 as well while another process counts all of them.

    Raises:
        asyncpg.PostgresError: what PostgreSQL refuses, such as to count what another process counts as well.
    """
    if not await connection.fetchval(_SQL["join_in"]):
        return 0
    until = monotonic() + seconds
    try:
        due = iter(await connection.fetch(_SQL["due_of_workflow"], workflow_id))
        return await _count_due(connection, due, until)
    finally:
        if not connection.is_closed():
            await connection.execute(_SQL["leave"])


async def _count_due(connection: Connection, due: Iterator[asyncpg.Record], until: float) -> int:
    """Count days until there are none left, or begin none after `until`; `due` may feed several connections."""
    counted = 0
    for row in due:
        await _count(connection, row["days"], row["workflows"])
        counted += len(row["days"])
        if monotonic() >= until:
            break
    return counted


async def _count(connection: Connection, days: Sequence[date], workflows: Sequence[str]) -> None:
    # Who finds notes gone that its picture still holds ends with an error: another process has counted these days.
    async with connection.transaction(isolation="repeatable_read"):
        await connection.execute(_SQL["tune"])
        await connection.execute(_SQL["count"], days, workflows)
