"""Read privileges of the reader role of the embedded server, and of roles named to `grant`."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest
from postgres_fixtures import RUN_DIR

from etl.config import Settings
from etl.db import embedded
from etl.db.connect import connect
from etl.db.grants import admit_reader, reader_grants
from etl.db.migrate import Migration, _apply
from etl.db.querying import run_query
from etl.db.reading import reading_url
from etl.errors import SettingsError


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(dir=os.environ[RUN_DIR]))
    yield directory
    embedded.stop(directory)


@pytest.fixture
async def url(data_dir: Path) -> str:
    """The URL of the reader."""
    return await reading_url(Settings(data_dir=data_dir))


@pytest.fixture
async def owner(url: str, data_dir: Path) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(embedded.start(data_dir), "cortex")
    await connection.execute(
        """
        TRUNCATE runs, etl_rejects, etl_settings, etl_erased CASCADE;
        INSERT INTO runs (id, input) VALUES ('r', '{"name": "Ann"}');
        INSERT INTO etl_rejects (app_id, workflow_id, reason, error, payload, digest) VALUES ('a', 'w', 'x', 'y', 'z', '');
        INSERT INTO etl_settings (name, value) VALUES ('erased_salt', '"secret"');
        INSERT INTO etl_erased (hash, kind) VALUES ('hash', 'run');
        """
    )
    yield connection
    await connection.close()


async def test_reader_reads_all_but_secrets(owner: asyncpg.Connection, url: str) -> None:
    reader = await connect(url, "cortex")
    assert await reader.fetchval("SELECT current_user") == "cortex_reader"
    for name in await owner.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'cortex'::regnamespace AND relkind IN ('r', 'v')"
    ):
        if name["relname"] not in ("etl_rejects", "etl_settings", "etl_erased"):
            await reader.fetch(f"SELECT * FROM {name['relname']} LIMIT 1")
    assert await reader.fetchval("SELECT reason FROM etl_rejects") == "x"
    assert await reader.fetchval("SELECT name FROM etl_settings") == "erased_salt"
    assert await reader.fetchval("SELECT kind FROM etl_erased") == "run"
    for secret in (
        "SELECT payload FROM etl_rejects", "SELECT length(payload) FROM etl_rejects", "SELECT etl_rejects FROM etl_rejects",
        "SELECT value FROM etl_settings", "TABLE etl_settings", "SELECT hash FROM etl_erased", "TABLE etl_erased",
        "SELECT 1 FROM etl_erased WHERE hash = 'hash'", "SELECT rolpassword FROM pg_authid",
        "SELECT stavalues1::text FROM pg_statistic",
    ):  # fmt: skip
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.fetch(secret)
    await owner.execute("ANALYZE")
    hidden = "SELECT count(*) FROM pg_stats WHERE (tablename, attname) IN (('etl_rejects', 'payload'), ('etl_erased', 'hash'))"
    assert await reader.fetchval(hidden) == 0
    await reader.close()


ATTACKS = [
    "DELETE FROM runs",
    "TRUNCATE runs",
    "UPDATE runs SET input = NULL",
    "INSERT INTO apps (id) VALUES ('x')",
    "SELECT nextval('etl_syncs_id_seq')",
    "SELECT * FROM runs FOR UPDATE",
    "LOCK TABLE runs IN EXCLUSIVE MODE",
    "CREATE TABLE cortex.mine (a int)",
    "CREATE TABLE public.mine (a int)",
    "CREATE TEMP TABLE mine (a int)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION cortex.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE EXTENSION plpgsql SCHEMA cortex",
    "CREATE ROLE other SUPERUSER",
    "ALTER ROLE cortex_reader SUPERUSER",
    "ALTER ROLE postgres LOGIN",
    "GRANT postgres TO cortex_reader",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "SELECT set_config('role', 'postgres', false)",
    "SELECT set_config('session_authorization', 'postgres', false)",
    "SET session_replication_role = replica",
    "COPY runs TO '/tmp/runs'",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY apps FROM PROGRAM 'echo x'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT pg_ls_dir('.')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(1, '/tmp/x')",
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT lo_put(1, 0, 'x')",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_lock(1)",
    "SELECT pg_advisory_xact_lock_shared(1, 2)",
    "SELECT pg_notify('a', 'b')",
    "SELECT pg_reload_conf()",
    "SELECT pg_switch_wal()",
    "SELECT pg_stat_reset()",
    "ALTER SYSTEM SET archive_command = 'true'",
    "DROP SCHEMA cortex CASCADE",
    "DO $$ BEGIN DELETE FROM cortex.runs; END $$",
    "DO LANGUAGE plpython3u 'import os'",
]


async def test_reader_can_only_read_whatever_is_typed(owner: asyncpg.Connection, url: str) -> None:
    succeeded = []
    for attack in ATTACKS:
        reader = await connect(url, "cortex")
        await reader.execute("SET default_transaction_read_only = off")
        await reader.execute("BEGIN READ WRITE")
        with suppress(asyncpg.PostgresError):
            await reader.execute(attack)
            succeeded.append(attack)
        await reader.close()
        with suppress(SettingsError):
            await run_query(url, "cortex", attack, timeout_s=10)
            succeeded.append(attack)
        assert await owner.fetchval("SELECT count(*) FROM runs WHERE input IS NOT NULL") == 1, attack
    assert succeeded == []


async def test_a_secret_column_has_a_hint(owner: asyncpg.Connection, url: str) -> None:
    with pytest.raises(SettingsError, match="permission denied for table etl_rejects") as refused:
        await run_query(url, "cortex", "TABLE etl_rejects", timeout_s=10)
    assert "Who may read" in refused.value.hint


async def test_a_function_that_may_not_be_called_has_no_hint_about_columns(owner: asyncpg.Connection, url: str) -> None:
    with pytest.raises(SettingsError, match="permission denied for function pg_read_file") as refused:
        await run_query(url, "cortex", "SELECT pg_read_file('/etc/hostname')", timeout_s=10)
    assert refused.value.hint == ""


async def test_a_query_does_not_become_the_owner(owner: asyncpg.Connection, url: str) -> None:
    for name in ("postgres", "none", "default"):
        sql = f"SELECT current_user FROM (SELECT set_config('role', '{name}', true)) AS changed"
        try:
            found = (await run_query(url, "cortex", sql, timeout_s=10)).rows
        except SettingsError as refused:
            assert "permission denied" in refused.message or "does not exist" in refused.message  # noqa: PT017
        else:
            assert found == [("cortex_reader",)]


async def test_later_relations_stay_readable(owner: asyncpg.Connection, data_dir: Path) -> None:
    await owner.execute(
        """
        CREATE TABLE later (a int);
        CREATE OR REPLACE VIEW later_view AS SELECT * FROM later;
        ALTER TABLE etl_rejects ADD COLUMN later int;
        """
    )
    try:
        reader = await connect(await reading_url(Settings(data_dir=data_dir)), "cortex")
        await reader.fetch("SELECT later.*, later_view.*, etl_rejects.later FROM later, later_view, etl_rejects")
        await reader.close()
    finally:
        await owner.execute("DROP TABLE later CASCADE; ALTER TABLE etl_rejects DROP COLUMN later")


async def test_reader_is_admitted_by_several_processes_at_once(owner: asyncpg.Connection, data_dir: Path) -> None:
    await owner.execute("DROP OWNED BY cortex_reader; DROP ROLE cortex_reader")
    connections = [await connect(embedded.start(data_dir), "cortex") for _ in range(4)]
    await asyncio.gather(*(admit_reader(each, "cortex") for each in connections))
    for each in connections:
        await each.close()
    written = await owner.fetchval("SELECT pg_current_wal_insert_lsn()")
    await admit_reader(owner, "cortex")
    assert await owner.fetchval("SELECT pg_current_wal_insert_lsn()") == written


async def test_granted_roles_read_what_a_migration_adds(warehouse: asyncpg.Connection) -> None:
    reader, other, stranger = (f"{each}_{warehouse.get_server_pid()}" for each in ("reader", "other", "stranger"))
    await warehouse.execute(f"CREATE ROLE {reader}; CREATE ROLE {other}; CREATE ROLE {stranger}")
    try:
        grants, search_path = await reader_grants(warehouse, "cortex", reader)
        for statement in (*grants, search_path):
            await warehouse.execute(statement)
        await warehouse.execute(
            f"GRANT SELECT ON runs TO {other}; CREATE VIEW of_others AS SELECT 1 AS n; ALTER VIEW of_others OWNER TO {stranger}"
        )
        sql = """
            DROP VIEW recent_failures;
            CREATE VIEW recent_failures AS SELECT 1 AS n;
            CREATE VIEW later AS SELECT 1 AS n;
            CREATE TABLE etl_secret (hash bytea);
        """
        await _apply(warehouse, "cortex", Migration("9000_later.sql", sql, "x"))
        for name, readable in (("recent_failures", True), ("later", True), ("etl_secret", False), ("of_others", False)):
            held = await warehouse.fetchval("SELECT has_table_privilege($1, $2, 'SELECT')", reader, name)
            assert held == readable, name
            assert not await warehouse.fetchval("SELECT has_table_privilege($1, $2, 'SELECT')", other, name)
        setting = await warehouse.fetchval(
            "SELECT setconfig FROM pg_db_role_setting WHERE setrole = $1::text::regrole", reader
        )
        assert setting == ["search_path=cortex"]
    finally:
        await warehouse.execute("DROP VIEW IF EXISTS of_others")
        for role in (reader, other, stranger):
            await warehouse.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_grant_gives_entities_views_and_the_state_of_syncs(warehouse: asyncpg.Connection) -> None:
    grants, _ = await reader_grants(warehouse, "cortex", "analyst")
    named = {each.split('"')[3] for each in grants if "SELECT" in each}
    assert {"runs", "run_usage_calls", "workflow_step_links", "apps", "sync_health", "etl_syncs", "etl_streams"} < named
    private = {"etl_rejects", "etl_erased", "etl_settings", "etl_migrations", "etl_rate_budgets", "etl_changed_days"}
    assert not named & private
