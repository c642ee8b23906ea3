"""Apply the numbered SQL files of `migrations/` to a schema, in order, each once and in one transaction.

The table `etl_migrations` records the checksum of each file, so that a schema created by another version of the program
is refused. An advisory lock prevents concurrent migrations of a schema.

While a migration waits for a lock that a reader holds, all later readers wait behind it. Therefore it waits only
briefly, rolls back, and tries again.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from etl.db.connect import missing_privilege, quote_identifier
from etl.db.grants import extend_grants, relations
from etl.db.refusals import unusable
from etl.db.statements import statements
from etl.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from importlib.resources.abc import Traversable

LOCK_TIMEOUT_S = 2.0
"""How long a migration waits for a lock, in seconds."""

PAUSE_S = 3.0
"""Pause between attempts, in which readers can proceed, in seconds."""

TIMEOUT_S = 300.0
"""Time limit for applying one file, and for waiting until another process has migrated the schema, in seconds."""

_CREATED = re.compile(r"^CREATE (?:TABLE|VIEW) (\w+)", re.MULTILINE)

_SQL = statements("migrate")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `migrations/`. `checksum` is the SHA-256 of its text in hex."""

    name: str
    sql: str
    checksum: str


def migrations() -> list[Migration]:
    """Return the migrations of this program, in order.

    Raises:
        DatabaseError: the installation contains no migrations.
    """
    files = sorted((entry for entry in _folder().iterdir() if entry.name.endswith(".sql")), key=lambda file: file.name)
    found = []
    for file in files:
        sql = file.read_text(encoding="utf-8")
        found.append(Migration(file.name, sql, hashlib.sha256(sql.encode()).hexdigest()))
    return found


def _folder() -> Traversable:
    """Return the directory of the SQL files, in the installed package or in the source tree."""
    installed = resources.files("etl").joinpath("migrations")
    if installed.is_dir():
        return installed
    source = Path(__file__).resolve().parents[2] / "migrations"
    if not source.is_dir():
        raise DatabaseError("the installation contains no migrations", hint="Install cortex-etl again.")
    return source


async def migrate(conn: asyncpg.Connection, schema: str) -> list[str]:
    """Bring `schema` up to date, creating it if it does not exist.

    Args:
        conn: a connection outside of a transaction, not through a pooler in transaction mode.
        schema: name of the schema.

    Returns:
        The names of the files that were applied, in order.

    Raises:
        DatabaseError: a file failed, privileges are missing, another version created the schema, or another process
            is still migrating it after `TIMEOUT_S`.
    """
    async with _alone(conn, schema):
        await _create_ledger(conn, schema)
        todo = _compare(migrations(), await _applied(conn, schema), schema)
        for migration in todo:
            await _apply(conn, schema, migration)
        return [migration.name for migration in todo]


@asynccontextmanager
async def _alone(conn: asyncpg.Connection, schema: str) -> AsyncIterator[None]:
    """Keep others from migrating a schema; wait for one that does.

    Raises:
        DatabaseError: it does not end.
    """
    try:
        await conn.execute(_SQL["lock_migrations"], schema, timeout=TIMEOUT_S)
    except TimeoutError:
        raise DatabaseError(
            f'another process has been migrating the schema "{schema}" for {TIMEOUT_S:.0f} s',
            hint="Wait until it ends, then run this again.",
        ) from None
    try:
        yield
    finally:
        if not conn.is_closed():
            await conn.execute(_SQL["unlock_migrations"], schema)


async def pending_for_long(conn: asyncpg.Connection, schema: str) -> list[str]:
    """Return what is pending while no other process migrates the schema; see `pending`.

    Raises:
        DatabaseError: another version created the schema, or another process does not stop migrating it.
    """
    if not await pending(conn, schema):
        return []
    async with _alone(conn, schema):
        return await pending(conn, schema)


async def pending(conn: asyncpg.Connection, schema: str) -> list[str]:
    """Return the names of the files that `migrate` would apply, in order, without writing anything.

    Raises:
        DatabaseError: another version created the schema.
    """
    return [migration.name for migration in _compare(migrations(), await _applied(conn, schema), schema)]


async def missing_relations(conn: asyncpg.Connection, schema: str) -> list[str]:
    """Return the tables and views that the migrations create and that `schema` no longer has."""
    names = [name for migration in migrations() for name in _CREATED.findall(migration.sql)]
    return [row["name"] for row in await conn.fetch(_SQL["missing_relations"], schema, names)]


def _compare(known: Iterable[Migration], applied: dict[str, str], schema: str) -> list[Migration]:
    """Return the pending migrations, given the checksums of the applied ones by name.

    Raises:
        DatabaseError: a migration of another version was applied.
    """
    known = list(known)
    checksums = {migration.name: migration.checksum for migration in known}
    foreign = sorted(name for name, checksum in applied.items() if checksums.get(name) != checksum)
    if foreign:
        raise DatabaseError(
            f'another version of cortex-etl created the schema "{schema}": this one does not have {", ".join(foreign)} '
            "as applied",
            hint=f"Use the version that created it, or start over: DROP SCHEMA {quote_identifier(schema)} CASCADE "
            "(with the embedded server, remove data_dir), then run cortex-etl backfill. Runs that the API no longer "
            "lists are lost with it.",
        )
    return [migration for migration in known if migration.name not in applied]


async def _applied(conn: asyncpg.Connection, schema: str) -> dict[str, str]:
    """Return the checksums of the applied migrations by name; empty if the table does not exist."""
    ledger = f"{quote_identifier(schema)}.etl_migrations"
    try:
        if await conn.fetchval("SELECT to_regclass($1)", ledger) is None:
            return {}
        rows = await conn.fetch(f"SELECT name, checksum FROM {ledger}")  # noqa: S608 - the name is quoted above
    except asyncpg.InsufficientPrivilegeError as refusal:
        raise missing_privilege(refusal, schema) from refusal
    return {row["name"]: row["checksum"] for row in rows}


async def _create_ledger(conn: asyncpg.Connection, schema: str) -> None:
    try:
        if await conn.fetchval("SELECT to_regclass($1)", f"{quote_identifier(schema)}.etl_migrations") is not None:
            return
        async with conn.transaction():
            # CREATE SCHEMA IF NOT EXISTS requires the privilege to create a schema even if it exists.
            if await conn.fetchval("SELECT to_regnamespace($1)", quote_identifier(schema)) is None:
                await conn.execute(f"CREATE SCHEMA {quote_identifier(schema)}")
            await _enter(conn, schema)
            await conn.execute(_SQL["create_ledger"])
    except asyncpg.InsufficientPrivilegeError as refusal:
        raise missing_privilege(refusal, schema) from refusal


async def _apply(conn: asyncpg.Connection, schema: str, migration: Migration) -> None:
    clock = asyncio.get_running_loop().time
    give_up = clock() + TIMEOUT_S
    while not await _try(conn, schema, migration):
        if clock() > give_up:
            users = ", ".join(str(row["pid"]) for row in await conn.fetch(_SQL["lock_holders"], schema))
            raise DatabaseError(
                f'{migration.name} cannot be applied: others are using the schema "{schema}"',
                hint="Wait until they end, or end them with SELECT pg_terminate_backend(pid). "
                f"Process ids: {users or 'unknown'}.",
            )
        await asyncio.sleep(PAUSE_S)


async def _try(conn: asyncpg.Connection, schema: str, migration: Migration) -> bool:
    """Apply a file; return False if a lock was not available within `LOCK_TIMEOUT_S`."""
    try:
        async with conn.transaction():
            await _enter(conn, schema)
            await conn.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_S * 1000:.0f}")
            before = await relations(conn, schema)
            await conn.execute(migration.sql)
            await extend_grants(conn, schema, before)
            await conn.execute(_SQL["record_migration"], migration.name, migration.checksum)
    except asyncpg.LockNotAvailableError:
        return False
    except asyncpg.InsufficientPrivilegeError as refusal:
        raise missing_privilege(refusal, schema) from refusal
    except (asyncpg.PostgresConnectionError, asyncpg.DiskFullError, TimeoutError) as ended:
        raise unusable(ended) from ended
    except asyncpg.PostgresError as failure:
        raise DatabaseError(
            f'{migration.name} could not be applied to the schema "{schema}": {failure}',
            hint="The file was rolled back. Fix the reported problem and migrate again.",
        ) from failure
    return True


async def _enter(conn: asyncpg.Connection, schema: str) -> None:
    """Set the search_path to `schema` until the transaction ends."""
    await conn.execute(f"SET LOCAL search_path TO {quote_identifier(schema)}")
