"""Migrations: what is applied, in which order, and what is refused."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from etl import tables
from etl.db import migrate as runner
from etl.db.connect import connect
from etl.db.migrate import Migration, migrate, migrations, pending
from etl.errors import DatabaseError

NOT_COPIED = {
    "runs": {
        "first_synced_at",
        "last_synced_at",
        "gone_at",
        "erased_at",
        "payload_removed_at",
        "also_listed_by",
    },
    "run_steps": {"child_credits"},
    "workflows": {"gone_at"},
}


async def test_migrations_are_applied_once_in_order(empty_database: asyncpg.Connection) -> None:
    names = [migration.name for migration in migrations()]
    assert await pending(empty_database, "cortex") == names
    assert await empty_database.fetchval("SELECT to_regnamespace('cortex')") is None  # pending() wrote nothing
    assert await migrate(empty_database, "cortex") == names
    assert await migrate(empty_database, "cortex") == []
    assert await pending(empty_database, "cortex") == []
    ledger = await empty_database.fetch("SELECT name FROM etl_migrations ORDER BY applied_at, name")
    assert [row["name"] for row in ledger] == names


async def test_quoted_schemas_are_independent(empty_database: asyncpg.Connection) -> None:
    await migrate(empty_database, 'Odd "schema" name')
    await empty_database.execute("""INSERT INTO "Odd ""schema"" name".runs (id, status) VALUES ('r', 'RUNNING')""")
    await migrate(empty_database, "plain")
    assert await empty_database.fetchval("SELECT count(*) FROM plain.runs") == 0
    assert await empty_database.fetchval('SELECT count(*) FROM "Odd ""schema"" name".runs') == 1


async def test_columns_match_the_table_descriptions(warehouse: asyncpg.Connection) -> None:
    for table in tables.ENTITIES:
        rows = await warehouse.fetch(
            """
            SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS type
            FROM pg_attribute AS a
            WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
            """,
            table.name,
        )
        found = {row["attname"]: row["type"].replace("timestamp with time zone", "timestamptz") for row in rows}
        for name in NOT_COPIED.get(table.name, ()):
            found.pop(name)
        assert found == table.types, table.name
        key = await warehouse.fetchval(
            """
            SELECT array_agg(a.attname::text ORDER BY k.place)
            FROM pg_index AS i
            CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
            JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
            WHERE i.indisprimary AND i.indrelid = $1::text::regclass
            """,
            table.name,
        )
        assert tuple(key) == table.key


async def test_everything_has_a_comment(warehouse: asyncpg.Connection) -> None:
    bare = await warehouse.fetch(
        """
        SELECT c.relname, a.attname
        FROM pg_class AS c
        LEFT JOIN pg_attribute AS a
            ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'v')
        WHERE c.relnamespace = 'cortex'::regnamespace AND c.relkind IN ('r', 'v', 'i')
            AND (obj_description(c.oid) IS NULL
                OR (a.attnum IS NOT NULL AND col_description(c.oid, a.attnum) IS NULL))
        """
    )
    assert [tuple(row) for row in bare] == []
    functions = await warehouse.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'cortex'::regnamespace AND obj_description(oid) IS NULL"
    )
    assert [row["proname"] for row in functions] == []


async def test_constraints_have_explicit_names(warehouse: asyncpg.Connection) -> None:
    rows = await warehouse.fetch(
        "SELECT conname, conrelid::regclass::text AS table FROM pg_constraint "
        "WHERE connamespace = 'cortex'::regnamespace AND contype IN ('p', 'f', 'u', 'c')"
    )
    assert rows
    for row in rows:
        assert row["conname"].startswith(row["table"] + "_")
    foreign = {row["conname"] for row in rows if row["conname"].endswith("_fkey")}
    assert {"run_steps_run_fkey", "run_step_calls_step_fkey", "run_usage_calls_run_fkey"} <= foreign
    assert {"runs_app_fkey", "runs_workflow_fkey", "runs_version_fkey", "runs_draft_fkey"} <= foreign
    assert "workflows_app_fkey" in foreign
    assert {"workflow_steps_version_fkey", "workflow_step_links_version_fkey"} <= foreign


async def test_deleting_a_run_deletes_its_children(warehouse: asyncpg.Connection) -> None:
    await warehouse.execute(
        """
        INSERT INTO runs (id, started_at, ended_at) VALUES ('r', '2026-01-01 00:00:00.5Z', '2026-01-01 00:00:02Z');
        INSERT INTO run_steps (run_id, step_key, ordinal, started_at, ended_at)
            VALUES ('r', 's', 0, '2026-01-01 00:00:00Z', '2026-01-01 00:00:00.0015Z');
        INSERT INTO run_step_calls (run_id, step_key, ordinal) VALUES ('r', 's', 0);
        INSERT INTO run_usage_calls (run_id, step_key, path, depth) VALUES ('r', 's', '0', 1), ('r', '', '0', 1);
        """
    )
    assert await warehouse.fetchval("SELECT duration_s FROM runs") == 1.5
    assert await warehouse.fetchval("SELECT duration_s FROM run_steps") == 0.0015
    await warehouse.execute("DELETE FROM runs")
    for table in ("run_steps", "run_step_calls", "run_usage_calls"):
        assert await warehouse.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_failed_migration_is_rolled_back(
    empty_database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [Migration("0001_good.sql", "CREATE TABLE good ()", "1")]
    monkeypatch.setattr(runner, "migrations", lambda: files)
    files.append(Migration("0002_bad.sql", "CREATE TABLE half (); SELECT 1 / 0", "2"))
    with pytest.raises(DatabaseError, match=r"0002_bad\.sql could not be applied .* division by zero") as caught:
        await migrate(empty_database, "s")
    assert caught.value.hint
    assert await empty_database.fetchval("SELECT to_regclass('s.half')") is None
    assert await pending(empty_database, "s") == ["0002_bad.sql"]


async def test_edited_migration_is_refused(empty_database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [Migration("0001_good.sql", "CREATE TABLE good ()", "1")]
    monkeypatch.setattr(runner, "migrations", lambda: files)
    await migrate(empty_database, "s")
    files[0] = Migration("0001_good.sql", "CREATE TABLE better ()", "2")
    for command in (migrate, pending):
        with pytest.raises(DatabaseError, match=r"another version of cortex-etl created the schema .* 0001_good\.sql"):
            await command(empty_database, "s")


async def test_newer_schema_is_refused(empty_database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    await migrate(empty_database, "s")
    monkeypatch.setattr(runner, "migrations", lambda: migrations()[:1])
    with pytest.raises(DatabaseError, match=r"another version .* 0002_bookkeeping\.sql, 0003_rollups\.sql") as caught:
        await migrate(empty_database, "s")
    assert caught.value.exit_code == 4
    for step in ('DROP SCHEMA "s" CASCADE', "remove data_dir", "cortex-etl backfill"):
        assert step in caught.value.hint


async def test_concurrent_migrations_are_applied_once(empty_database_url: str) -> None:
    connections = [await connect(empty_database_url, "cortex") for _ in range(3)]
    done = await asyncio.gather(*(migrate(connection, "cortex") for connection in connections))
    assert sorted(map(len, done)) == [0, 0, len(migrations())]
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    assert await connections[0].fetchval(held) == 0
    for connection in connections:
        await connection.close()


async def test_missing_privilege_names_the_grant(empty_database_url: str) -> None:
    owner = await asyncpg.connect(empty_database_url)
    role = "poor_" + empty_database_url.partition("cortex_test_")[2][:12]
    await owner.execute(f"CREATE ROLE {role} LOGIN")
    try:
        poor = await connect(empty_database_url.replace("//postgres@", f"//{role}@"), "cortex")
        with pytest.raises(DatabaseError, match="permission denied for database") as caught:
            await migrate(poor, "cortex")
        assert 'CREATE SCHEMA "cortex" AUTHORIZATION' in caught.value.hint
        await owner.execute(f'CREATE SCHEMA "cortex" AUTHORIZATION {role}')
        assert await migrate(poor, "cortex")  # an ordinary role that owns its schema needs nothing more
        await poor.close()
    finally:
        await owner.execute(f"DROP SCHEMA IF EXISTS cortex CASCADE; DROP ROLE {role}")
        await owner.close()
