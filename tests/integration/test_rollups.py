"""The views always match plain queries over the tables (`plain_views.sql`), whatever is written and rolled up."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from postgres_fixtures import add_owners

from etl.db.connect import connect
from etl.db.refusals import LOST
from etl.db.rollups import roll_up

NOW_DEPENDENT = {"lag_s", "age_s"}
PLAIN = (Path(__file__).parents[1] / "support" / "plain_views.sql").read_text(encoding="utf-8")
VIEWS = (
    "run_facts", "step_facts", "workflow_health_daily", "credits_daily", "step_performance", "model_usage_daily",
    "recent_failures", "failure_groups", "open_runs", "run_tree", "sync_health",
)  # fmt: skip
START = datetime(2026, 3, 1, 22, tzinfo=UTC)
COLUMNS = (
    "workflow_app_id", "app_id", "stream_app_id", "workflow_id", "status", "origin", "created_at", "started_at", "ended_at",
    "credits", "own_credits", "gone_at", "error", "version", "erased_at",
)  # fmt: skip


async def make_plain_views(warehouse: asyncpg.Connection, *workflows: str) -> None:
    """Create the plain views as plain_NAME, and the workflows for the test."""
    await warehouse.execute(PLAIN)
    await add_owners(warehouse, *workflows)


async def differences(warehouse: asyncpg.Connection) -> list[str]:
    found = []
    for view in VIEWS:
        attributes = (await warehouse.prepare(f"SELECT * FROM plain_{view}")).get_attributes()
        columns = ", ".join(each.name for each in attributes if each.name not in NOW_DEPENDENT)
        for one, other in ((view, f"plain_{view}"), (f"plain_{view}", view)):
            rows = await warehouse.fetch(f"SELECT {columns} FROM {one} EXCEPT ALL SELECT {columns} FROM {other}")
            found += [f"only in {one}: {dict(row)}" for row in rows]
    return found


class Writer:
    """Writes runs at random, as loading, reconciling and erasing do."""

    def __init__(self, warehouse: asyncpg.Connection, seed: int) -> None:
        self.warehouse = warehouse
        self.chance = random.Random(seed)
        self.ids: list[str] = []

    def row(self) -> tuple[Any, ...]:
        chance = self.chance
        created = None if chance.random() < 0.1 else START + timedelta(hours=chance.randrange(100))
        workflow = None if chance.random() < 0.1 else chance.choice("uvw")
        ended = None if chance.random() < 0.2 else START + timedelta(seconds=chance.randrange(500))
        credits_used = None if chance.random() < 0.2 else chance.randrange(1, 10**6) / 10**6
        own_credits = credits_used and chance.choice([credits_used, credits_used - 0.25, 1e-13])
        return (
            chance.choice(["a", "b", None]), chance.choice(["a", "b", None]), chance.choice(["a", "b"]), workflow,
            chance.choice(["COMPLETED", "FAILED", "RUNNING", "NEW", None]), chance.choice(["TEST", None]),
            created, START, ended, credits_used, own_credits, chance.choice([None, START]),
            chance.choice(["code 17", 'no "such" thing', None]), chance.choice([1, 2, None]), chance.choice([None, None, START]),
        )  # fmt: skip

    async def insert(self) -> None:
        many = [f"r{len(self.ids) + place}" for place in range(self.chance.randrange(1, 6))]
        self.ids += many
        async with self.warehouse.transaction():
            records = [(ident, *self.row()) for ident in many]
            await self.warehouse.copy_records_to_table(
                "runs", columns=["id", *COLUMNS], records=records, schema_name="cortex"
            )
            for ident in many:
                await self.children(ident)

    async def replace(self) -> None:
        if not (ident := await self.any_run()):
            return
        async with self.warehouse.transaction():
            await self.warehouse.execute(
                f"UPDATE runs SET ({', '.join(COLUMNS)}) = ({', '.join(f'${n + 2}' for n in range(len(COLUMNS)))})"
                " WHERE id = $1",
                ident, *self.row(),
            )  # fmt: skip
            await self.warehouse.execute("DELETE FROM run_steps WHERE run_id = $1", ident)
            await self.warehouse.execute("DELETE FROM child_runs WHERE parent_run_id = $1", ident)
            await self.children(ident)

    async def delete(self) -> None:
        await self.warehouse.execute("DELETE FROM runs WHERE id = $1", await self.any_run())

    async def gone(self) -> None:
        await self.warehouse.execute("UPDATE runs SET gone_at = now() WHERE id = $1", await self.any_run())

    async def truncate(self) -> None:
        if self.chance.random() < 0.1:
            await self.warehouse.execute("TRUNCATE runs CASCADE")

    async def roll_up(self) -> None:
        await roll_up(self.warehouse, seconds=self.chance.choice([0, inf]))

    async def any_run(self) -> str | None:
        return await self.warehouse.fetchval("SELECT id FROM runs ORDER BY md5(id || $1) LIMIT 1", str(len(self.ids)))

    async def children(self, ident: str) -> None:
        for place in range(self.chance.randrange(4)):
            loops = self.chance.random() < 0.3
            model = None if loops else self.chance.choice(["large", "small", None])
            await self.warehouse.execute(
                "INSERT INTO run_steps (run_id, step_key, ordinal, type, status, started_at, ended_at, provider, model,"
                " looped, credits, child_credits, error, input_tokens)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
                ident, f"s{place}", place, self.chance.choice(["model", "model", "code", None]),
                self.chance.choice(["COMPLETED", "FAILED", None]), self.chance.choice([None, START]),
                self.chance.choice([None, START + timedelta(milliseconds=self.chance.randrange(9000))]),
                model and "openai", model, loops, self.chance.choice([None, 0.25]), self.chance.choice([None, 0.125]),
                self.chance.choice([None, "step 5"]), None if loops else self.chance.choice([None, 2**62]),
            )  # fmt: skip
            for number in range(self.chance.randrange(3) if loops else 0):
                await self.warehouse.execute(
                    "INSERT INTO run_step_calls (run_id, step_key, ordinal, key, type, status, provider, model, output_tokens)"
                    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                    ident, f"s{place}", number, self.chance.choice([f"s{place}", "tool"]),
                    self.chance.choice(["model", "code", None]), self.chance.choice(["COMPLETED", "FAILED"]),
                    "openai", self.chance.choice(["large", "small", None]), self.chance.choice([None, 2**62]),
                )  # fmt: skip
            if self.chance.random() < 0.3:
                child = self.chance.choice([*self.ids, "elsewhere"])
                await self.warehouse.execute("INSERT INTO child_runs VALUES ($1, $2, $3)", ident, f"s{place}", child)


@pytest.mark.parametrize("seed", range(6))
async def test_views_match_the_runs_after_any_write(warehouse: asyncpg.Connection, seed: int) -> None:
    await make_plain_views(warehouse, *"uvw")
    await add_owners(warehouse, apps=["a", "b"])
    await warehouse.execute("INSERT INTO etl_streams (app_id, workflow_id) SELECT a, w FROM unnest('{a,b}'::text[]) a, "
                            "unnest('{u,v,w}'::text[]) w")  # fmt: skip
    writer = Writer(warehouse, seed)
    weights = {"insert": 6, "replace": 4, "delete": 1, "gone": 2, "truncate": 1, "roll_up": 6}
    for _ in range(40):
        (action,) = writer.chance.choices(list(weights), list(weights.values()))
        await getattr(writer, action)()
        assert await differences(warehouse) == [], action
    await roll_up(warehouse, seconds=inf)
    assert await differences(warehouse) == []
    assert await warehouse.fetchval("SELECT count(*) FROM etl_changed_days") == 0
    dated = await warehouse.fetchval(
        "SELECT count(*) FROM runs WHERE created_at IS NOT NULL AND workflow_id IS NOT NULL"
    )
    assert await warehouse.fetchval("SELECT coalesce(sum(runs), 0) FROM rollup_health") == dated


async def test_views_work_in_a_renamed_schema(warehouse: asyncpg.Connection) -> None:
    await add_owners(warehouse, "w")
    await warehouse.execute('ALTER SCHEMA cortex RENAME TO "Old ""cortex"""; SET search_path TO pg_catalog')
    kept = '"Old ""cortex""".'
    counted = f"SELECT sum(runs)::integer, sum(failed)::integer FROM {kept}workflow_health_daily"
    insert = (
        f"INSERT INTO {kept}runs (id, workflow_id, created_at) SELECT n::text, 'w', $1 FROM generate_series(1, 3) AS n"
    )

    async def roll_up_there() -> None:
        await warehouse.execute("SELECT set_config('search_path', $1, false)", kept.rstrip("."))
        assert await roll_up(warehouse, seconds=inf) == 1
        await warehouse.execute("SET search_path TO pg_catalog")

    await warehouse.execute(insert, START)
    await roll_up_there()
    for statement, expected in (
        (f"UPDATE {kept}runs SET status = 'FAILED' WHERE id = '1'", (3, 1)),
        (f"DELETE FROM {kept}runs WHERE id = '2'", (2, 1)),
    ):
        await warehouse.execute(statement)
        assert tuple(await warehouse.fetchrow(counted)) == expected
        await roll_up_there()
        assert tuple(await warehouse.fetchrow(counted)) == expected
    await warehouse.execute(f"TRUNCATE {kept}runs CASCADE")
    assert tuple(await warehouse.fetchrow(counted)) == (None, None)
    assert await warehouse.fetchval(f"SELECT count(*) FROM {kept}rollup_health") == 0


async def test_changes_during_a_rollup_are_rolled_up_next_time(
    warehouse: asyncpg.Connection, database_url: str
) -> None:
    await make_plain_views(warehouse, "w")
    other = await connect(database_url, "cortex")
    insert = "INSERT INTO runs (id, workflow_id, created_at, credits) VALUES ($1, 'w', $2, 1)"
    await warehouse.execute(insert, "first", START)
    under_way = other.transaction()
    await under_way.start()
    await other.execute(insert, "second", START)
    assert await roll_up(warehouse, seconds=inf) == 1
    await under_way.commit()
    assert await differences(warehouse) == []
    assert await warehouse.fetchval("SELECT sum(runs) FROM workflow_health_daily") == 2
    assert await roll_up(other, seconds=inf) == 1
    assert await differences(warehouse) == []
    assert await warehouse.fetchval("SELECT runs FROM rollup_health") == 2
    await other.close()


async def test_one_process_rolls_up_at_a_time_within_its_limit(
    warehouse: asyncpg.Connection, database_url: str
) -> None:
    await add_owners(warehouse, "w")
    insert = "INSERT INTO runs (id, workflow_id, created_at) VALUES ($1, 'w', $2)"
    for place in range(3):
        await warehouse.execute(insert, f"r{place}", START + timedelta(days=place))
    assert await roll_up(warehouse, seconds=0) == 1
    assert await warehouse.fetchval("SELECT day FROM rollup_health") == (START + timedelta(days=2)).date()
    other = await connect(database_url, "cortex")
    await other.execute("SELECT pg_advisory_lock(lock_key('rollups'))")
    assert await roll_up(warehouse, seconds=inf) == 0
    await other.close()
    assert await roll_up(warehouse, seconds=inf) == 2


async def test_days_are_rolled_up_once_over_several_connections(
    warehouse: asyncpg.Connection, database_url: str
) -> None:
    await make_plain_views(warehouse, "w")
    other, lost = await connect(database_url, "cortex"), await connect(database_url, "cortex")
    await warehouse.execute("SELECT pg_terminate_backend($1)", lost.get_server_pid())
    days = 12
    for more in ((other,), (lost,)):
        await warehouse.execute("TRUNCATE runs CASCADE")
        for place in range(3 * days):
            await warehouse.execute(
                "INSERT INTO runs (id, workflow_id, created_at, credits) VALUES ($1, 'w', $2, 1)",
                f"r{place}", START + timedelta(days=place % days),
            )  # fmt: skip
        if lost in more:
            with pytest.raises(LOST):
                await roll_up(warehouse, lost, seconds=inf)
        assert await roll_up(warehouse, other, seconds=inf) == (1 if lost in more else days)
        assert await differences(warehouse) == []
        assert await other.fetchval("SELECT count(*) FROM rollup_health WHERE runs = 3") == days
    lost.terminate()
    await other.close()


async def test_large_day_is_divided_among_connections(warehouse: asyncpg.Connection, database_url: str) -> None:
    await make_plain_views(warehouse, "w0", "w1", "w2")
    other = await connect(database_url, "cortex")
    insert = (
        "INSERT INTO runs (id, workflow_id, created_at, credits)"
        " SELECT $1 || n, 'w' || n % 3, $2::timestamptz, 1 FROM generate_series(1, $3::integer) AS n"
    )
    await warehouse.execute(insert, "many-", START, 6000)
    await warehouse.execute(insert, "few-", START + timedelta(days=1), 3)
    assert await roll_up(warehouse, other, seconds=inf) == 3
    assert await differences(warehouse) == []
    assert await warehouse.fetchval("SELECT count(*) FROM etl_changed_days") == 0
    kept = "SELECT workflow_id, sum(runs)::integer AS runs, count(*) FROM rollup_health GROUP BY 1 ORDER BY 1"
    assert [tuple(row) for row in await warehouse.fetch(kept)] == [("w0", 2001, 2), ("w1", 2001, 2), ("w2", 2001, 2)]
    await other.close()


async def test_rollup_uses_indexes(warehouse: asyncpg.Connection, database_url: str) -> None:
    """A scan of all runs would take twice as long, and longer in larger warehouses."""
    read = "SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname IN ('runs', 'run_steps')"
    loading = await connect(database_url, "cortex")
    await loading.execute("""
        INSERT INTO workflows (id) SELECT 'w' || n FROM generate_series(0, 3) AS n;
        INSERT INTO runs (id, app_id, stream_app_id, workflow_id, status, created_at)
        SELECT 'run' || n, 'app', 'app', 'w' || n % 4, 'COMPLETED', '2026-03-01Z' FROM generate_series(1, 4000) AS n;
        INSERT INTO run_steps (run_id, step_key, ordinal) SELECT id, 'a', 0 FROM runs;
        DELETE FROM etl_changed_days WHERE workflow_id <> 'w1';
        ANALYZE
    """)
    await loading.close()  # flushes the server's statistics
    before = await warehouse.fetchval(read)
    counting = await connect(database_url, "cortex")
    assert await roll_up(counting, seconds=inf) == 1
    await counting.close()
    await asyncio.sleep(0.5)  # PostgreSQL 14 takes its time
    assert before == await warehouse.fetchval(read) > 0


async def test_large_day_waits_for_enough_changes_or_an_hour(
    warehouse: asyncpg.Connection,
) -> None:
    await make_plain_views(warehouse, "w")
    insert = (
        "INSERT INTO runs (id, workflow_id, created_at, credits)"
        " SELECT $1 || n, 'w', $2::timestamptz, 1 FROM generate_series(1, $3::integer) AS n"
    )
    await warehouse.execute(insert, "first-", START, 6000)
    assert await roll_up(warehouse, seconds=inf) == 1
    await warehouse.execute(insert, "few-", START, 10)
    assert await roll_up(warehouse, seconds=inf) == 0
    assert await differences(warehouse) == []
    await warehouse.execute("UPDATE etl_changed_days SET noted_at = noted_at - interval '61 minutes'")
    assert await roll_up(warehouse, seconds=inf) == 1
    await warehouse.execute(insert, "many-", START, 300)
    assert await roll_up(warehouse, seconds=inf) == 1
    assert await differences(warehouse) == []
