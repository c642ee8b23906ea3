"""Read-only connections to the warehouse: their URL and role, and errors with hints."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from etl.db import embedded
from etl.db.connect import connect
from etl.db.grants import READER, admit_reader
from etl.db.migrate import migrate
from etl.db.statements import statements
from etl.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from etl.config import Settings

_SQL = statements("reading")


async def reading_url(settings: Settings) -> str:
    """Return the URL for read-only commands: `database.read_url`, or else `database.url`.

    If neither is set, start and migrate the embedded server, so that an empty warehouse causes no error, and return the
    URL of its reader role. Other databases are not migrated, because the role may lack the privileges.

    Raises:
        SettingsError: the URL cannot be read.
        DatabaseError: the embedded server cannot be started or migrated.
    """
    if (url := _configured_url(settings)) is not None:
        return url
    url, schema = await asyncio.to_thread(embedded.start, settings.data_dir), settings.database.schema_name
    connection = await connect(url, schema)
    try:
        if settings.database.auto_migrate:
            await migrate(connection, schema)
        await admit_reader(connection, schema)
    finally:
        await connection.close()
    return _as_reader(url)


def url_without_start(settings: Settings) -> str | None:
    """Return the URL for a read-only command; None if it is the embedded server and that is not running.

    Raises:
        SettingsError: the URL cannot be read.
    """
    if (url := _configured_url(settings)) is not None:
        return url
    url = embedded.running_url(settings.data_dir)
    return None if url is None else _as_reader(url)


def _configured_url(settings: Settings) -> str | None:
    return settings.read_url() or settings.database_url()


def _as_reader(url: str) -> str:
    return urlunsplit(urlsplit(url)._replace(netloc=f"{READER}@"))


async def connect_to_read(url: str, schema: str, *, purpose: str) -> asyncpg.Connection:
    """Open a read-only connection; a superuser gives up its privileges.

    Args:
        url: URL of the database.
        schema: schema of the warehouse.
        purpose: purpose of the connection for `application_name`, such as `report` or `export`.

    Raises:
        DatabaseError: the database cannot be reached or used.
    """
    connection = await connect(url, schema, application_name=f"cortex-etl {purpose}")
    try:
        await connection.execute(_SQL["read_only"])
    except BaseException:
        connection.terminate()
        raise
    return connection


async def may_become_superuser(url: str, schema: str) -> bool:
    """Return whether a query could regain superuser privileges, which `connect_to_read` gives up.

    Raises:
        DatabaseError: the database cannot be reached or used.
    """
    async with reading(url, schema, purpose="check") as connection:
        return bool(await connection.fetchval(_SQL["may_become_superuser"]))


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
    connection = await connect_to_read(url, schema, purpose=purpose)
    try:
        yield connection
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as failure:
        raise DatabaseError(
            f'the schema "{schema}" contains no warehouse of this version: {failure}',
            hint="Run `cortex-etl migrate`, then `cortex-etl sync`. If that does not help, run `cortex-etl doctor`.",
        ) from failure
    except asyncpg.InsufficientPrivilegeError as failure:
        raise DatabaseError(
            f'the database role may not read the schema "{schema}": {failure}',
            hint="Let the owner of the schema run: cortex-etl grant ROLE --apply",
        ) from failure
    except (
        asyncpg.PostgresConnectionError,
        asyncpg.OperatorInterventionError,
        asyncpg.InterfaceError,
        ConnectionError,
        TimeoutError,
    ) as failure:
        if isinstance(failure, asyncpg.InterfaceError) and not connection.is_closed():
            raise
        raise DatabaseError(
            f"lost the connection to the database during the {purpose}: {failure}",
            hint="Check PostgreSQL and try again.",
        ) from failure
    finally:
        await connection.close()
