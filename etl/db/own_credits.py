"""Own credits: the cost of runs and steps without the runs that they started.

A load records the runs that it writes. After the commit, PostgreSQL computes the own credits of their parents: see
`update_own_credits` in `migrations/0003_rollups.sql`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from etl.db.statements import statements

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    import asyncpg

    Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy[Any]

_SQL = statements("own_credits")

_NO_DELAY: Final = timedelta(0)


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
