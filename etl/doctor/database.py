"""Check the database: connection, version, privileges (with the missing GRANT), migrations, disk space."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etl.db import embedded
from etl.db.connect import connect, quote_identifier, redact_url
from etl.db.migrate import missing_relations, pending
from etl.db.refusals import DAMAGED, DRIVER_ERRORS, unusable
from etl.db.statements import statements
from etl.doctor.bookkeeping import examine_bookkeeping
from etl.doctor.checks import Check, failed, ok, warning
from etl.doctor.reader import examine_reader
from etl.errors import DatabaseError, EtlError, SettingsError
from etl.text import counted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    import asyncpg

    from etl.config import Settings

_MIN_FREE = 1 << 30  # bytes on disk

_CONNECTIONS = 7  # maximum of a sync: one session, four for loading, one for the request budget, one at the end
_UP_TO_DATE = ok("migrations", "all are applied")

_SQL = statements("doctor")


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
