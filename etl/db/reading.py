"""Read-only connections to the warehouse, with errors that have hints."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from etl.db.connect import connect
from etl.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def reading(url: str, schema: str, *, purpose: str) -> AsyncIterator[asyncpg.Connection]:
    """Open a read-only connection; errors raised inside become a `DatabaseError` with a hint.

    Args:
        url: URL of the database.
        schema: schema of the warehouse.
        purpose: purpose of the connection, such as `report` or `export`.

    Raises:
        DatabaseError: the warehouse cannot be reached or read, or does not exist.
    """
    connection = await connect(url, schema, application_name=f"cortex-etl {purpose}", read_only=True)
    try:
        yield connection
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as failure:
        raise DatabaseError(
            f'the schema "{schema}" contains no warehouse of this version: {failure}',
            hint="Run `cortex-etl migrate`, then `cortex-etl sync`.",
        ) from failure
    except asyncpg.InsufficientPrivilegeError as failure:
        raise DatabaseError(
            f'the database role may not read the schema "{schema}": {failure}',
            hint="Grant it USAGE on the schema and SELECT on its tables and views.",
        ) from failure
    except (
        asyncpg.PostgresConnectionError,
        asyncpg.OperatorInterventionError,
        asyncpg.InterfaceError,
        ConnectionError,
    ) as failure:
        if isinstance(failure, asyncpg.InterfaceError) and not connection.is_closed():
            raise
        raise DatabaseError(
            f"lost the connection to the database during the {purpose}: {failure}",
            hint="Check PostgreSQL and try again.",
        ) from failure
    finally:
        connection.terminate()
