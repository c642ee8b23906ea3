"""Warehouses that are dumped and restored, next to the old one or under another name, or renamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sync_trials import APP, SCHEMA, WORKFLOW, Trial, differences, one_stream, trial

from etl.db import embedded
from etl.db.connect import connect
from etl.db.session import Session
from etl.events import StreamId

VIEWS = (
    "workflow_health_daily", "credits_daily", "step_performance_daily", "model_usage_daily", "recent_failures",
    "open_runs", "run_tree", "sync_health",
)  # fmt: skip


async def program(name: str, *arguments: str, stdin: str = "") -> str:
    process = await asyncio.create_subprocess_exec(
        embedded.program(name), *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate(stdin.encode())
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.fixture
async def loaded(database_url: str) -> AsyncIterator[tuple[Trial, str]]:
    """A warehouse with some runs, rolled up, and a dump of its schema."""
    async with trial(database_url, one_stream(40)) as t:
        await t.agrees()
        t.world.replay_run(next(iter(t.world.runs[WORKFLOW])))
        await t.agrees("reconcile")
        yield t, await program("pg_dump", "--schema", SCHEMA, database_url)


async def restore(url: str, dump: str) -> None:
    await program("psql", "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=on", url, stdin=dump)


async def contents(connection: asyncpg.Connection, schema: str) -> dict[str, Any]:
    """Return the answers of the views in a schema, whatever the search_path."""
    await connection.execute("SET search_path TO pg_catalog")
    ages = "- 'lag_s' - 'age_s'"
    return {
        view: await connection.fetch(f"SELECT to_jsonb(v) {ages} AS row FROM {schema}.{view} AS v ORDER BY 1")
        for view in VIEWS
    }


async def write_to(connection: asyncpg.Connection, schema: str, *, but: str) -> None:
    """Change and truncate one warehouse; its views must change, and those of another must not."""
    others = await contents(connection, but)
    counted = f"SELECT sum(runs)::integer, sum(failed)::integer FROM {schema}.workflow_health_daily"
    (runs, _) = await connection.fetchrow(counted)
    await connection.execute(f"UPDATE {schema}.runs SET status = 'FAILED'")
    assert tuple(await connection.fetchrow(counted)) == (runs, runs)
    await connection.execute(f"DELETE FROM {schema}.runs WHERE id = (SELECT min(id) FROM {schema}.runs)")
    assert tuple(await connection.fetchrow(counted)) == (runs - 1, runs - 1)
    await connection.execute(f"TRUNCATE {schema}.runs CASCADE")
    assert tuple(await connection.fetchrow(counted)) == (None, None)
    assert await connection.fetchval(f"SELECT count(*) FROM {schema}.rollup_health") == 0
    assert await contents(connection, but) == others


async def test_schema_restored_beside_the_old_one(loaded: tuple[Trial, str]) -> None:
    t, dump = loaded
    before = await contents(t.connection, SCHEMA)
    await t.connection.execute(f"ALTER SCHEMA {SCHEMA} RENAME TO kept")
    await restore(t.url, dump)
    assert await contents(t.connection, SCHEMA) == await contents(t.connection, "kept") == before
    assert await t.requests_of() == 1, "all runs are known"
    await write_to(t.connection, "kept", but=SCHEMA)
    t.world.create_run(WORKFLOW)
    assert (await t.run()).status == "succeeded"
    await write_to(t.connection, SCHEMA, but="kept")


async def test_copy_under_another_name(loaded: tuple[Trial, str]) -> None:
    t, dump = loaded
    before = await contents(t.connection, SCHEMA)
    renamed = dump.replace(f"{SCHEMA}.", "copy.").replace(f"SCHEMA {SCHEMA};", "SCHEMA copy;")
    await restore(t.url, renamed)
    assert await contents(t.connection, "copy") == before
    await write_to(t.connection, "copy", but=SCHEMA)
    await write_to(t.connection, SCHEMA, but="copy")


async def test_renamed_schema_works(loaded: tuple[Trial, str]) -> None:
    t, _ = loaded
    await t.connection.execute(f"ALTER SCHEMA {SCHEMA} RENAME TO renamed")
    t.database = {"schema": "renamed"}
    assert await t.requests_of() == 1
    t.world.create_run(WORKFLOW)
    assert (await t.run()).status == "succeeded"
    connection = await connect(t.url, "renamed")
    try:
        assert await differences(connection, t.world) == []
        session = await Session.open(t.url, "renamed")
        await session.start_sync("sync")
        assert await session.lock(StreamId(APP, WORKFLOW)) is not None
        assert await connection.fetchval("SELECT count(*) FROM live_syncs") == 1
        assert await connection.fetchval("SELECT held_by FROM sync_health") is not None
        await session.close()
    finally:
        await connection.close()
