"""Upgrades of a schema that contains data, while others read from it."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from etl.db import migrate as runner
from etl.db.connect import connect
from etl.db.migrate import Migration, migrate, migrations, pending
from etl.errors import DatabaseError

FILES = [
    Migration("0001_tables.sql", "CREATE TABLE facts (id text, amount numeric);", "1"),
    Migration("0002_views.sql", "CREATE VIEW totals AS SELECT count(*) AS facts FROM facts;", "2"),
    Migration(
        "0003_columns.sql",
        "ALTER TABLE facts ADD COLUMN rounded bigint; UPDATE facts SET rounded = amount; "
        "CREATE OR REPLACE VIEW totals AS SELECT count(*) AS facts, sum(rounded) AS rounded FROM facts;",
        "3",
    ),
]
READ = "SELECT * FROM totals"


@pytest.fixture
def known(monkeypatch) -> list[Migration]:
    """The migrations known to the program: initially all but the last of `FILES`."""
    known = FILES[:-1]
    monkeypatch.setattr(runner, "migrations", lambda: known)
    return known


@pytest.mark.parametrize("files", [1, 2])
async def test_upgrade_applies_new_migrations_and_keeps_data(empty_database: asyncpg.Connection, known, files) -> None:
    known[:] = FILES[:files]
    earlier = [each.name for each in known]
    assert await migrate(empty_database, "cortex") == earlier
    await empty_database.execute("INSERT INTO facts SELECT n, n + 0.25 FROM generate_series(1, 3) AS n")
    known += FILES[len(known) :]
    assert await pending(empty_database, "cortex") == [each.name for each in FILES if each.name not in earlier]
    assert await migrate(empty_database, "cortex") == [each.name for each in FILES if each.name not in earlier]
    facts = await empty_database.fetch("SELECT id, amount::text, rounded FROM facts ORDER BY id")
    assert [tuple(row) for row in facts] == [("1", "1.25", 1), ("2", "2.25", 2), ("3", "3.25", 3)]
    assert tuple(await empty_database.fetchrow(READ)) == (3, 6)
    assert await migrate(empty_database, "cortex") == []


async def test_migration_can_be_added(warehouse: asyncpg.Connection, monkeypatch) -> None:
    added = Migration("0099_more.sql", "ALTER TABLE runs ADD COLUMN more text;", "99")
    known = [*migrations(), added]
    monkeypatch.setattr(runner, "migrations", lambda: known)
    await warehouse.execute("INSERT INTO runs (id) VALUES ('r')")
    assert await migrate(warehouse, "cortex") == [added.name]
    assert tuple(await warehouse.fetchrow("SELECT id, more FROM runs")) == ("r", None)


async def test_migration_does_not_wait_forever_for_another(
    empty_database: asyncpg.Connection, empty_database_url, monkeypatch
) -> None:
    other = await connect(empty_database_url, "cortex")
    await other.execute(runner._SQL["lock_migrations"], "cortex")
    monkeypatch.setattr(runner, "TIMEOUT_S", 0.3)
    with pytest.raises(DatabaseError, match="another process has been migrating"):
        await migrate(empty_database, "cortex")
    await other.close()
    assert await migrate(empty_database, "cortex") == [each.name for each in migrations()]


async def test_long_reader_does_not_block_other_readers(empty_database_url, known, monkeypatch) -> None:
    """A waiting migration must not block others."""
    monkeypatch.setattr(runner, "LOCK_TIMEOUT_S", 0.1)
    monkeypatch.setattr(runner, "PAUSE_S", 0.2)
    long, migrating, reader = [await connect(empty_database_url, "cortex") for _ in range(3)]
    await migrate(migrating, "cortex")
    known.append(FILES[-1])
    async with long.transaction():
        await long.fetch(READ)
        upgrade = asyncio.create_task(migrate(migrating, "cortex"))
        for _ in range(5):
            await reader.fetch(READ, timeout=1)
            await asyncio.sleep(0.1)
        assert not upgrade.done()
    assert await upgrade == [FILES[-1].name]
    for connection in (long, migrating, reader):
        await connection.close()


async def test_reader_that_does_not_end_is_named(empty_database_url, known, monkeypatch) -> None:
    monkeypatch.setattr(runner, "LOCK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(runner, "PAUSE_S", 0.05)
    monkeypatch.setattr(runner, "TIMEOUT_S", 0.2)
    long, migrating = [await connect(empty_database_url, "cortex") for _ in range(2)]
    await migrate(migrating, "cortex")
    known.append(FILES[-1])
    async with long.transaction():
        await long.fetch(READ)
        with pytest.raises(DatabaseError, match=r"0003_columns\.sql cannot be applied: others are using") as caught:
            await migrate(migrating, "cortex")
    assert str(long.get_server_pid()) in caught.value.hint
    assert await migrate(migrating, "cortex") == [FILES[-1].name]
    for connection in (long, migrating):
        await connection.close()
