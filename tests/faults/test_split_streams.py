"""A large stream that several processes read in slices (setting `engine.split_pages`)."""

import asyncio
import os
import random
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from sync_trials import SCHEMA, WORKFLOW, Stir, one_stream, start, trial

from etl.db.batch import Batch
from etl.db.connect import connect
from etl.db.session import StreamState
from etl.db.store import Store
from etl.errors import LockLostError
from etl.events import StreamId

RUNS = 300
VOLATILE = ("_synced_at", "_seen_at", "_error_at", "succeeded_at", "reconciled_at", "counts_at", "run_bytes", "fence")
TABLES = "SELECT table_name, column_name FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name) WHERE table_schema = 'cortex' AND table_type = 'BASE TABLE'"
CLAIMED = "SELECT claimed_by FROM etl_queue WHERE fence IS NOT NULL AND outcomes IS NULL AND claimed_by IS NOT NULL"
RUNNING_SLICES = """SELECT place, claimed_by FROM etl_queue JOIN etl_syncs ON id = sync_id AND status = 'running'
WHERE fence IS NOT NULL AND claimed_by <> ''"""
OPEN_SLICES = "SELECT place FROM etl_queue WHERE fence IS NOT NULL AND outcomes IS NULL AND claimed_by = $1"
END_SESSION = """SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND (classid::bigint << 32 | objid::bigint) = hashtextextended($1, 0)"""


def big():
    """A stream with up to 9 runs per creation time; some times are only a day, and some runs changed late."""
    world, chance, moment = one_stream(), random.Random(1), None
    for _ in range(RUNS):
        made = world.create_run(WORKFLOW, **({} if moment is None else {"created_at": moment}))
        moment = made["created_at"] if chance.random() < 0.8 else None
        if moment is None:
            world.now += timedelta(hours=4)
        elif chance.random() < 0.2:
            made["created_at"] = made["created_at"][:10]
    for run_id in list(world.runs[WORKFLOW])[::7]:
        world.replay_run(run_id)
    return world


def spread(t, **engine):
    t.api = {"page_size": 5, "concurrency": 2}
    t.engine = {"kind": "processes", "workers": 2, "split_pages": 8} | engine


async def tables(t):
    """Return the rows of all tables, without values that differ between any two syncs."""
    names = {}
    for table, column in await t.connection.fetch(TABLES):
        if not column.endswith(VOLATILE) and table not in {
            "etl_syncs",
            "etl_shared_syncs",
            "etl_queue",
            "etl_migrations",
            "etl_rate_budgets",
        }:
            names.setdefault(table, []).append(column)
    found = {}
    for table, columns in names.items():
        listed = ", ".join(f'"{column}"' for column in sorted(columns))
        found[table] = sorted(str(tuple(row)) for row in await t.connection.fetch(f"SELECT {listed} FROM {table}"))
    return found


async def until(t, statement, at_least=1):
    async with asyncio.timeout(60):
        while len(found := await t.connection.fetch(statement)) < at_least:
            await asyncio.sleep(0.02)
    return found


async def together(t, mode):
    """Run copies of a command in this process; return the result and the number of slices that each has claimed."""
    claimed, copies = {}, [asyncio.create_task(t.run(mode, join="slices")) for _ in range(2)]
    while not all(copy.done() for copy in copies):
        for row in await t.connection.fetch(RUNNING_SLICES):
            claimed[row["place"]] = row["claimed_by"]
        await asyncio.sleep(0.01)
    both = [copy.result() for copy in copies]
    assert both[0].as_dict() | {"seconds": 0} == both[1].as_dict() | {"seconds": 0}
    return both[0], Counter(claimed.values())


async def test_split_stream_equals_an_unsplit_one(database_url):
    world = big()
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5}
        alone = await t.agrees("backfill")
        expected = await tables(t)
    async with trial(database_url, world) as t:
        spread(t)
        t.sandbox.faults.latency_s = 0.01
        summary, claimed = await together(t, "backfill")
        assert sum(claimed.values()) > 5
        assert len(claimed) == 2
        assert await t.differences() == []
        for table, rows in (await tables(t)).items():
            assert rows == expected[table], table
        same = {"seconds": 0, "requests": 0, "pages": 0} | dict.fromkeys(("id", "started_at", "ended_at"))
        assert summary.as_dict() | same == alone.as_dict() | same
        assert summary.requests == len(t.sandbox.requests) < 1.5 * alone.requests


async def test_split_stream_that_moves_is_complete(database_url):
    world = big()
    async with trial(database_url, world) as t:
        spread(t)
        t.sandbox.faults.before_response = stir = Stir(world, "mixture", times=60)
        summary, _ = await together(t, "sync")
        assert (summary.status, stir.left) == ("succeeded", 0)
        assert [each for each in await t.differences() if not each.startswith("stale")] == []
        for run_id in [*list(world.runs[WORKFLOW])[:30:3], *list(world.runs[WORKFLOW])[100:130]]:
            world.delete_run(run_id)
        stir.left = 60
        summary, _ = await together(t, "reconcile")
        assert (summary.status, stir.left) == ("succeeded", 0)
        assert summary.runs_gone >= 40
        summary, claimed = await together(t, "reconcile")
        assert (summary.status, len(claimed) > 0) == ("succeeded", True)
        assert await t.differences() == []


@pytest.mark.parametrize("how", ["undated", "other order", "changes order"])
async def test_stream_that_cannot_be_split_is_read_as_a_whole(database_url, how):
    world = big()
    async with trial(database_url, world) as t:
        spread(t)
        if how == "undated":
            for run_id in list(world.runs[WORKFLOW])[90:95]:
                world.runs[WORKFLOW][run_id]["created_at"] = None
        elif how == "other order":
            world.order = "updated_desc"
        else:
            t.sandbox.faults.before_response = lambda path, query, number: setattr(
                world, "order", "created_desc" if number < 40 else "none"
            )
        await together(t, "backfill")
        await t.agrees("reconcile")


async def reading(t, tmp_path):
    """Start a command whose two workers each read a slice; return it, the worker that split the stream, and the other."""
    spread(t)
    t.sandbox.faults.latency_s = 0.05
    caller = await start(t, tmp_path, "sync", "--json")
    claimed = {row["claimed_by"] for row in await until(t, CLAIMED, 2)}
    holder = await t.connection.fetchval("SELECT claimed_by FROM etl_queue WHERE fence IS NULL")
    (other,) = claimed - {holder}
    return caller, holder, other


def signal_to(worker, number):
    os.kill(int(worker.split()[1]), number)


async def test_another_process_takes_over_a_split_stream(database_url, tmp_path):
    async with trial(database_url, big()) as t:
        caller, holder, _ = await reading(t, tmp_path)
        signal_to(holder, signal.SIGKILL)
        assert await caller.end() == 0, caller.err
        assert await t.differences() == []
        assert await t.connection.fetchval("SELECT fence FROM etl_streams") == 2


async def test_frozen_process_commits_nothing_to_a_slice_that_another_reads(database_url, tmp_path):
    async with trial(database_url, big()) as t:
        caller, _, other = await reading(t, tmp_path)
        places = [row["place"] for row in await t.connection.fetch(OPEN_SLICES, other)]
        signal_to(other, signal.SIGSTOP)
        await t.connection.execute(END_SESSION, f"cortex\nworker\n{other}")
        async with asyncio.timeout(60):
            while await t.connection.fetch("SELECT FROM etl_queue WHERE fence IS NOT NULL AND outcomes IS NULL"):
                await asyncio.sleep(0.05)
        readers = await t.connection.fetch("SELECT claimed_by FROM etl_queue WHERE place = ANY ($1)", places)
        assert places
        assert other not in {row["claimed_by"] for row in readers}
        before = await t.connection.fetch("SELECT id, xmin FROM runs ORDER BY id")
        signal_to(other, signal.SIGCONT)
        assert await caller.end() == 0, caller.err
        assert await t.connection.fetch("SELECT id, xmin FROM runs ORDER BY id") == before
        assert await t.differences() == []


@pytest.mark.parametrize("copies", [1, 2])
async def test_interrupted_slices_are_counted_and_read_by_the_next_command(database_url, tmp_path, copies):
    cursor = "SELECT jsonb_array_length(backfill_cursor -> 'slices') FROM etl_streams"
    async with trial(database_url, big()) as t:
        caller, *_ = await reading(t, tmp_path)
        total = await t.connection.fetchval("SELECT count(*) FROM etl_queue WHERE fence IS NOT NULL")
        async with asyncio.timeout(60):
            while (await t.connection.fetchval(cursor) or total) == total:
                await asyncio.sleep(0.02)
        caller.signal(signal.SIGINT)
        assert await caller.end() == 130, caller.err
        runs = await t.connection.fetchval("SELECT count(*) FROM runs")
        assert (caller.json["runs_inserted"], caller.json["requests"]) == (runs, len(t.sandbox.requests))
        left = await t.connection.fetchval(cursor)
        t.sandbox.faults.latency_s = 0.01
        if copies == 2:
            summary, claimed = await together(t, "sync")
            assert sum(claimed.values()) == left
        else:
            t.engine = {}
            summary = await t.run()
        assert summary.status == "succeeded"
        assert summary.runs_seen < RUNS, "the runs of a finished slice are not read again"
        assert await t.differences() == []


async def test_commit_needs_the_claim_of_its_slice_and_waits_for_no_other(database_url):
    async with trial(database_url, one_stream()) as t:
        await t.connection.execute("INSERT INTO etl_streams (app_id, workflow_id, fence) VALUES ('a', 'w', 7)")
        await t.connection.execute(
            "INSERT INTO etl_queue (sync_id, place, workflow_id, app_ids, fence, claimed_by)"
            " SELECT 1, place, 'w', '{a}', 7, 'me' FROM generate_series(2, 3) AS place"
        )
        state = StreamState(datetime.now(UTC), fence=7)
        first, second = (
            Store(None, None, StreamId("a", "w"), state, sync_id=1, claim=(1, place, "me")) for place in (2, 3)
        )
        other = await connect(database_url, SCHEMA)
        try:
            await other.execute("SET lock_timeout = '5s'")
            async with t.connection.transaction():
                await first._hold(t.connection, Batch())
                await second.commit(other, Batch())
        finally:
            await other.close()
        for change in ("claimed_by = 'other'", "claimed_by = 'me', outcomes = '{}'", "outcomes = NULL, fence = 8"):
            await t.connection.execute(f"UPDATE etl_queue SET {change}")
            with pytest.raises(LockLostError):
                await first.commit(t.connection, Batch())
