"""Who may read: roles that `grant` allows to, and the reader role of the embedded server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.db.connect import quote_identifier
from etl.db.statements import statements
from etl.tables import ENTITIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

READER = "cortex_reader"
"""The role of the embedded server for commands that only read."""

_TABLES = [*(each.name for each in ENTITIES), "etl_syncs", "etl_streams"]
_SECRET = ["etl_rejects.payload", "etl_settings.value", "etl_erased.hash"]

_SQL = statements("grants")


async def reader_grants(connection: asyncpg.Connection, schema: str, role: str) -> tuple[list[str], str]:
    """Return the statements that let a role read the warehouse: the entities, the views, and the state of the syncs.

    The last one, which sets the role's search_path, is returned apart: it may need another privilege.
    """
    space, reader = quote_identifier(schema), quote_identifier(role)
    place = await connection.fetchrow(_SQL["place"], role)
    assert place is not None  # noqa: S101 - the statement always gives one row
    database = quote_identifier(place["name"])
    grants = [] if place["may_connect"] else [f"GRANT CONNECT ON DATABASE {database} TO {reader}"]
    grants.append(f"GRANT USAGE ON SCHEMA {space} TO {reader}")
    found = await connection.fetch(_SQL["relations"], schema, _TABLES)
    grants += [f"GRANT SELECT ON {space}.{quote_identifier(row['name'])} TO {reader}" for row in found]
    return grants, f"ALTER ROLE {reader} IN DATABASE {database} SET search_path TO {space}"


async def relations(connection: asyncpg.Connection, schema: str) -> list[int]:
    """Return the relations of a schema, for `extend_grants`."""
    return [row["oid"] for row in await connection.fetch(_SQL["relation_oids"], schema)]


async def extend_grants(connection: asyncpg.Connection, schema: str, before: Sequence[int]) -> None:
    """Let the readers read the relations that a migration has added, or has made anew.

    Args:
        connection: a connection of the role that made them.
        schema: schema of the warehouse.
        before: the relations that there were before.
    """
    for row in await connection.fetch(_SQL["grants_of_new_relations"], schema, _TABLES, before):
        await connection.execute(row["statement"])


async def admit_reader(connection: asyncpg.Connection, schema: str) -> None:
    """Bring the reader role of the embedded server up to date, creating it if it does not exist.

    It may read everything in the schema except the bytes in quarantine, salts, and hashes of what was erased.
    """
    if await connection.fetchval(_SQL["has_role"], READER) and not await _wrong_rights(connection, schema):
        return
    async with connection.transaction():
        await connection.execute(_SQL["lock"])
        if not await connection.fetchval(_SQL["has_role"], READER):
            await connection.execute(f"CREATE ROLE {READER} LOGIN")
        for statement in await _wrong_rights(connection, schema):
            await connection.execute(statement)


async def _wrong_rights(connection: asyncpg.Connection, schema: str) -> list[str]:
    """Return the statements that correct the rights of the reader role."""
    missing = await connection.fetch(_SQL["missing_grants"], schema, READER, _SECRET)
    excess = await connection.fetch(_SQL["excess_rights"], READER)
    return [row["statement"] for row in (*missing, *excess)]
