"""Loading with minimal privileges, and a database newer than the program."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from etl.db.connect import connect
from etl.db.migrate import migrate


@pytest.fixture
async def owner(empty_database_url) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection to an empty database."""
    connection = await connect(empty_database_url, "cortex")
    yield connection
    await connection.close()


@pytest.fixture
async def loader(owner, empty_database_url) -> AsyncIterator[tuple[str, str]]:
    """A role that may only log in, on a database without privileges for PUBLIC: (role, URL)."""
    database = urlsplit(empty_database_url).path[1:]
    role = f"loader_{database}"
    await owner.execute(f'CREATE ROLE "{role}" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT')
    await owner.execute(f'REVOKE ALL ON DATABASE "{database}" FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC')
    await owner.execute(f'GRANT CONNECT, TEMPORARY ON DATABASE "{database}" TO "{role}"')
    yield role, empty_database_url.replace("postgres@", f"{role}@", 1)
    await owner.execute(f'DROP OWNED BY "{role}" CASCADE; DROP ROLE "{role}"')


@pytest.fixture
async def as_loader(command, sandbox, loader):
    """The command configured for a small sandbox and the loader's URL: (command, sandbox)."""
    running = await sandbox()
    apps = "".join(f"  - id: {app_id}\n" for app_id in running.world.apps)
    command.configure(f"api:\n  base_url: {running.url}\ndatabase:\n  url: {loader[1]}\napps:\n{apps}")
    command.environment["CORTEX_API_KEY"] = running.key
    return command, running


async def works(command, running, owner) -> None:
    """Load, change, erase, reconcile and query with the given privileges."""
    for arguments in (("sync",), ("sync",), ("backfill",), ("reconcile",), ("status",), ("doctor",)):
        ended = await command(*arguments)
        assert ended.code == 0, (arguments, ended.err, ended.out)
    run_id = next(iter(next(iter(running.world.runs.values()))))
    running.world.replay_run(run_id)
    assert (await command("reconcile", "--quiet")).code == 0
    assert (await command("forget", "--run", run_id, "--yes", "--quiet")).code == 0
    listed = sum(len(runs) for runs in running.world.runs.values())
    assert await owner.fetchval("SELECT count(*) FROM runs WHERE erased_at IS NULL") == listed - 1


async def refused(command, says: str) -> None:
    """Check that a sync reports what PostgreSQL refused, with a hint."""
    ended = await command("sync")
    assert (ended.code, "may not do this" in ended.err) == (4, True), ended.err
    assert "DETAIL" not in ended.err
    assert ("CREATE SCHEMA" in ended.err) == ("for database" in ended.err)
    assert says in ended.err


async def test_role_that_owns_only_the_schema_can_sync(as_loader, loader, owner) -> None:
    role, _ = loader
    await owner.execute(f'CREATE SCHEMA cortex AUTHORIZATION "{role}"')
    command, running = as_loader
    await works(command, running, owner)


async def test_role_with_write_privileges_can_sync(as_loader, loader, owner) -> None:
    command, running = as_loader
    role, _ = loader
    await migrate(owner, "cortex")
    command.environment["CORTEX_ETL__DATABASE__AUTO_MIGRATE"] = "false"
    await refused(command, "permission denied for schema cortex")
    await owner.execute(f'GRANT USAGE ON SCHEMA cortex TO "{role}"')
    await refused(command, "permission denied for table etl_migrations")
    await owner.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA cortex TO "{role}"')
    await refused(command, "permission denied for table etl_syncs")
    await owner.execute(
        f"""
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA cortex TO "{role}";
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA cortex TO "{role}";
        """
    )
    await works(command, running, owner)


async def test_missing_create_privilege_has_a_hint(as_loader, loader) -> None:
    command, _ = as_loader
    ended = await command("sync")
    assert ended.code == 4
    assert 'CREATE SCHEMA "cortex" AUTHORIZATION' in ended.err


async def test_a_warehouse_that_another_version_created(at_work, warehouse) -> None:
    command, _ = at_work
    await warehouse.execute("INSERT INTO etl_migrations (name, checksum) VALUES ('9000_later.sql', 'x')")
    for arguments in (("sync",), ("status",), ("migrate",), ("migrate", "--check"), ("forget", "--run", "r", "--yes")):
        ended = await command(*arguments)
        assert ended.code == 4, arguments
        assert "9000_later.sql" in ended.err
        assert 'start over: DROP SCHEMA "cortex" CASCADE' in ended.err
    found = await command("doctor")
    assert (found.code, "9000_later.sql" in found.out) == (4, True)
    assert await warehouse.fetchval("SELECT count(*) FROM runs") == 0
