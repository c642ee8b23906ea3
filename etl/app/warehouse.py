"""Open the warehouse: embedded or not, migrated, with the connections that a command needs."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, cast

import asyncpg

from etl.db import embedded
from etl.db.connect import connect, create_pool, missing_privilege
from etl.db.empty import EmptyPool, EmptySession
from etl.db.migrate import migrate, migrations, pending
from etl.db.refusals import LOST
from etl.db.session import Session
from etl.errors import DatabaseError
from etl.events import Notice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from etl.config import Settings
    from etl.events import Listener

RECONNECT_S = 60.0
"""How long a sync waits for PostgreSQL to come back before it fails (exit 4)."""


async def database_url(settings: Settings) -> str:
    """Return the URL of the warehouse; start the embedded PostgreSQL if none is configured.

    Raises:
        SettingsError: the URL cannot be read.
        DatabaseError: the embedded PostgreSQL cannot be started.
    """
    if (url := settings.database_url()) is not None:
        return url
    return await asyncio.to_thread(embedded.start, settings.data_dir)


async def bring_up_to_date(url: str, settings: Settings, listener: Listener) -> None:
    """Apply pending migrations.

    Raises:
        DatabaseError: the database cannot be used, or migrations are pending and `auto_migrate` is off.
    """
    connection = await connect(url, settings.database.schema_name)
    try:
        await _migrated(connection, settings, listener)
    finally:
        await connection.close()


async def _migrated(connection: asyncpg.Connection, settings: Settings, listener: Listener) -> None:
    schema = settings.database.schema_name
    if settings.database.auto_migrate:
        for name in await migrate(connection, schema):
            listener(Notice("migration.applied", {"name": name}))
    elif names := await pending(connection, schema):
        raise _pending(names)


def _pending(names: Sequence[str]) -> DatabaseError:
    hint = "Run `cortex-etl migrate`, or set database.auto_migrate to true."
    return DatabaseError(f"migrations are pending: {', '.join(names)}", hint=hint)


class Warehouse:
    """An open warehouse: a pool for work, a session for locks, and a connection for the request budget (None if empty).

    After a lost connection `reconnect` opens a new session, in which streams must be locked again.
    """

    def __init__(
        self, url: str, schema: str, pool: asyncpg.Pool, leases: asyncpg.Pool | None, session: Session
    ) -> None:
        self._url = url
        self._schema = schema
        self.pool = pool
        self.leases = leases
        self.session = session
        self._reopening = asyncio.Lock()

    async def close(self) -> None:
        """Close the session, which releases all locks."""
        await self.session.close()

    async def reconnect(self, broken: Session, sync_id: int | None) -> Session:
        """Replace a broken session; later callers get the session that the first one opened.

        Raises:
            DatabaseError: PostgreSQL does not come back within `RECONNECT_S` seconds.
        """
        async with self._reopening:
            if self.session is not broken:
                return self.session
            await broken.close()
            give_up = asyncio.get_running_loop().time() + RECONNECT_S
            while True:
                try:
                    self.session = await Session.open(self._url, self._schema)
                    if sync_id is not None:
                        await self.session.adopt_sync(sync_id)
                except (DatabaseError, *LOST):
                    if asyncio.get_running_loop().time() > give_up:
                        raise
                    await asyncio.sleep(0.5)
                else:
                    return self.session


@asynccontextmanager
async def open_unchanged(settings: Settings, listener: Listener, *, width: int = 4) -> AsyncIterator[Warehouse]:
    """Open the warehouse for a command that must change nothing in it but the request budget.

    Where there is none yet, an empty one takes its place: neither schema nor embedded server is created.

    Raises:
        DatabaseError: it cannot be reached or used, or migrations are pending.
    """
    if settings.database_url() is None and not embedded.is_made(settings.data_dir):
        yield _empty()
        return
    url, schema = await database_url(settings), settings.database.schema_name
    connection = await connect(url, schema)
    try:
        todo = await pending(connection, schema)
    finally:
        await connection.close()
    if len(todo) == len(migrations()):
        yield _empty()
        return
    if todo:
        raise _pending(todo)
    async with open_warehouse(settings, listener, width=width, migrated=False) as warehouse:
        yield warehouse


def _empty() -> Warehouse:
    return Warehouse("", "", cast("asyncpg.Pool", EmptyPool()), None, EmptySession())


@asynccontextmanager
async def open_warehouse(
    settings: Settings, listener: Listener, *, width: int = 4, migrated: bool = True
) -> AsyncIterator[Warehouse]:
    """Open the warehouse for a command.

    Args:
        settings: all of them.
        listener: receives events about migrations.
        width: number of connections for work.
        migrated: apply pending migrations first.

    Raises:
        DatabaseError: it cannot be reached or used, or a privilege is missing, now or while it is open.
    """
    url, schema = await database_url(settings), settings.database.schema_name
    try:
        async with AsyncExitStack() as stack:
            connection = await connect(url, schema, application_name="cortex-etl session")
            session = Session(connection, schema)
            stack.push_async_callback(session.close)
            if migrated:
                await _migrated(connection, settings, listener)
            pool = await create_pool(url, schema, size=width)
            stack.callback(pool.terminate)
            leases = await create_pool(url, schema, size=1, application_name="cortex-etl budget")
            stack.callback(leases.terminate)
            warehouse = Warehouse(url, schema, pool, leases, session)
            stack.push_async_callback(warehouse.close)
            yield warehouse
    except asyncpg.InsufficientPrivilegeError as refusal:
        raise missing_privilege(refusal, schema) from refusal
