"""Own credits: what runs and steps cost without the runs that they started.

A load records the runs that it writes; PostgreSQL computes their parents after the commit, see `update_own_credits` in
`migrations/0003_rollups.sql`.
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

NO_PATIENCE: Final = timedelta(0)


async def note_changes(connection: Connection, run_ids: Collection[str]) -> None:
    """Record runs that this transaction writes, and the children that they name or named before.

    Args:
        connection: a connection in the transaction.
        run_ids: ids of the runs.
    """
    if run_ids:
        await connection.execute(_SQL["note_changes"], run_ids)


async def update_own_credits(connection: Connection, *, patience: timedelta = NO_PATIENCE) -> bool:
    """Compute what loads have recorded.

    Args:
        connection: a connection outside of a transaction.
        patience: do nothing unless something was recorded that long ago: it takes less time to compute much at once.

    Returns:
        Whether all was computed; otherwise some is left, possibly because other connections are writing these runs.
    """
    # Each statement has to see what was committed before it, whatever the role's default.
    async with connection.transaction(isolation="read_committed"):
        return bool(await connection.fetchval(_SQL["update_own_credits"], patience))
