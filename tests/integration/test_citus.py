"""The script for Citus: its text, its names compared with the catalogue, and the resulting schema.

There is no cluster: substitutes for Citus's two functions record their calls, and refuse tables that Citus refuses:
refuses, a table that has triggers or at which an undistributed one points.
"""

from __future__ import annotations

from datetime import UTC, datetime

import asyncpg
from postgres_fixtures import add_owners

from etl.db.citus import citus_script, foreign_keys
from etl.db.rollups import roll_up
from etl.tables import ENTITIES

STAND_INS = """
    CREATE TABLE public.placed (name text PRIMARY KEY, placement text);
    CREATE FUNCTION public.refuse(name text) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = name::regclass AND NOT tgisinternal) THEN
            RAISE 'cannot distribute relation "%" because it has triggers', name;
        END IF;
        IF EXISTS (SELECT FROM pg_constraint WHERE confrelid = name::regclass AND contype = 'f') THEN
            RAISE 'cannot distribute "%": a foreign key points at it', name;
        END IF;
    END $$;
    CREATE FUNCTION public.create_reference_table(name text) RETURNS void LANGUAGE sql AS $$
        SELECT public.refuse(name); INSERT INTO public.placed VALUES (name, 'everywhere') $$;
    CREATE FUNCTION public.create_distributed_table(name text, by text, colocate_with text DEFAULT 'default')
    RETURNS void LANGUAGE sql AS $$
        SELECT public.refuse(name); INSERT INTO public.placed VALUES (name, by || ' with ' || colocate_with) $$;
"""
KEYS = "SELECT conname, pg_get_constraintdef(oid) AS text FROM pg_constraint WHERE contype = 'f' AND connamespace = 'cortex'::regnamespace"


def test_citus_script_text() -> None:
    script = citus_script('my "warehouse"')
    assert 'SET LOCAL search_path TO "my ""warehouse""", public;' in script
    assert "SELECT create_distributed_table('runs', 'id');" in script
    for child in ("run_steps", "run_step_calls", "run_usage_calls"):
        assert f"SELECT create_distributed_table('{child}', 'run_id', colocate_with => 'runs');" in script
    assert "SELECT create_reference_table('workflow_versions');" in script
    assert (
        "ALTER TABLE run_step_calls ADD CONSTRAINT run_step_calls_step_fkey FOREIGN KEY (run_id, step_key) "
        "REFERENCES run_steps (run_id, step_key) ON DELETE CASCADE;"
    ) in script
    dropped, distributed, made = (script.index(part) for part in (" DROP CONSTRAINT ", "create_", " ADD CONSTRAINT "))
    assert dropped < distributed < made
    assert script.startswith("--")
    assert script.endswith("COMMIT;\n")


async def test_citus_script_names_match_the_catalog(warehouse: asyncpg.Connection) -> None:
    found = {row["conname"]: row["text"] for row in await warehouse.fetch(KEYS)}
    assert {key.name: key.definition.replace(" (", "(") for key in foreign_keys()} == {
        name: text.replace(" (", "(") for name, text in found.items()
    }
    tables = await warehouse.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'cortex'::regnamespace AND relkind = 'r'"
    )
    script = citus_script("cortex")
    spread = {row["relname"] for row in tables if f"_table('{row['relname']}'" in script}
    # Bookkeeping stays on the coordinator: each commit and claim would lock a replicated table.
    assert all(name.startswith(("etl_", "rollup_")) for name in {row["relname"] for row in tables} - spread)
    assert {table.name for table in ENTITIES} == spread


async def test_citus_script_runs_and_keeps_constraints(warehouse: asyncpg.Connection) -> None:
    await warehouse.execute(STAND_INS)
    await add_owners(warehouse, "w")
    insert = "INSERT INTO runs (id, workflow_id, created_at, own_credits) VALUES ($1, 'w', $2, 1)"
    await warehouse.execute(insert, "first", datetime(2026, 3, 1, tzinfo=UTC))
    await roll_up(warehouse, seconds=10)
    before = {tuple(row) for row in await warehouse.fetch(KEYS)}
    await warehouse.execute(citus_script("cortex"))
    assert {tuple(row) for row in await warehouse.fetch(KEYS)} == before
    rows: list = await warehouse.fetch("SELECT name, placement FROM public.placed")
    placed = dict(rows)
    assert placed["runs"] == "id with default"
    assert {name for name, how in placed.items() if how == "run_id with runs"} == {
        "run_steps", "run_step_calls", "run_usage_calls",
    }  # fmt: skip
    await warehouse.execute(insert, "second", datetime(2026, 3, 1, tzinfo=UTC))
    await roll_up(warehouse, seconds=10)
    assert await warehouse.fetchval("SELECT sum(runs) FROM workflow_health_daily") == 2
    assert await warehouse.fetchval("SELECT sum(credits) FROM credits_daily") == 2
