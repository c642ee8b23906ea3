"""A connection for those that only read the warehouse, and what can go wrong with it."""

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
    """Open a read-only connection; what the database raises inside becomes a `DatabaseError` with its hint.

    Args:
        url: the database.
        schema: the warehouse's schema.
        purpose: what the connection is for, in a word: `report`, `export`.

    Raises:
        DatabaseError: the warehouse cannot be reached or read, or is not there.
    """
    connection = await connect(url, schema, application_name=f"cortex-etl {purpose}", read_only=True)
    try:
        yield connection
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as failure:
        raise DatabaseError(
            f'there is no warehouse of this version in the schema "{schema}": {failure}',
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
            f"the database went away during the {purpose}: {failure}", hint="Check PostgreSQL and try again."
        ) from failure
    finally:
        connection.terminate()
