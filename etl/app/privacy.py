"""Grant readers access, and erase content for good."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from etl.app.warehouse import bring_up_to_date, database_url
from etl.db import erasing
from etl.db.connect import connect, missing_privilege, quote_identifier
from etl.db.statements import statements
from etl.errors import DatabaseError, SettingsError
from etl.events import ignore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from etl.config import Settings
    from etl.db.erasing import Forgotten

_SQL = statements("grants")
_NOT_FOR_READERS = ("etl_erased", "etl_settings")
_BYTES_OF_REJECTS = "payload"


async def count_to_forget(settings: Settings, *, runs: Sequence[str] = (), records: Sequence[str] = ()) -> int:
    """Count the runs in the warehouse that `forget` would erase.

    Raises:
        DatabaseError: the database cannot be reached or used.
    """
    async with _connected(settings) as connection:
        return await erasing.count(connection, runs, records)


async def forget(settings: Settings, *, runs: Sequence[str] = (), records: Sequence[str] = ()) -> Forgotten:
    """Erase the content of runs, or of all runs of records, for good; it does not come back.

    Args:
        settings: where the warehouse is.
        runs: ids of runs.
        records: ids of records.

    Raises:
        DatabaseError: the database cannot be reached or used.
    """
    async with _connected(settings) as connection:
        return await erasing.forget(connection, runs, records)


async def reader_grants(settings: Settings, role: str, *, apply: bool = False) -> list[str]:
    """Return the SQL statements that let a role read the warehouse and nothing else.

    All tables and views except the bytes in quarantine and the hashes of what was erased.

    Args:
        settings: where the warehouse is.
        role: role of the reader; it must exist if the grants are applied.
        apply: run the statements in one transaction.

    Raises:
        DatabaseError: the database cannot be reached, the role does not exist, or a privilege is missing.
    """
    async with _connected(settings) as connection:
        grants = await _grants(connection, settings.database.schema_name, role)
        if apply:
            await _apply(connection, grants, role)
        return grants


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """Connect to the warehouse, with all migrations applied."""
    url, schema = await database_url(settings), settings.database.schema_name
    await bring_up_to_date(url, settings, ignore)
    connection = await connect(url, schema)
    try:
        yield connection
    except asyncpg.InsufficientPrivilegeError as refusal:
        raise missing_privilege(refusal, schema) from refusal
    finally:
        await connection.close()


async def _grants(connection: asyncpg.Connection, schema: str, role: str) -> list[str]:
    space, reader = quote_identifier(schema), _quoted_role(role)
    place = await connection.fetchrow(_SQL["place"], schema, role)
    assert place is not None  # noqa: S101 - the statement always gives one row
    relations = [row["name"] for row in await connection.fetch(_SQL["relations"], schema)]
    columns = [row["name"] for row in await connection.fetch(_SQL["columns"], schema, "etl_rejects")]
    whole = [name for name in relations if name not in (*_NOT_FOR_READERS, "etl_rejects")]
    shown = ", ".join(quote_identifier(name) for name in columns if name != _BYTES_OF_REJECTS)
    grants = (
        [] if place["may_connect"] else [f"GRANT CONNECT ON DATABASE {quote_identifier(place['name'])} TO {reader}"]
    )
    grants.append(f"GRANT USAGE ON SCHEMA {space} TO {reader}")
    grants += [f"GRANT SELECT ON {space}.{quote_identifier(name)} TO {reader}" for name in whole]
    grants.append(f"GRANT SELECT ({shown}) ON {space}.etl_rejects TO {reader}")
    owner = quote_identifier(place["owner"])
    # Relations that an upgrade adds are readable without another grant.
    grants.append(f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {space} GRANT SELECT ON TABLES TO {reader}")
    return grants


async def _apply(connection: asyncpg.Connection, grants: Sequence[str], role: str) -> None:
    warnings: list[str] = []
    connection.add_log_listener(lambda _, message: warnings.append(message.message))
    try:
        async with connection.transaction():
            for grant in grants:
                await connection.execute(grant)
                if warnings:  # PostgreSQL only warns if a role may not grant a privilege
                    raise DatabaseError(
                        f"PostgreSQL refused a grant: {warnings[0]}",
                        hint=f"Have the owner run: {grant}; then run this again.",
                    )
    except asyncpg.UndefinedObjectError:
        raise DatabaseError(
            f"role {role} does not exist",
            hint=f"Create it as an administrator: CREATE ROLE {_quoted_role(role)} LOGIN PASSWORD '...';",
        ) from None
    except asyncpg.InsufficientPrivilegeError:
        raise
    except asyncpg.PostgresError as refusal:
        raise DatabaseError(
            f"PostgreSQL refused a grant: {refusal}", hint="Fix the cause named in the message."
        ) from refusal


def _quoted_role(role: str) -> str:
    if not role or "\0" in role or len(role.encode(errors="replace")) > 63:
        raise SettingsError(f"invalid role name {role!r}", hint="Use 1 to 63 bytes.")
    return '"' + role.replace('"', '""') + '"'
