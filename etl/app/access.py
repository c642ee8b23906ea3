"""Grant read privileges, and erase content permanently."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import asyncpg

from etl.app.warehouse import connected
from etl.db import erasing, grants
from etl.db.connect import LONG_S, quote_identifier
from etl.errors import DatabaseError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etl.config import Settings
    from etl.db.erasing import Forgotten


async def count_to_forget(settings: Settings, *, runs: Sequence[str] = (), records: Sequence[str] = ()) -> int:
    """Count the runs in the warehouse that `forget` would erase.

    Raises:
        DatabaseError: the database cannot be reached or used.
    """
    async with connected(settings, timeout_s=LONG_S) as connection:
        return await erasing.count(connection, runs, records)


async def forget(settings: Settings, *, runs: Sequence[str] = (), records: Sequence[str] = ()) -> Forgotten:
    """Erase the content of runs, or of all runs of records, permanently; later loads do not restore it.

    Args:
        runs: ids of runs.
        records: ids of records.

    Raises:
        DatabaseError: the database cannot be reached or used.
    """
    async with connected(settings, timeout_s=LONG_S) as connection:
        return await erasing.forget(connection, runs, records)


async def reader_grants(settings: Settings, role: str, *, apply: bool = False) -> list[str]:
    """Return or apply the statements that let a role read the entities, the views and the sync state.

    Args:
        role: name of the role, which must exist if `apply` is true.
        apply: whether to run the statements, in one transaction. The statement that sets the role's search_path is run
            separately, because it may fail.

    Returns:
        The SQL statements that were not run.

    Raises:
        DatabaseError: the database cannot be reached, the role does not exist, or a privilege is missing.
    """
    if not role or "\0" in role or len(role.encode(errors="replace")) > 63:
        raise SettingsError(f"invalid role name {role!r}", hint="Use 1 to 63 bytes.")
    async with connected(settings, timeout_s=LONG_S) as connection:
        statements, search_path = await grants.reader_grants(connection, settings.database.schema_name, role)
        if not apply:
            return [*statements, search_path]
        await _apply(connection, statements, role)
        with suppress(asyncpg.InsufficientPrivilegeError):
            await connection.execute(search_path)
            return []
        return [search_path]


async def _apply(connection: asyncpg.Connection, statements: Sequence[str], role: str) -> None:
    warnings: list[str] = []
    connection.add_log_listener(lambda _, message: warnings.append(message.message))
    try:
        async with connection.transaction():
            for grant in statements:
                await connection.execute(grant)
                if warnings:  # PostgreSQL only warns if a role may not grant a privilege
                    raise DatabaseError(
                        f"PostgreSQL refused a grant: {warnings[0]}",
                        hint=f"Have the owner run: {grant}; then run this again.",
                    )
    except asyncpg.UndefinedObjectError:
        raise DatabaseError(
            f"role {role} does not exist",
            hint=f"Create it as an administrator: CREATE ROLE {quote_identifier(role)} LOGIN PASSWORD '...';",
        ) from None
    except asyncpg.InsufficientPrivilegeError:
        raise
    except asyncpg.PostgresError as refusal:
        raise DatabaseError(
            f"PostgreSQL refused a grant: {refusal}", hint="Fix the cause named in the message."
        ) from refusal
