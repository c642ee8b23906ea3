"""Open the warehouse with the connections that a command needs, after starting and migrating it if necessary.

At the end of an invocation, maintain it: retention, own credits and daily rollups.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

import asyncpg

from etl.db import embedded, liveness
from etl.db.connect import connect, create_pool, missing_privilege
from etl.db.empty import EmptyPool, EmptySession
from etl.db.migrate import migrate, migrations, pending, pending_for_long
from etl.db.refusals import LOST, unusable
from etl.db.rollups import roll_up, update_own_credits
from etl.db.session import Session
from etl.db.store import Store, empty_due_rejects
from etl.errors import DatabaseError
from etl.events import Notice, ignore
from etl.limits import STREAMS_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from etl.config import Settings
    from etl.events import Listener

Answer = TypeVar("Answer")

RECONNECTS = 5
"""Number of attempts at a call if the connection is lost."""

LEASE_S = 15.0
"""Time limit for statements of the request budget, in seconds. Only a busy server delays them."""

OWN_CREDITS_PAUSES_S = (0.1, 0.5, 1.0, 1.0, 0.0)
"""Pauses between attempts at the end of an invocation to compute own credits of runs that other processes are writing.
Later invocations compute the remaining ones."""

ROLL_UP_S = 60.0
"""Time limit for rolling up changed days, in seconds. Later invocations roll up the remaining days."""

ROLL_UP_CONNECTIONS = 2
"""Maximum number of connections that roll up concurrently. Only open connections are used."""


async def database_url(settings: Settings) -> str:
    """Return the URL of the warehouse; start the embedded PostgreSQL if none is configured.

    Raises:
        SettingsError: the URL cannot be read.
        DatabaseError: the embedded PostgreSQL cannot be started.
    """
    if (url := settings.database_url()) is not None:
        return url
    return await asyncio.to_thread(embedded.start, settings.data_dir)


@asynccontextmanager
async def connected(settings: Settings, *, timeout_s: float | None = None) -> AsyncIterator[asyncpg.Connection]:
    """Connect to the warehouse, after starting and migrating it if necessary.

    Args:
        timeout_s: time limit for statements, in seconds; None for `database.timeout_s`.

    Raises:
        DatabaseError: the database cannot be used, a privilege is missing, or migrations are pending and `auto_migrate`
            is off.
    """
    url, schema = await database_url(settings), settings.database.schema_name
    connection = await connect(url, schema, timeout_s=timeout_s or settings.database.timeout_s)
    try:
        await _migrated(connection, url, settings, ignore)
        yield connection
    except asyncpg.InsufficientPrivilegeError as refusal:
        raise missing_privilege(refusal, schema) from refusal
    finally:
        await connection.close()


async def _migrated(connection: asyncpg.Connection, url: str, settings: Settings, listener: Listener) -> None:
    schema = settings.database.schema_name
    names = await pending(connection, schema)
    if not names:
        return
    if not settings.database.auto_migrate:
        raise _pending(names)
    # Without database.timeout_s: creating an index on a large table takes longer.
    migrating = await connect(url, schema)
    try:
        for name in await migrate(migrating, schema):
            listener(Notice("migration.applied", {"name": name}))
    finally:
        await migrating.close()


def _pending(names: Sequence[str]) -> DatabaseError:
    hint = "Run `cortex-etl migrate`, or set database.auto_migrate to true."
    return DatabaseError(f"migrations are pending: {', '.join(names)}", hint=hint)


class Warehouse:
    """An open warehouse: a pool for loading, a session for locks, and a pool for the request budget (or None).

    After a connection is lost, `reconnect` opens a new session, in which streams must be locked again.
    """

    def __init__(self, settings: Settings, pool: asyncpg.Pool, leases: asyncpg.Pool | None, session: Session) -> None:
        self._settings = settings
        self.pool = pool
        self.leases = leases
        self.session = session
        self._reopening = asyncio.Lock()

    async def close(self) -> None:
        """Close the session, which releases all locks."""
        await self.session.close()

    async def ask(self, question: Callable[[Session], Awaitable[Answer]]) -> Answer:
        """Call a function with the session; if the connection is lost, reconnect and call it again.

        Raises:
            DatabaseError: PostgreSQL stays unreachable, or all attempts failed.
        """
        for _ in range(RECONNECTS):
            session = self.session
            try:
                return await question(session)
            except LOST as error:
                lost = error
                await self.reconnect(session)
        raise unusable(lost) from lost

    async def reconnect(self, broken: Session) -> Session:
        """Replace a broken session. If another task has replaced it already, return the new session.

        Raises:
            DatabaseError: PostgreSQL is not reachable within `OUTAGE_S` seconds.
        """
        async with self._reopening:
            if self.session is not broken:
                return self.session
            await broken.close()
            give_up = asyncio.get_running_loop().time() + liveness.OUTAGE_S
            while True:
                try:
                    self.session = await _open_session(self._settings, broken)
                except (DatabaseError, *LOST):
                    if asyncio.get_running_loop().time() > give_up:
                        raise
                    await asyncio.sleep(0.5)
                else:
                    return self.session


async def _open_session(settings: Settings, lost: Session) -> Session:
    """Open a session that takes over the liveness locks of a lost session.

    Raises:
        DatabaseError: the database cannot be reached, or PostgreSQL does not end the lost session.
    """
    database = settings.database
    session = await Session.open(await database_url(settings), database.schema_name, timeout_s=database.timeout_s)
    try:
        await session.succeed(lost)
    except BaseException:
        await session.close()
        raise
    return session


@asynccontextmanager
async def open_unchanged(settings: Settings, listener: Listener) -> AsyncIterator[Warehouse]:
    """Open the warehouse for a command that must change nothing in it except the request budget.

    If the warehouse does not exist, yield an empty one: neither the schema nor the embedded server is created.

    Raises:
        DatabaseError: the warehouse cannot be reached or used, or migrations are pending.
    """
    if settings.database_url() is None and not embedded.is_made(settings.data_dir):
        yield _empty(settings)
        return
    url, schema = await database_url(settings), settings.database.schema_name
    connection = await connect(url, schema, timeout_s=settings.database.timeout_s)
    try:
        todo = await pending_for_long(connection, schema)
    finally:
        await connection.close()
    if len(todo) == len(migrations()):
        yield _empty(settings)
        return
    if todo:
        raise _pending(todo)
    async with open_warehouse(settings, listener, migrated=False) as warehouse:
        yield warehouse


def _empty(settings: Settings) -> Warehouse:
    return Warehouse(settings, cast("asyncpg.Pool", EmptyPool()), None, EmptySession())


@asynccontextmanager
async def open_warehouse(settings: Settings, listener: Listener, *, migrated: bool = True) -> AsyncIterator[Warehouse]:
    """Open the warehouse for a command.

    Args:
        listener: receives events about migrations.
        migrated: whether to apply pending migrations first.

    Raises:
        DatabaseError: the warehouse cannot be reached or used, or a privilege is missing, when it is opened or later in
            the block.
    """
    url, schema, timeout_s = await database_url(settings), settings.database.schema_name, settings.database.timeout_s
    reopen = partial(database_url, settings)
    try:
        async with AsyncExitStack() as stack:
            connection = await connect(url, schema, application_name="cortex-etl session", timeout_s=timeout_s)
            session = Session(connection)
            stack.push_async_callback(session.close)
            if migrated:
                await _migrated(connection, url, settings, listener)
            pool = await create_pool(url, schema, size=STREAMS_AT_ONCE, timeout_s=timeout_s, ensure_running=reopen)
            stack.callback(pool.terminate)
            leases = await create_pool(
                url,
                schema,
                size=1,
                application_name="cortex-etl budget",
                timeout_s=min(timeout_s, LEASE_S),
                ensure_running=reopen,
            )
            stack.callback(leases.terminate)
            warehouse = Warehouse(settings, pool, leases, session)
            stack.push_async_callback(warehouse.close)
            yield warehouse
    except asyncpg.InsufficientPrivilegeError as refusal:
        raise missing_privilege(refusal, schema) from refusal


async def remove_due_payloads(warehouse: Warehouse) -> None:
    """Remove payloads whose retention has expired, from all streams, including those that are no longer synced."""
    session = warehouse.session
    for stream in await session.streams_with_due_payloads():
        state = await session.lock(stream)
        if state is not None:
            store = Store(warehouse.pool, session, stream, state, sync_id=None, keep_payloads=False)
            await store.remove_due_payloads()
            await session.release(stream)
    async with warehouse.pool.acquire() as connection:
        await empty_due_rejects(connection)


async def compute_own_credits(warehouse: Warehouse, listener: Listener) -> None:
    """Compute the own credits that loads have not computed, including those of killed processes."""
    try:
        async with warehouse.pool.acquire() as connection:
            for pause_s in OWN_CREDITS_PAUSES_S:
                if await update_own_credits(connection):
                    break
                await asyncio.sleep(pause_s)
    except (*LOST, asyncpg.PostgresError) as error:
        listener(Notice("own_credits.failed", {"error": str(error)}, level="warning"))


async def roll_up_all(warehouse: Warehouse, listener: Listener) -> None:
    """Roll up all changed days. A failure is only a warning: without rollups, the daily views are exact but slower."""
    try:
        async with AsyncExitStack() as stack:
            width = min(warehouse.pool.get_idle_size(), ROLL_UP_CONNECTIONS) or 1
            connections = [await stack.enter_async_context(warehouse.pool.acquire()) for _ in range(width)]
            await roll_up(*connections, seconds=ROLL_UP_S)
    except (*LOST, asyncpg.PostgresError) as error:
        listener(Notice("rollup.failed", {"error": str(error)}, level="warning"))
