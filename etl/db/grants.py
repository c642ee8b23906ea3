"""Read privileges: for roles named to `cortex-etl grant`, and for the reader role of the embedded server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.db.connect import quote_identifier
from etl.db.statements import statements
from etl.tables import ENTITIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

READER = "cortex_reader"
"""The role with which read-only commands connect to the embedded server."""

_TABLES = [*(each.name for each in ENTITIES), "etl_syncs", "etl_streams"]
_SECRET = ["etl_rejects.payload", "etl_settings.value", "etl_erased.hash"]

_SQL = statements("grants")


async def reader_grants(connection: asyncpg.Connection, schema: str, role: str) -> tuple[list[str], str]:
    """Return the statements that let a role read the warehouse: entities, views and sync state.

    The statement that sets the role's search_path is returned separately, because it may need another privilege.
    """
    space, reader = quote_identifier(schema), quote_identifier(role)
    place = await connection.fetchrow(_SQL["place"], role)
    assert place is not None  # noqa: S101 - the statement always returns one row
    database = quote_identifier(place["name"])
    grants = [] if place["may_connect"] else [f"GRANT CONNECT ON DATABASE {database} TO {reader}"]
    grants.append(f"GRANT USAGE ON SCHEMA {space} TO {reader}")
    found = await connection.fetch(_SQL["relations"], schema, _TABLES)
    grants += [f"GRANT SELECT ON {space}.{quote_identifier(row['name'])} TO {reader}" for row in found]
    return grants, f"ALTER ROLE {reader} IN DATABASE {database} SET search_path TO {space}"


async def relations(connection: asyncpg.Connection, schema: str) -> list[int]:
    """Return the OIDs of the relations in a schema, for `extend_grants`."""
    return [row["oid"] for row in await connection.fetch(_SQL["relation_oids"], schema)]


async def extend_grants(connection: asyncpg.Connection, schema: str, before: Sequence[int]) -> None:
    """Let readers read the relations that a migration has created or recreated.

    Args:
        connection: a connection of the role that owns these relations.
        schema: schema of the warehouse.
        before: OIDs of the relations before the migration.
    """
    for row in await connection.fetch(_SQL["grants_of_new_relations"], schema, _TABLES, before):
        await connection.execute(row["statement"])


async def admit_reader(connection: asyncpg.Connection, schema: str) -> None:
    """Create the reader role of the embedded server if it does not exist, and correct its privileges.

    The role may read everything in the schema except the bytes in quarantine, the salts, and the hashes of erased ids.
    """
    if await connection.fetchval(_SQL["has_role"], READER) and not await _corrections(connection, schema):
        return
    async with connection.transaction():
        await connection.execute(_SQL["lock"])
        if not await connection.fetchval(_SQL["has_role"], READER):
            await connection.execute(f"CREATE ROLE {READER} LOGIN")
        for statement in await _corrections(connection, schema):
            await connection.execute(statement)


async def _corrections(connection: asyncpg.Connection, schema: str) -> list[str]:
    """Return the statements that correct the privileges of the reader role."""
    missing = await connection.fetch(_SQL["missing_grants"], schema, READER, _SECRET)
    excess = await connection.fetch(_SQL["excess_privileges"], READER)
    return [row["statement"] for row in (*missing, *excess)]
