"""Check the role for queries: whether it can connect, may read the warehouse, and may do nothing else."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from etl.db.connect import connect
from etl.db.refusals import DRIVER_ERRORS, unusable
from etl.db.statements import statements
from etl.doctor.checks import Check, ok, warning
from etl.errors import DatabaseError, SettingsError

if TYPE_CHECKING:
    import asyncpg

    from etl.config import Settings

_SQL = statements("doctor")


async def examine_reader(connection: asyncpg.Connection, settings: Settings) -> Check:
    """Check the role of `database.read_url`, or that of `database.url` if it is not set."""
    schema = settings.database.schema_name
    try:
        url = settings.read_url()
    except SettingsError as error:
        return warning("reader", error.message, error.hint)
    if url is None:
        return await _with_the_role_that_loads(connection, schema)
    try:
        reader = await connect(url, schema, timeout_s=settings.database.timeout_s)
    except DatabaseError as error:
        return warning("reader", f"database.read_url: {error.message}", error.hint)
    try:
        return await _with_its_own_role(reader, schema)
    except DRIVER_ERRORS as error:
        return warning("reader", f"database.read_url: {unusable(error).message}", unusable(error).hint)
    finally:
        await reader.close()


async def _with_the_role_that_loads(connection: asyncpg.Connection, schema: str) -> Check:
    found = await connection.fetchrow(_SQL["reader"], schema)
    assert found is not None  # noqa: S101 -- the statement always gives one row
    if found["is_superuser"]:
        return warning(
            "reader",
            f"queries use {found['role']}, who is a superuser or may become one; read-only transactions do not stop it",
            "Create a role that only reads, run: cortex-etl grant ROLE --apply, and set database.read_url.",
        )
    return ok("reader", f"queries use {found['role']} in read-only transactions")


async def _with_its_own_role(reader: asyncpg.Connection, schema: str) -> Check:
    found = await reader.fetchrow(_SQL["reader"], schema)
    assert found is not None  # noqa: S101 -- the statement always gives one row
    role = found["role"]
    if found["is_superuser"]:
        hint = "Use a role without this right in database.read_url."
        return warning("reader", f"{role} in database.read_url is a superuser or may become one", hint)
    if not found["may_read"]:
        hint = f"Run as the owner of schema {schema}: {shlex.join(['cortex-etl', 'grant', role, '--apply'])}"
        return warning("reader", f"{role} in database.read_url may not read the schema {schema}", hint)
    if found["may_write"]:
        hint = "Use a role that only reads; `cortex-etl grant ROLE` prints its grants."
        return warning("reader", f"{role} in database.read_url may also write", hint)
    return ok("reader", f"queries use {role}, which only reads")
