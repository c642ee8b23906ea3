"""What leaves the quarantine because the API has removed it too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.db.statements import statements
from etl.normalize import is_due

if TYPE_CHECKING:
    from typing import Any

    import asyncpg

    Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy[Any]

_SQL = statements("state")
_PAYLOADS_AT_ONCE = 20  # each may take megabytes


async def empty_due_rejects(connection: Connection) -> None:
    """Remove the bytes of quarantined runs whose retention is due, as these tell, or else the run as it is stored.

    Args:
        connection: to the warehouse, outside of a transaction.
    """
    async with connection.transaction():
        found = connection.cursor(_SQL["rejects_with_retention"], prefetch=_PAYLOADS_AT_ONCE)
        due = []
        async for row in found:
            told = is_due(row["payload"], row["now"])
            if row["run_is_due"] if told is None else told:
                due.append(row["id"])
        await connection.execute(_SQL["empty_rejects"], due)
