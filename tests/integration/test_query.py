"""`run_query`: exact results, and no way to write."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import asyncpg
import pytest

from etl.db.query_text import accept
from etl.db.querying import run_query
from etl.errors import DatabaseError, SettingsError


@pytest.fixture
async def one_run(warehouse: asyncpg.Connection) -> asyncpg.Connection:
    await warehouse.execute(
        "INSERT INTO runs (id, created_at, credits, input) VALUES ('r', '2026-01-02Z', 0.10, '{\"a\": 1.0}')"
    )
    return warehouse


async def test_query_returns_columns_types_and_exact_values(one_run: asyncpg.Connection, database_url: str) -> None:
    result = await run_query(
        database_url, "cortex", "SELECT id, id, created_at, credits, input, gone_at FROM runs", timeout_s=10
    )
    assert result.columns == ("id", "id", "created_at", "credits", "input", "gone_at")
    assert result.types == ("text", "text", "timestamptz", "numeric", "jsonb", "timestamptz")
    assert result.rows == [("r", "r", datetime(2026, 1, 2, tzinfo=UTC), Decimal("0.10"), '{"a": 1.0}', None)]
    assert str(result.rows[0][3]) == "0.10"


FORMS = [
    "SELECT count(*) FROM runs;",
    "SELECT count(*) FROM runs ; ; -- done",
    "  -- how many\n/* runs /* of\n all */ workflows */ SELECT count(*) FROM runs -- all",
    "WITH r AS (SELECT * FROM runs) SELECT count(*) FROM r",
    "(SELECT 1) EXCEPT (SELECT 2)",
    "((SELECT 1))",
    "values (1)",
    "SELECT length($$;$$)",
    "SELECT length($a$'$a$)",
    "SELECT length(';') /* ; */",
    "TABLE one",
]


async def test_all_forms_of_queries_are_allowed(one_run: asyncpg.Connection, database_url: str) -> None:
    await one_run.execute("CREATE VIEW one AS SELECT 1 AS n")
    for sql in FORMS:
        assert (await run_query(database_url, "cortex", sql, timeout_s=10)).rows == [(1,)], sql


EXPLAINED = [
    "EXPLAIN SELECT 1",
    "explain(SELECT 1)",
    "EXPLAIN ((SELECT 1)) UNION SELECT 2;",
    "-- the plan\nEXPLAIN /* with /* times */ */ ANALYZE -- all\n VERBOSE SELECT 1",
    "EXPLAIN (ANALYZE, COSTS off) SELECT 1",
    "EXPLAIN (FORMAT JSON) TABLE runs",
    "EXPLAIN (ANALYZE)(SELECT 1)",
    "Explain Analyse VALUES (1)",
]


async def test_queries_are_explained(database_url: str) -> None:
    for sql in EXPLAINED:
        result = await run_query(database_url, "cortex", sql, timeout_s=10)
        assert (result.columns, bool(result.rows)) == (("QUERY PLAN",), True), sql


async def test_settings_are_shown(database_url: str) -> None:
    result = await run_query(database_url, "cortex", "/* read-only? */ show transaction_read_only;", timeout_s=10)
    assert (result.columns, result.rows) == (("transaction_read_only",), [("on",)])


WRITING = [
    "DELETE FROM runs",
    "DELETE FROM runs RETURNING id",
    "COMMIT; DELETE FROM runs",
    "SELECT 1; DELETE FROM runs",
    "SELECT 1; COMMIT; DELETE FROM runs; SELECT 1",
    "SELECT 1 /* ; */ ; DELETE FROM runs --",
    "SELECT 1) TO STDOUT; DELETE FROM runs; COPY (SELECT 1",
    "SELECT 1; CLOSE query; DELETE FROM runs",
    "WITH gone AS (DELETE FROM runs RETURNING *) SELECT * FROM gone",
    "SELECT * FROM (WITH gone AS (DELETE FROM runs RETURNING *) TABLE gone) AS deleted",
    "SELECT * INTO copied FROM runs",
    "SELECT * FROM runs FOR UPDATE",
    "SELECT set_config('transaction_read_only', 'off', false), * FROM runs",
    "SELECT set_config('transaction_read_only', 'off', true) UNION ALL SELECT nextval('etl_syncs_id_seq')::text",
    "SET TRANSACTION READ WRITE; DELETE FROM runs",
    "SET default_transaction_read_only = off",
    "RESET ALL",
    "BEGIN READ WRITE",
    "END",
    "DO $$ BEGIN DELETE FROM runs; END $$",
    "CALL erase()",
    "SELECT erase_all()",
    "SELECT query_to_xml('DELETE FROM cortex.runs', true, true, '')",
    "SELECT nextval('etl_syncs_id_seq')",
    "SELECT setval('etl_syncs_id_seq', 100)",
    "/* SELECT */ TRUNCATE runs",
    "/* /* */ SELECT 1 */ DELETE FROM runs",
    "/* /* */ EXPLAIN */ DELETE FROM runs",
    "-- SELECT\rDELETE FROM runs",
    "-- SELECT\n\rDELETE FROM runs",
    "\ufeffSELECT 1; DELETE FROM runs",
    "EXPLAIN ANALYZE DELETE FROM runs",
    "EXPLAIN (ANALYZE) DELETE FROM runs",
    "EXPLAIN (ANALYZE, FORMAT JSON) WITH gone AS (DELETE FROM runs RETURNING *) SELECT * FROM gone",
    "EXPLAIN ANALYZE CREATE TABLE copied AS SELECT * FROM runs",
    "EXPLAIN (ANALYZE) CREATE MATERIALIZED VIEW copied AS SELECT * FROM runs",
    "EXPLAIN ANALYZE SELECT 1; DELETE FROM runs",
    "EXPLAIN /* /* */ SELECT 1 */ ANALYZE DELETE FROM runs",
    "EXPLAIN (SELECT 1) DELETE FROM runs",
    "EXPLAIN EXPLAIN ANALYZE DELETE FROM runs",
    "SHOW search_path; DELETE FROM runs",
    "PREPARE gone AS DELETE FROM runs",
    "EXECUTE gone",
    "DECLARE other CURSOR WITH HOLD FOR SELECT 1",
    "FETCH ALL FROM query",
    "COPY runs TO STDOUT",
    "COPY (DELETE FROM runs RETURNING *) TO STDOUT",
    "CREATE TEMP TABLE copied AS SELECT 1",
    "LOCK TABLE runs",
    "LISTEN all_events",
    "VACUUM runs",
    "SELECT $1",
    "SELECT 1 /* not closed",
    "SELECT 'not closed",
    "SELECT $$not closed",
    "EXPLAIN",
    "EXPLAIN ANALYZE",
    "EXPLAIN (ANALYZE)",
    "SHOW",
    "",
    " ;",
    "-- nothing",
    "/* nothing",
    "SELECT 1\0; DELETE FROM runs",
]  # fmt: skip


async def test_statements_other_than_queries_are_refused(one_run: asyncpg.Connection, database_url: str) -> None:
    await one_run.execute(
        """
        CREATE FUNCTION erase_all() RETURNS text LANGUAGE plpgsql AS
            $$ BEGIN PERFORM set_config('role', 'none', true); DELETE FROM cortex.runs; RETURN 'erased'; END $$;
        CREATE PROCEDURE erase() LANGUAGE sql AS $$ DELETE FROM cortex.runs $$;
        """
    )
    for sql in WRITING:
        try:
            await run_query(database_url, "cortex", sql, timeout_s=10)
        except SettingsError:
            pass
        else:
            pytest.fail(f"accepted: {sql}")
        assert await one_run.fetchval("SELECT count(*) FROM runs") == 1, sql
        assert await one_run.fetchval("SELECT last_value FROM etl_syncs_id_seq") == 1, sql
        assert await one_run.fetchval("SELECT to_regclass('copied')") is None, sql


async def test_effects_of_a_query_are_not_committed(warehouse: asyncpg.Connection, database_url: str) -> None:
    # PostgreSQL 15 and older let a read-only transaction make large objects.
    with suppress(SettingsError):
        await run_query(database_url, "cortex", "SELECT lo_from_bytea(0, 'x')", timeout_s=10)
    assert await warehouse.fetchval("SELECT count(*) FROM pg_largeobject_metadata") == 0


PROGRAM = "COPY (SELECT 1) TO PROGRAM 'touch {path}'"


RIGHTS_OF_A_SUPERUSER = [
    PROGRAM,
    f"/* /* */ select 1 */ {PROGRAM}",
    f"/* /* */ explain */ {PROGRAM}",
    f"EXPLAIN ANALYZE {PROGRAM}",
    f"SELECT 1; {PROGRAM}",
    f"SELECT 1) TO STDOUT; {PROGRAM}; COPY (SELECT 1",
    "SELECT 1) TO PROGRAM 'touch {path}' --",
    "SELECT query_to_xml($q$" + PROGRAM + "$q$, true, true, '')",
    "SELECT lo_export(lo_from_bytea(0, 'x'), '{path}')",
    "SELECT pg_read_file('/etc/hostname')",
    "SELECT pg_ls_dir('/')",
    "SELECT pg_reload_conf()",
    "SELECT pg_switch_wal()",
    "SELECT pg_stat_reset()",
    "SELECT pg_terminate_backend({backend})",
    "SELECT pg_cancel_backend({backend})",
]


async def test_a_superuser_gives_up_its_rights(
    warehouse: asyncpg.Connection, database_url: str, tmp_path: Path
) -> None:
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o777)  # the server may run as another account
    made = tmp_path / "made"
    for sql in RIGHTS_OF_A_SUPERUSER:
        text = sql.format(path=made, backend=warehouse.get_server_pid())
        try:
            await run_query(database_url, "cortex", text, timeout_s=10)
        except SettingsError:
            pass
        else:
            pytest.fail(f"accepted: {sql}")
        assert not made.exists(), sql
        assert await warehouse.fetchval("SELECT 1") == 1, sql


async def test_checking_a_text_executes_nothing(warehouse: asyncpg.Connection) -> None:
    await warehouse.execute(
        "CREATE FUNCTION count_up() RETURNS bigint IMMUTABLE LANGUAGE sql AS $$ SELECT nextval('etl_syncs_id_seq') $$"
    )
    for text in ("SELECT count_up()", "EXPLAIN ANALYZE SELECT count_up()"):
        await accept(warehouse, text)
    assert not await warehouse.fetchval("SELECT is_called FROM etl_syncs_id_seq")


async def test_syntax_error_shows_its_position(one_run: asyncpg.Connection, database_url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        await run_query(database_url, "cortex", "SELECT id,\n  stats FROM runs", timeout_s=10)
    assert 'column "stats" does not exist (line 2, column 3)' in caught.value.message
    assert "status" in caught.value.hint  # PostgreSQL's own hint
    assert caught.value.hint.endswith("`cortex-etl describe RELATION` lists the columns.")


@pytest.mark.parametrize(
    ("sql", "hint"),
    [
        ("select * from run", "Did you mean runs"),
        ('SELECT 1 FROM runs\nJOIN "cortex"."Run_fact" USING (id)', "Did you mean run_facts"),
        ("TABLE cortx.runs", "Did you mean runs"),
        ("EXPLAIN SELECT 1 FROM zzzzz", "`cortex-etl describe` lists all"),
    ],
)
async def test_another_relation_is_suggested(
    warehouse: asyncpg.Connection, database_url: str, sql: str, hint: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        await run_query(database_url, "cortex", sql, timeout_s=10)
    assert caught.value.hint.startswith(hint)
    assert "migrate" not in caught.value.hint
    with pytest.raises(SettingsError) as caught:
        await run_query(database_url, "nowhere", sql.replace("cortex", "nowhere"), timeout_s=10)
    assert "run `cortex-etl migrate`" in caught.value.hint


REFUSALS = [
    ("SELECT 1 FROM nowhere", r"relation .nowhere. does not exist \(line 1, column 15\)"),
    ("EXPLAIN (ANALYZE)\nSELECT 1 FROM nowhere", r"relation .nowhere. does not exist \(line 2, column 15\)"),
    ("EXPLAIN (ANALYZE) SELECT 1 FRM runs", r"at or near .runs. \(line 1, column 32\)"),
    ("EXPLAIN ANALYZE DELETE FROM runs", "only read-only queries are allowed, got DELETE"),
    ("  -- all\nDELETE FROM runs", "only read-only queries are allowed, got DELETE"),
    ("WITH gone AS (DELETE FROM runs RETURNING 1) TABLE gone", "only read-only queries are allowed: a WITH clause"),
    ("", "only read-only queries are allowed, got an empty statement"),
    ("SELECT 1; SELECT 2", "expected one statement, got several"),
    ("SELECT $1", "takes no parameters"),
    ("SELECT 1 / 0", "division by zero"),
    ("SELECT '\0'", "NUL"),
    ("SELECT '\udc80'", "NUL"),
    ("\\d+ runs\n", r"\\d\+ runs is a command of psql"),
]


async def test_refusals_say_what_is_wrong(database_url: str) -> None:
    for sql, says in REFUSALS:
        with pytest.raises(SettingsError, match=says):
            await run_query(database_url, "cortex", sql, timeout_s=10)


async def test_long_query_times_out(warehouse: asyncpg.Connection, database_url: str) -> None:
    with pytest.raises(SettingsError, match=r"exceeded its time limit of 0\.2 s"):
        await run_query(database_url, "cortex", "SELECT pg_sleep(30)", timeout_s=0.2)
    assert await running(warehouse) == 0


async def test_query_cannot_raise_its_time_limit(warehouse: asyncpg.Connection, database_url: str) -> None:
    sql = "SELECT set_config('statement_timeout', '0', false), pg_sleep(1) FROM generate_series(1, 30)"
    with pytest.raises(SettingsError, match=r"exceeded its time limit of 0\.5 s"):
        await run_query(database_url, "cortex", sql, timeout_s=0.5)
    assert await running(warehouse) == 0


async def test_interrupted_query_ends_in_the_server(warehouse: asyncpg.Connection, database_url: str) -> None:
    query = asyncio.create_task(run_query(database_url, "cortex", "SELECT pg_sleep(30)", timeout_s=60))
    async with asyncio.timeout(10):
        while await running(warehouse) == 0:
            await asyncio.sleep(0.05)
    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query
    assert await running(warehouse) == 0


async def running(warehouse: asyncpg.Connection) -> int:
    count: int = await warehouse.fetchval(
        """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'cortex-etl sql' AND query LIKE '%pg_sleep%'
            AND state = 'active'
        """
    )
    return count


async def test_lost_connection_during_a_query_is_a_database_error(
    warehouse: asyncpg.Connection, database_url: str
) -> None:
    query = asyncio.create_task(run_query(database_url, "cortex", "SELECT pg_sleep(30)", timeout_s=60))
    async with asyncio.timeout(10):
        while await running(warehouse) == 0:
            await asyncio.sleep(0.05)
    await warehouse.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'cortex-etl sql'"
    )
    with pytest.raises(DatabaseError, match="lost the connection"):
        await query


async def test_values_without_a_python_type_are_reported(database_url: str) -> None:
    for time in ("20000-01-01", "4000-01-01 BC", "infinity", "-infinity"):
        with pytest.raises(SettingsError, match="cannot be shown"):
            await run_query(database_url, "cortex", f"SELECT row('{time}'::timestamptz)", timeout_s=10)


async def test_types_that_the_driver_does_not_know_are_reported(database_url: str) -> None:
    with pytest.raises(SettingsError, match="cannot be shown"):
        await run_query(database_url, "cortex", "SELECT most_common_vals FROM pg_stats", timeout_s=10)


async def test_backslashes_follow_standard_conforming_strings(one_run: asyncpg.Connection, database_url: str) -> None:
    database = await one_run.fetchval("SELECT current_database()")
    for setting in ("standard_conforming_strings = off", "default_transaction_read_only = off"):
        await one_run.execute(f"ALTER DATABASE {database} SET {setting}")
    one_string = await run_query(database_url, "cortex", r"SELECT '\'; DELETE FROM runs; --';", timeout_s=10)
    assert one_string.rows == [("'; DELETE FROM runs; --",)]
    with pytest.raises(SettingsError, match="one statement"):
        await run_query(database_url, "cortex", r"SELECT '\\'; DELETE FROM runs; --'", timeout_s=10)
    assert await one_run.fetchval("SELECT count(*) FROM runs") == 1
