"""Check the database.

First whether it can be used: connection, version, privileges (with the missing GRANT), migrations, disk space. Then
what it says about past syncs: streams that need attention, locks of hanging processes, pauses of the API. Last the role
for queries: whether it can connect, may read the warehouse, and may do nothing else.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etl.db import embedded
from etl.db.connect import connect, quote_identifier, redact_url
from etl.db.health import is_healthy, read_health, read_listed, read_server_limits, record_named
from etl.db.migrate import missing_relations, pending
from etl.db.refusals import DAMAGED, DRIVER_ERRORS, unusable
from etl.db.statements import statements
from etl.doctor.checks import Check, failed, ok, warning
from etl.errors import DatabaseError, EtlError, SettingsError
from etl.limits import Work, near_limits
from etl.text import counted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    import asyncpg

    from etl.config import Settings

_MIN_FREE = 1 << 30  # bytes on disk

_CONNECTIONS = 7  # maximum of a sync: one session, four for loading, one for the request budget, one at the end
_UP_TO_DATE = ok("migrations", "all are applied")

_SQL = statements("doctor")

_MAX_STREAMS = 5  # streams to name; `status` shows all
_MUCH = 0.5  # share of the configured rate: a pause after fewer requests says nothing about what the API accepts
_MARGIN = 0.9  # share of the requests that the API accepted before it requested a pause


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection to the warehouse, and its URL."""

    url: str
    connection: asyncpg.Connection


async def open_database(settings: Settings) -> Opened | EtlError:
    """Connect to the warehouse, starting the embedded server if necessary; return the error if this fails."""
    try:
        url = settings.database_url()
        if url is None:
            url = await asyncio.to_thread(embedded.start, settings.data_dir)
        connection = await connect(url, settings.database.schema_name, timeout_s=settings.database.timeout_s)
    except (SettingsError, DatabaseError) as error:
        return error
    return Opened(url, connection)


async def examine_database(settings: Settings, opened: Opened | EtlError) -> AsyncGenerator[Check]:
    """Yield the checks of the database; stop after a failure of a check on which the others depend."""
    if not settings.names_database:
        yield _disk(settings.data_dir)
    if unused := settings.unused_variables():
        where = "database.url says otherwise" if settings.names_database else "the embedded PostgreSQL is used"
        hint = "Set database.url to postgresql:// to use them all, or ignore this."
        yield warning("database", f"{', '.join(unused)} set, but not used: {where}", hint)
    if isinstance(opened, EtlError):
        yield failed("database", opened.message, opened.hint, opened.exit_code)
        return
    try:
        async for check in _examine(opened.connection, opened.url, settings):
            yield check
    except (*DRIVER_ERRORS, OSError) as error:
        problem = unusable(error)
        yield failed("database", problem.message, problem.hint, problem.exit_code)


def _disk(data_dir: Path) -> Check:
    place = data_dir.absolute()
    free = shutil.disk_usage(next(each for each in (place, *place.parents) if each.exists())).free
    size = f"{free / (1 << 30):.1f} GiB" if free >= _MIN_FREE else f"{free >> 20} MiB"
    found = f"{size} free for {data_dir}"
    if free < _MIN_FREE:
        return warning("disk", found, "Free some space, or set data_dir to a directory on a larger disk.")
    return ok("disk", found)


async def _examine(connection: asyncpg.Connection, url: str, settings: Settings) -> AsyncGenerator[Check]:
    server = await connection.fetchrow(_SQL["server"])
    assert server is not None  # noqa: S101 -- the statement always returns one row
    place = "embedded" if not settings.names_database else redact_url(url)
    if server["is_standby"]:
        yield failed(
            "database", f"{place} is a standby, which accepts no writes", "Set database.url to the primary.", 4
        )
        return
    if server["is_read_only"]:
        role = quote_identifier(server["role"])
        hint = f"Ask its owner to run: ALTER ROLE {role} SET default_transaction_read_only = off;"
        yield failed("database", f"{place} accepts no writes from {server['role']}", hint, 4)
        return
    yield ok("database", f"{place}, PostgreSQL {server['version'].split()[0]}, as {server['role']}")
    if 0 <= server["connections"] < _CONNECTIONS:
        hint = f"Ask its owner to run: ALTER ROLE {quote_identifier(server['role'])} CONNECTION LIMIT -1;"
        yield warning(
            "database",
            f"{server['role']} may open only {counted(server['connections'], 'connection')}; "
            f"a sync opens up to {_CONNECTIONS}",
            hint,
        )
    privileges = await _privileges(connection, server, settings.database.schema_name)
    yield privileges
    if privileges.state == "failed":
        return
    migrations = await _migrations(connection, server, settings)
    yield migrations
    if migrations is _UP_TO_DATE:
        if settings.names_database or settings.database.read_url is not None:
            yield await examine_reader(connection, settings)
        async for check in examine_bookkeeping(connection, settings):
            yield check


async def _privileges(connection: asyncpg.Connection, server: asyncpg.Record, schema: str) -> Check:
    """Check the privileges; the hint has the GRANT for the first missing one."""
    name, role = quote_identifier(schema), quote_identifier(server["role"])
    database = quote_identifier(server["database"])
    if not server["may_temp"]:
        grant = f"GRANT TEMPORARY ON DATABASE {database} TO {role};"
        return failed(
            "privileges", f"{server['role']} may not create temporary tables", f"Ask its owner to run: {grant}", 4
        )
    found = await connection.fetchrow(_SQL["schema"], schema)
    if found is None:
        if server["may_create"]:
            return ok("privileges", f"schema {schema} does not exist yet; {server['role']} may create it")
        grant = f"CREATE SCHEMA {name} AUTHORIZATION {role};"
        return failed(
            "privileges", f"schema {schema} does not exist", f"Ask the owner of the database to run: {grant}", 4
        )
    if not found["may_use"]:
        grant = f"GRANT USAGE ON SCHEMA {name} TO {role};"
        return failed(
            "privileges", f"{server['role']} may not use schema {schema}", f"Ask {found['owner']} to run: {grant}", 4
        )
    missing = [row["name"] for row in await connection.fetch(_SQL["tables"], schema)]
    if missing:
        grant = f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {name} TO {role};"
        what = f"{server['role']} may not read and write {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}"
        return failed("privileges", what, f"Ask {found['owner']} to run: {grant}", 4)
    return ok("privileges", f"{server['role']} has all privileges that loading needs in schema {schema}")


async def _migrations(connection: asyncpg.Connection, server: asyncpg.Record, settings: Settings) -> Check:
    schema = settings.database.schema_name
    try:
        names = await pending(connection, schema)
    except DatabaseError as error:
        return failed("migrations", error.message, error.hint, error.exit_code)
    if not names:
        if missing := await missing_relations(connection, schema):
            lost = f"{', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}"
            return failed("migrations", f"all are applied, but the schema has no {lost}", DAMAGED, 4)
        return _UP_TO_DATE
    found = f"{len(names)} pending: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
    if not settings.database.auto_migrate:
        return failed("migrations", found, "Run: cortex-etl migrate", 4)
    owner = await connection.fetchrow(_SQL["schema"], schema)
    if owner is not None and not owner["may_create"]:
        grant = f"GRANT CREATE ON SCHEMA {quote_identifier(schema)} TO {quote_identifier(server['role'])};"
        hint = f"Ask {owner['owner']} to run cortex-etl migrate, or: {grant}"
        return failed("migrations", f"{found}; {server['role']} may not apply them", hint, 4)
    return ok("migrations", f"{found}; the next sync applies them")


async def examine_bookkeeping(connection: asyncpg.Connection, settings: Settings) -> AsyncIterator[Check]:
    """Yield the findings about streams, locks and the request budget of a migrated warehouse."""
    await record_named(connection, settings)
    async for check in _streams(connection):
        yield check
    yield await _locks(connection)
    yield await _request_budget(connection, settings)
    async for check in _capacity(connection, settings):
        yield check


async def _streams(connection: asyncpg.Connection) -> AsyncIterator[Check]:
    """Yield a warning for each of the first streams that are neither complete nor being loaded."""
    rows = [row for row in await read_health(connection) if row["state"] != "retired"]
    unhealthy = [row for row in rows if not is_healthy(row)]
    for row in unhealthy[:_MAX_STREAMS]:
        found = f"{row['app_id']}/{row['workflow_id']} is {row['state']}: {row['blocker']}"
        if row["watermark"] is not None:
            found += f"; its watermark is {row['watermark']:%Y-%m-%d %H:%M} UTC"
        if row["last_error"] and row["state"] != "failing":
            found += f"; last error: {row['last_error']}"
        yield warning("streams", found, row["hint"] or "")
    if len(unhealthy) > _MAX_STREAMS:
        yield warning("streams", f"{len(unhealthy) - _MAX_STREAMS} more need attention", "Run: cortex-etl status")
    if not unhealthy:
        yield ok("streams", f"{counted(len(rows), 'stream')}, none needs attention")
    if quarantined := sum(row["quarantined"] or 0 for row in rows):
        yield warning(
            "quarantine", f"{counted(quarantined, 'run')} could not be loaded", "Run: cortex-etl rejects list"
        )


async def _locks(connection: asyncpg.Connection) -> Check:
    """Check for an invocation that holds streams but is idle."""
    held = await connection.fetch(_SQL["locks"])
    idle = next((row for row in held if row["is_stale"]), None)
    if idle is None:
        busy = len({row["pid"] for row in held})
        return ok("locks", f"{counted(busy, 'other invocation')} running" if busy else "no stream is locked")
    place = f"process {idle['process']} on {idle['host']}, " if idle["process"] is not None else ""
    since = f"{idle['silent_since']:%Y-%m-%d %H:%M} UTC"
    found = f"a stale lock: {place}sync {idle['sync_id']} holds streams, silent since {since}"
    return warning("locks", found, f"End that process, or run this SQL: SELECT pg_terminate_backend({idle['pid']});")


async def _request_budget(connection: asyncpg.Connection, settings: Settings) -> Check:
    """Check whether the API asked for a pause below the configured number of requests."""
    configured = settings.api.requests_per_minute
    row = await connection.fetchrow(_SQL["paused"], settings.api.host, settings.api.egress or "")
    if row is None:
        return ok("rate", "the API has not asked for a pause in the last 24 hours")
    granted = row["paused_after"]  # some of them may not have been sent
    found = (
        f"the API asked for a pause at {row['paused_at']:%Y-%m-%d %H:%M} UTC after at most "
        f"{counted(granted, 'request')} in one minute; {configured:,} are configured"
    )
    if granted >= configured:
        return ok("rate", found)
    hint = "If it happens again, find out who else uses this IP address, or lower api.requests_per_minute."
    if granted >= _MUCH * configured:
        fewer = max(1, int(granted * _MARGIN))
        hint = f"Set api.requests_per_minute to {fewer:,}, or find out who else uses this IP address."
    return warning("rate", found, hint)


async def _capacity(connection: asyncpg.Connection, settings: Settings) -> AsyncIterator[Check]:
    """Check whether one IP address and this PostgreSQL suffice for the number of listed runs and processes."""
    listed, (connections, locks) = await read_listed(connection), await read_server_limits(connection)
    pages = -(-listed["runs"] // (listed["page_size"] or settings.api.usual_page_size))
    rate, processes = settings.api.requests_per_minute, settings.engine.processes
    work = Work(
        listed["runs"],
        listed["run_bytes"],
        0,
        pages,
        settings.sync.reconcile_every,
        rate,
        processes,
        listed["apps"] or 1,
    )
    for limit in near_limits(work, connections=connections, locks=locks):
        found, _, hint = limit.partition(": ")
        yield warning("capacity", found, f"{hint[0].upper()}{hint[1:]}.")
    if not near_limits(work, connections=connections, locks=locks):
        hours = pages / rate / 60
        time = f"{hours:.1f} hours" if hours >= 1 else "less than an hour"
        reading = f"one address reads {counted(listed['runs'], 'run')} in {time}"
        yield ok("capacity", f"{reading}; up to {work.connections} of {connections} connections are opened")


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
