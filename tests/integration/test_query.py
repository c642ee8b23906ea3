"""`run_query`: exact results, and no way to write."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import asyncpg
import pytest

from etl.db.query import run_query
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


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM runs;",
        "  -- how many\n/* runs */ SELECT count(*) FROM runs",
        "WITH r AS (SELECT * FROM runs) SELECT count(*) FROM r",
        "(SELECT 1) EXCEPT (SELECT 2)",
        "values (1)",
    ],
)
async def test_all_forms_of_queries_are_allowed(one_run: asyncpg.Connection, database_url: str, sql: str) -> None:
    assert (await run_query(database_url, "cortex", sql, timeout_s=10)).rows == [(1,)]
    assert (await run_query(database_url, "cortex", "EXPLAIN SELECT 1", timeout_s=10)).columns == ("QUERY PLAN",)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM runs",
        "COMMIT; DELETE FROM runs",
        "SELECT 1; DELETE FROM runs",
        "SELECT 1; COMMIT; DELETE FROM runs; SELECT 1",
        "WITH gone AS (DELETE FROM runs RETURNING *) SELECT * FROM gone",
        "EXPLAIN ANALYZE DELETE FROM runs",
        "SELECT * INTO copied FROM runs",
        "SELECT set_config('transaction_read_only', 'off', false), * FROM runs",
        "SET TRANSACTION READ WRITE; DELETE FROM runs",
        "SET default_transaction_read_only = off",
        "DO $$ BEGIN DELETE FROM runs; END $$",
        "COPY (SELECT 1) TO PROGRAM 'cat'",
        "SELECT query_to_xml('DELETE FROM cortex.runs', true, true, '')",
        "SELECT nextval('etl_syncs_id_seq')",
        "/* SELECT */ TRUNCATE runs",
        "",
        "-- nothing",
    ],
)
async def test_writing_statements_are_refused(one_run: asyncpg.Connection, database_url: str, sql: str) -> None:
    with pytest.raises(SettingsError):
        await run_query(database_url, "cortex", sql, timeout_s=10)
    assert await one_run.fetchval("SELECT count(*) FROM runs") == 1
    assert await one_run.fetchval("SELECT to_regclass('copied')") is None


async def test_syntax_error_shows_its_position(one_run: asyncpg.Connection, database_url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        await run_query(database_url, "cortex", "SELECT id,\n  stats FROM runs", timeout_s=10)
    assert 'column "stats" does not exist (line 2, column 3)' in caught.value.message
    assert "status" in caught.value.hint  # PostgreSQL's own hint
    with pytest.raises(SettingsError, match=r"relation .nowhere. does not exist"):
        await run_query(database_url, "cortex", "SELECT 1 FROM nowhere", timeout_s=10)
    with pytest.raises(SettingsError, match="division by zero"):
        await run_query(database_url, "cortex", "SELECT 1 / 0", timeout_s=10)


async def test_long_query_times_out(database_url: str) -> None:
    with pytest.raises(SettingsError, match=r"exceeded its time limit of 0\.2 s"):
        await run_query(database_url, "cortex", "SELECT pg_sleep(30)", timeout_s=0.2)


async def test_lost_connection_during_a_query_is_a_database_error(database_url: str) -> None:
    with pytest.raises(DatabaseError, match="Lost the connection"):
        await run_query(database_url, "cortex", "SELECT pg_terminate_backend(pg_backend_pid())", timeout_s=10)


@pytest.mark.parametrize("time", ["20000-01-01", "4000-01-01 BC", "infinity", "-infinity"])
async def test_values_without_a_python_type_are_reported(database_url: str, time: str) -> None:
    with pytest.raises(SettingsError, match="cannot be shown"):
        await run_query(database_url, "cortex", f"SELECT row('{time}'::timestamptz)", timeout_s=10)
