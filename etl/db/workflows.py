"""Write the workflows and apps that discovery finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.db.load import hold_owners
from etl.db.refusals import describe_refusal
from etl.db.statements import statements
from etl.db.store import REFUSALS
from etl.tables import APPS, WORKFLOWS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    import asyncpg

    from etl.normalize.rows import Row
    from etl.tables import Table

    Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy[Any]

_SQL = statements("workflows")
_APP = WORKFLOWS.names.index("app_id")


async def save_workflows(
    pool: asyncpg.Pool,
    rows: Sequence[tuple[Row, Row | None]],
    *,
    bare: Sequence[str] = (),
) -> dict[str, str]:
    """Upsert the workflows that an app lists.

    Args:
        pool: connections to the warehouse.
        rows: (workflow row, app row or None) of each listed workflow.
        bare: ids of listed workflows that could not be parsed; their stored rows stay unchanged.

    Returns:
        The errors of workflows that PostgreSQL refused, by id. Only the ids of these workflows are stored.
    """
    refused: dict[str, str] = {}
    async with pool.acquire() as connection, connection.transaction():
        try:
            await _write(connection, rows)
        except REFUSALS:
            for row in rows:
                try:
                    await _write(connection, [row])
                except REFUSALS as error:
                    refused[str(row[0][0])] = describe_refusal(error)
        await hold_owners(connection, (), [*bare, *refused])
        listed = [*(row[0] for row, _ in rows), *bare]
        await connection.execute(_SQL["return_workflows"], listed)
    return refused


async def misses_workflows(pool: asyncpg.Pool, app_id: str, listed: Sequence[str]) -> bool:
    """Return whether an app had workflows that have been read, and that no app lists now."""
    return bool(await pool.fetchval(_SQL["misses_workflows"], app_id, list(listed)))


async def mark_workflows_gone(pool: asyncpg.Pool, apps: Sequence[str]) -> None:
    """Mark workflows that these apps no longer list as gone. Call `record_requested` first."""
    await pool.execute(_SQL["mark_workflows_gone"], list(apps))


async def _write(connection: Connection, rows: Sequence[tuple[Row, Row | None]]) -> None:
    apps = {row[0]: row for _, row in rows if row is not None}
    async with connection.transaction():
        await hold_owners(connection, [row[_APP] for row, _ in rows], ())
        await connection.executemany(_upsert(APPS), [apps[app_id] for app_id in sorted(apps)])
        await connection.executemany(_upsert(WORKFLOWS), [row for row, _ in sorted(rows, key=lambda pair: pair[0][0])])


async def name_workflows(pool: asyncpg.Pool, ids: Sequence[str]) -> None:
    """Ensure that workflows of which only the ids are known have rows."""
    async with pool.acquire() as connection, connection.transaction():
        await hold_owners(connection, (), ids)


def _upsert(table: Table) -> str:
    """Return an upsert statement that does not write unchanged rows."""
    names = [f'"{name}"' for name in table.names]
    places = ", ".join(f"${place}" for place in range(1, len(names) + 1))
    values = [name for name in names if name.strip('"') not in table.key]
    assigned = ", ".join(f"{name} = excluded.{name}" for name in values)
    stored = ", ".join(f"{table.name}.{name}" for name in values)
    incoming = ", ".join(f"excluded.{name}" for name in values)
    return (
        f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({places}) "  # noqa: S608 - from the descriptors alone
        f"ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {assigned} "
        f"WHERE ({stored}) IS DISTINCT FROM ({incoming})"
    )
