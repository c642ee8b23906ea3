"""Foreign keys hold whether or not the loading role may skip their checks, and triggers fire."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from postgres_fixtures import add_owners

from etl.db.connect import connect
from etl.db.load import hold_owners, write_definitions
from etl.normalize.rows import RunRows, VersionRows

REFERRING = {
    "runs_pkey": "SELECT (SELECT count(*) FROM run_steps) + (SELECT count(*) FROM run_usage_calls)",
    "workflow_versions_pkey": "SELECT count(workflow_version_id) FROM runs",
    "workflows_pkey": "SELECT count(workflow_id) FROM runs",
    "apps_pkey": "SELECT count(workflow_app_id) FROM runs",
}
"""Number of referencing rows by the index that PostgreSQL uses to check the reference."""

LOOKED_UP = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelid = $1::text::regclass"
ORPHANS = """
SELECT (SELECT count(*) FROM run_steps WHERE run_id NOT IN (SELECT id FROM runs))
    + (SELECT count(*) FROM runs WHERE workflow_id NOT IN (SELECT id FROM workflows))
    + (SELECT count(*) FROM runs WHERE workflow_app_id NOT IN (SELECT id FROM apps))
    + (SELECT count(*) FROM runs WHERE workflow_version_id NOT IN (SELECT id FROM workflow_versions))
    + (SELECT count(*) FROM runs WHERE workflow_draft_id NOT IN (SELECT id FROM workflow_versions))
    + (SELECT count(*) FROM run_usage_calls WHERE run_id NOT IN (SELECT id FROM runs))
    + (SELECT count(*) FROM run_step_calls WHERE (run_id, step_key) NOT IN (SELECT run_id, step_key FROM run_steps))
"""


@pytest.fixture
def sync(at_work, database_url):
    """Run a mode as some role; return the exit code and the JSON output."""
    command, _ = at_work
    config = command.folder / "config.yaml"

    async def run(mode: str = "sync", url: str = database_url) -> tuple[int, dict[str, Any]]:
        config.write_text(config.read_text().replace(database_url, url))
        ended = await command(mode, "--json", "--quiet")
        return ended.code, ended.json

    return run


@pytest.fixture
async def loader(warehouse, database_url) -> AsyncIterator[tuple[str, str]]:
    """A role that may read and write the warehouse: (role, URL)."""
    role = f"loader_{await warehouse.fetchval('SELECT current_database()')}"
    await warehouse.execute(f"""
        CREATE ROLE "{role}" LOGIN;
        GRANT USAGE ON SCHEMA cortex TO "{role}";
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA cortex TO "{role}";
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA cortex TO "{role}"
    """)
    yield role, database_url.replace("postgres@", f"{role}@", 1)
    await warehouse.execute(f'DROP OWNED BY "{role}" CASCADE; DROP ROLE "{role}"')


async def assert_sound(warehouse: asyncpg.Connection) -> None:
    """Check that all references are valid, and that invalid ones are refused."""
    assert await warehouse.fetchval("SELECT count(*) FROM run_step_calls") > 0
    assert await warehouse.fetchval(ORPHANS) == 0
    for table, values in (
        ("runs (id, workflow_version_id, content_hash)", "'alone', 'nobody', ''"),
        ("runs (id, workflow_id)", "'alone', 'nobody'"),
        ("runs (id, workflow_app_id)", "'alone', 'nobody'"),
        ("run_steps (run_id, step_key, ordinal)", "'nobody', 's', 0"),
        ("run_step_calls (run_id, step_key, ordinal)", "'nobody', 's', 0"),
        ("run_usage_calls (run_id, step_key, path, depth)", "'nobody', '', '0', 1"),
    ):
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await warehouse.execute(f"INSERT INTO {table} VALUES ({values})")


async def looked_up(warehouse: asyncpg.Connection, index: str) -> float:
    """Return the number of index lookups per referencing row."""
    referring: int = await warehouse.fetchval(REFERRING[index])
    assert referring > 20
    return float(await warehouse.fetchval(LOOKED_UP, index)) / referring


@pytest.mark.parametrize("index", REFERRING)
async def test_privileged_role_skips_foreign_key_checks(sync, warehouse, index) -> None:
    assert (await sync())[0] == 0
    assert await looked_up(warehouse, index) < 0.5
    await assert_sound(warehouse)


@pytest.mark.parametrize("index", REFERRING)
async def test_unprivileged_role_checks_all_foreign_keys(sync, warehouse, loader, index) -> None:
    assert (await sync(url=loader[1]))[0] == 0
    assert await looked_up(warehouse, index) >= 1
    await assert_sound(warehouse)


async def test_privilege_can_be_granted(sync, warehouse, loader) -> None:
    if warehouse.get_server_version().major < 15:
        pytest.skip("PostgreSQL 14 has it for superusers alone")
    role, url = loader
    await warehouse.execute(f'GRANT SET ON PARAMETER session_replication_role TO "{role}"')
    assert (await sync(url=url))[0] == 0
    assert await looked_up(warehouse, "runs_pkey") < 0.5
    await assert_sound(warehouse)


async def test_children_are_replaced_and_deleted_with_their_run(sync, at_work, warehouse) -> None:
    assert (await sync())[0] == 0
    run_id = await warehouse.fetchval("SELECT run_id FROM run_step_calls LIMIT 1")
    at_work[1].world.replay_run(run_id)
    assert (await sync("reconcile"))[1]["runs_updated"] == 1
    await assert_sound(warehouse)
    await warehouse.execute("DELETE FROM runs WHERE id = $1", run_id)
    assert await warehouse.fetchval("SELECT count(*) FROM run_steps WHERE run_id = $1", run_id) == 0


async def test_foreign_triggers_fire(sync, warehouse) -> None:
    await warehouse.execute("""
        CREATE TABLE copied (run_id text);
        CREATE FUNCTION copy() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO cortex.copied VALUES (NEW.run_id); RETURN NEW; END $$;
        CREATE TRIGGER copying AFTER INSERT ON run_step_calls FOR EACH ROW EXECUTE FUNCTION copy()
    """)
    assert (await sync())[0] == 0
    assert await warehouse.fetchval("SELECT count(*) FROM copied") > 0
    assert await warehouse.fetchval("SELECT count(*) FROM copied") == await warehouse.fetchval(
        "SELECT count(*) FROM run_step_calls"
    )


async def test_children_of_a_run_rejected_by_a_trigger_are_not_stored(sync, warehouse) -> None:
    await warehouse.execute("""
        CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.status = 'FAILED' THEN RETURN NULL; END IF; RETURN NEW; END $$;
        CREATE TRIGGER keeping_out BEFORE INSERT ON runs FOR EACH ROW EXECUTE FUNCTION keep_out()
    """)
    await sync()
    assert await warehouse.fetchval("SELECT count(*) FROM runs WHERE status = 'FAILED'") == 0
    assert await warehouse.fetchval("SELECT count(*) FROM runs") > 0
    await assert_sound(warehouse)


async def test_changed_days_are_recorded_after_triggers_are_reenabled(sync, warehouse) -> None:
    await warehouse.execute("ALTER TABLE runs DISABLE TRIGGER USER; ALTER TABLE runs ENABLE TRIGGER USER")
    assert (await sync())[0] == 0
    counted = await warehouse.fetchval("SELECT sum(runs) FROM workflow_health_daily")
    assert counted == await warehouse.fetchval("SELECT count(*) FROM runs") > 0


async def test_referenced_definition_cannot_be_deleted_concurrently(sync, warehouse, database_url) -> None:
    assert (await sync())[0] == 0
    await warehouse.execute("DELETE FROM runs")
    stored = await warehouse.fetchrow("SELECT id, content_hash FROM workflow_versions")
    definition = VersionRows(stored["id"], (), (), (), stored["content_hash"])
    run = RunRows("run", "wf", b"", None, None, None, False, False, None, (), [], [], [], [], (definition,))
    other = await connect(database_url, "cortex")
    await other.execute("SET lock_timeout = 50")
    async with warehouse.transaction():
        assert await write_definitions(warehouse, [run]) == 0
        with pytest.raises(asyncpg.LockNotAvailableError):
            await other.execute("DELETE FROM workflow_versions WHERE id = $1", definition.id)
    await other.execute("DELETE FROM workflow_versions WHERE id = $1", definition.id)
    await other.close()


async def test_additional_foreign_keys_of_runs_are_checked(sync, warehouse) -> None:
    await warehouse.execute("""
        CREATE TABLE known_statuses (status text PRIMARY KEY);
        INSERT INTO known_statuses VALUES ('COMPLETED');
        ALTER TABLE runs ADD CONSTRAINT known FOREIGN KEY (status) REFERENCES known_statuses
    """)
    code, said = await sync()
    assert (code, said["status"]) == (0, "succeeded")
    assert said["rejects"] > 0
    assert await warehouse.fetchval("SELECT array_agg(DISTINCT status) FROM runs") == ["COMPLETED"]


async def test_additional_foreign_keys_are_checked(sync, warehouse) -> None:
    await warehouse.execute("""
        CREATE TABLE known_models (model text PRIMARY KEY);
        ALTER TABLE run_steps ADD CONSTRAINT known FOREIGN KEY (model) REFERENCES known_models
    """)
    code, said = await sync()
    assert (code, said["status"]) == (0, "succeeded")
    assert said["rejects"] > 0
    assert await warehouse.fetchval("SELECT count(*) FROM run_steps WHERE model IS NOT NULL") == 0
    reasons = await warehouse.fetch("SELECT DISTINCT reason FROM etl_rejects")
    assert [row["reason"] for row in reasons] == ["refused_by_database"]


async def test_deferred_constraints_are_checked(sync, warehouse) -> None:
    await warehouse.execute("""
        ALTER TABLE run_steps ADD CONSTRAINT one_a_model EXCLUDE (model WITH =) DEFERRABLE INITIALLY IMMEDIATE
    """)
    code, said = await sync()
    assert code == 0
    assert said["rejects"] > 0
    repeated = "SELECT count(*) - count(DISTINCT model) FROM run_steps WHERE model IS NOT NULL"
    assert await warehouse.fetchval(repeated) == 0


async def test_apps_and_workflows_known_only_by_id_have_null_columns(sync, at_work, warehouse) -> None:
    command, running = at_work
    config = command.folder / "config.yaml"
    workflow_id, runs = next(iter(running.world.runs.items()))
    next(iter(runs.values())).update(workflow_app_id="app_unknown")
    app_id = running.world.workflows[workflow_id]["app"]["id"]
    settings, _, _ = config.read_text().partition("apps:\n")
    config.write_text(f"{settings}apps: [{{id: {app_id}, workflows: [{workflow_id}]}}]\n")
    await sync("backfill")
    assert await warehouse.fetchval("SELECT count(*) FROM runs") == len(runs)
    (workflow,) = await warehouse.fetch("SELECT * FROM workflows")
    assert {name for name, value in workflow.items() if value is not None} == {"id"}
    apps = await warehouse.fetch("SELECT id, name, verified FROM apps")
    assert ("app_unknown", None, None) in [tuple(app) for app in apps]
    assert await warehouse.fetchval(ORPHANS) == 0


async def test_transactions_that_add_the_same_owners_do_not_deadlock(warehouse, database_url) -> None:
    connections = [await connect(database_url, "cortex") for _ in range(4)]
    ids = [f"id_{number}" for number in range(50)]

    async def add(connection: asyncpg.Connection, place: int) -> None:
        async with connection.transaction():
            await hold_owners(connection, random.Random(place).sample(ids, 40), random.Random(-place).sample(ids, 40))
            await asyncio.sleep(0.05)

    await asyncio.gather(*(add(connection, place) for place, connection in enumerate(connections)))
    for connection in connections:
        await connection.close()
    assert await warehouse.fetchval("SELECT count(*) FROM apps") > 40


async def test_owner_of_runs_being_loaded_cannot_be_deleted(warehouse, database_url) -> None:
    await add_owners(warehouse, "w", apps=["a"])
    other = await connect(database_url, "cortex")
    async with warehouse.transaction():
        await hold_owners(warehouse, ["a"], ["w"])
        for table in ("apps", "workflows"):
            with pytest.raises(asyncpg.LockNotAvailableError):
                await other.execute(f"SET lock_timeout = 100; DELETE FROM {table}")
    await other.close()
