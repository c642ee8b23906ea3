"""A schema with data in it comes up to date from wherever a release left it, and readers go on reading meanwhile."""

from __future__ import annotations

import asyncio
from math import inf

import asyncpg
import pytest
from postgres_fixtures import migrate_part

from etl.db import migrate as runner
from etl.db.connect import connect
from etl.db.migrate import migrate, migrations
from etl.db.rollups import roll_up
from etl.errors import DatabaseError

ALL = migrations()
TO_THE_LAST_VIEWS = max(place for place, each in enumerate(ALL) if "\nCREATE OR REPLACE VIEW" in each.sql)
"""How many migrations come before the last one that makes views anew, which who reads them keeps from its lock."""
DATA = """
INSERT INTO workflows (id, name) VALUES ('wf', 'Triage');
INSERT INTO runs (id, app_id, stream_app_id, workflow_id, status, created_at, usage_total)
SELECT 'run' || n, 'app', 'app', 'wf', CASE WHEN n % 4 = 0 THEN 'FAILED' ELSE 'COMPLETED' END,
    '2026-01-01Z'::timestamptz + n * interval '1 h', n * 0.25
FROM generate_series(0, 47) AS n;
INSERT INTO run_steps (run_id, step_key, ordinal, type, status)
SELECT id, 'a', 0, 'text', status FROM runs;
"""
BOOKKEEPING = """
INSERT INTO etl_streams (app_id, workflow_id, backfill_done, api_count) VALUES ('app', 'wf', true, 48);
INSERT INTO etl_syncs (mode, status) VALUES ('sync', 'succeeded');
INSERT INTO etl_rejects (app_id, workflow_id, url, page, reason, error, payload, digest)
VALUES ('app', 'wf', '/runs', 1, 'invalid_json', 'x', '{}', '1');
"""
HELD = ("runs", "run_steps", "workflows", "etl_streams", "etl_syncs", "etl_rejects")


async def contents(connection: asyncpg.Connection) -> dict[str, list[dict[str, object]]]:
    found = {}
    for table in HELD:
        if await connection.fetchval("SELECT to_regclass($1)", table) is not None:
            rows = await connection.fetch(f"SELECT * FROM {table}")
            found[table] = sorted((dict(row) for row in rows), key=str)
    return found


@pytest.mark.parametrize("files", range(1, len(ALL)))
async def test_each_earlier_schema_keeps_its_data(empty_database, files) -> None:
    await migrate_part(empty_database, files)
    await empty_database.execute(DATA)
    if await empty_database.fetchval("SELECT to_regclass('etl_rejects')") is not None:
        await empty_database.execute(BOOKKEEPING)
    before = await contents(empty_database)
    assert len(before["runs"]) == 48
    assert len(await migrate(empty_database, "cortex")) == len(ALL) - files
    after = await contents(empty_database)
    for table, rows in before.items():
        kept = [{name: row[name] for name in rows[0]} for row in after[table]]
        assert kept == rows, table
    days = await empty_database.fetch("SELECT day::text, runs, failed, credits FROM workflow_health_daily ORDER BY day")
    assert [tuple(day) for day in days] == [("2026-01-01", 24, 6, 69), ("2026-01-02", 24, 6, 213)]


async def test_days_that_were_counted_without_untyped_calls_are_counted_anew(empty_database) -> None:
    await migrate_part(empty_database, 6)
    await empty_database.execute(DATA)
    await empty_database.execute("""
        UPDATE run_steps SET type = 'model', output = '[null, null]';
        INSERT INTO run_step_calls (run_id, step_key, ordinal, key, status)
        SELECT id, 'a', n, 'a', 'FAILED' FROM runs, generate_series(0, 1) AS n;
    """)
    usage = "SELECT sum(calls)::int, sum(failed)::int FROM model_usage_daily"
    assert await roll_up(empty_database, seconds=inf) == 2
    assert tuple(await empty_database.fetchrow(usage)) == (48, 12)
    await migrate(empty_database, "cortex")
    assert tuple(await empty_database.fetchrow(usage)) == (96, 96)
    assert await roll_up(empty_database, seconds=inf) == 2
    assert tuple(await empty_database.fetchrow(usage)) == (96, 96)


async def test_who_reads_for_long_keeps_no_other_reader_out(empty_database_url, monkeypatch) -> None:
    """What a migration waits for must not make others wait behind it."""
    monkeypatch.setattr(runner, "LOCK_TIMEOUT_S", 0.1)
    monkeypatch.setattr(runner, "PAUSE_S", 0.2)
    long, migrating, reader = [await connect(empty_database_url, "cortex") for _ in range(3)]
    await migrate_part(migrating, TO_THE_LAST_VIEWS)
    async with long.transaction():
        await long.fetch("SELECT * FROM sync_health")
        upgrade = asyncio.create_task(migrate(migrating, "cortex"))
        for _ in range(5):
            await reader.fetch("SELECT * FROM sync_health", timeout=1)
            await asyncio.sleep(0.1)
        assert not upgrade.done()
    assert await upgrade == [each.name for each in ALL[TO_THE_LAST_VIEWS:]]
    for connection in (long, migrating, reader):
        await connection.close()


async def test_who_reads_for_ever_is_named(empty_database_url, monkeypatch) -> None:
    monkeypatch.setattr(runner, "LOCK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(runner, "PAUSE_S", 0.05)
    monkeypatch.setattr(runner, "PATIENCE_S", 0.2)
    long, migrating = [await connect(empty_database_url, "cortex") for _ in range(2)]
    await migrate_part(migrating, TO_THE_LAST_VIEWS)
    async with long.transaction():
        await long.fetch("SELECT * FROM sync_health")
        with pytest.raises(
            DatabaseError, match=f"{ALL[TO_THE_LAST_VIEWS].name} has to wait for what others use"
        ) as caught:
            await migrate(migrating, "cortex")
    assert str(long.get_server_pid()) in caught.value.hint
    assert await migrate(migrating, "cortex") == [each.name for each in ALL[TO_THE_LAST_VIEWS:]]
    for connection in (long, migrating):
        await connection.close()
