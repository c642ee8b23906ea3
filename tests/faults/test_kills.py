"""Promises 6 and 7: after a kill at any point, the next command recovers; signals stop a command."""

import asyncio
import signal

import pytest
from sync_trials import WORKFLOW, kill_at, one_stream, start, trial

from etl.api.retry import RetryPolicy
from etl.sandbox.faults import Status, page

PAGES, SIZE, WIDTH = 30, 4, 3


async def killed(t, folder, place, *arguments):
    pids = kill_at(t, place)
    process = await start(t, folder, *arguments)
    pids.append(process.pid)
    assert await process.end() == -signal.SIGKILL
    t.sandbox.faults.clear()


def new_runs(world):
    for _ in range(6):
        world.create_run(WORKFLOW)


def top_leaves(world):
    for run in world.listing(WORKFLOW)[:3]:
        world.delete_run(run["id"])


def some_leave(world):
    world.delete_run(world.listing(WORKFLOW)[len(world.runs[WORKFLOW]) // 2]["id"])


def both(world):
    new_runs(world)
    top_leaves(world)
    some_leave(world)


@pytest.mark.parametrize("order", ["created_desc", "updated_desc", "created_asc"])
async def test_killed_backfill_resumes(database_url, tmp_path, order):
    for place, meanwhile in ((9, None), (14, new_runs), (22, both)):
        world = one_stream(PAGES * SIZE)
        world.order = order
        async with trial(database_url, world) as t:
            t.api = {"page_size": SIZE, "concurrency": WIDTH}
            whole = (await t.run("backfill", dry_run=True)).requests
            await killed(t, tmp_path, place, "backfill")
            if meanwhile:
                meanwhile(world)
            summary = await t.agrees("backfill")
            # The pages in flight, the one on the boundary, the head and a second look at it, the end; where runs left,
            # pages that they may have slid up by, and a search for them.
            slack = WIDTH + 5 + (9 if meanwhile in (both, top_leaves) else 2 if meanwhile else 0)
            if not (meanwhile and order != "created_desc"):
                assert summary.requests <= whole - place + slack, (place, meanwhile, whole)
            assert await t.requests_of("sync") <= 3


@pytest.mark.parametrize("mode", ["sync", "backfill"])
async def test_open_runs_above_the_checkpoint_are_read_again(database_url, tmp_path, mode):
    world = one_stream(PAGES * SIZE)
    opened = world.create_run(WORKFLOW, status="RUNNING")["id"]
    for _ in range(3 * SIZE):  # so that it is on none of the pages that the resumed backfill reads first
        world.create_run(WORKFLOW)
    async with trial(database_url, world) as t:
        t.api = {"page_size": SIZE, "concurrency": WIDTH}
        await killed(t, tmp_path, 14, "backfill")
        assert await t.connection.fetchval("SELECT status FROM runs WHERE id = $1", opened) == "RUNNING"
        world.finish_run(opened)
        await t.agrees(mode)


async def test_reconcile_after_a_killed_backfill_compares_everything(database_url, tmp_path):
    world = one_stream(PAGES * SIZE)
    loaded = world.listing(WORKFLOW)[10]
    async with trial(database_url, world) as t:
        t.api = {"page_size": SIZE, "concurrency": WIDTH}
        await killed(t, tmp_path, 14, "backfill")
        assert await t.connection.fetchval("SELECT count(*) FROM runs WHERE id = $1", loaded["id"]) == 1
        loaded["error"] = "changed after it was loaded"
        await t.agrees("reconcile")


async def test_killed_backfill_of_an_unsorted_listing_is_complete(database_url, tmp_path):
    world = one_stream(40)
    world.order = "none"
    async with trial(database_url, world) as t:
        t.api = {"page_size": 7, "concurrency": 2}
        for place in (3, 5):
            await killed(t, tmp_path, place, "sync")
            both(world)
        await t.agrees("sync")


async def test_runs_loaded_by_a_killed_sync_do_not_end_the_next_one_early(database_url, tmp_path):
    """The first page was loaded, and as many runs were removed as created: page and count do not show the gap."""
    for order in ("created_desc", "updated_desc", "created_asc"):
        world = one_stream(40)
        world.order = order
        async with trial(database_url, world) as t:
            t.api = {"page_size": 5, "concurrency": 1}
            await t.agrees()
            for _ in range(17):
                world.create_run(WORKFLOW)
            await killed(t, tmp_path, 3, "sync")
            oldest = sorted(world.runs[WORKFLOW].values(), key=lambda run: run["created_at"])
            loaded = await t.connection.fetchval("SELECT count(*) FROM runs")
            for run in oldest[: len(world.runs[WORKFLOW]) - loaded]:
                world.delete_run(run["id"])
            await t.run()
            here = {row["id"] for row in await t.connection.fetch("SELECT id FROM runs")}
            assert set(world.runs[WORKFLOW]) - here == set(), order


async def test_killed_sync_is_marked_interrupted(database_url, tmp_path):
    async with trial(database_url, one_stream(30)) as t:
        t.api = {"page_size": 5}
        await killed(t, tmp_path, 3, "sync")
        assert await t.connection.fetchval("SELECT status FROM etl_syncs") == "running"
        await t.agrees()
        rows = await t.connection.fetch("SELECT status, ended_at FROM etl_syncs ORDER BY id")
        assert [row["status"] for row in rows] == ["interrupted", "succeeded"]
        assert all(row["ended_at"] for row in rows)


@pytest.mark.parametrize(
    ("moment", "number"),
    [("page", signal.SIGTERM), ("answer", signal.SIGTERM), ("pause", signal.SIGTERM), ("page", signal.SIGINT)],
)
async def test_stop_signal_ends_a_sync_soon(database_url, tmp_path, number, moment):
    async with trial(database_url, one_stream(60)) as t:
        t.api = {"page_size": 5, "concurrency": 2}
        pids = kill_at(t, 3, number=number)
        if moment == "answer":
            t.sandbox.faults.latency_s = 1
        if moment == "pause":
            t.sandbox.faults.on(page(3), Status(429, retry_after=600))
        process = await start(t, tmp_path, "sync")
        pids.append(process.pid)
        assert await process.end(within_s=20) == 130, process.err
        assert "Traceback" not in process.err
        ledger = await t.connection.fetchrow("SELECT status, runs_inserted, retries FROM etl_syncs")
        assert (ledger["status"], ledger["retries"]) == ("interrupted", 0), "a retry counts once it is sent"
        assert ledger["runs_inserted"] == await t.connection.fetchval("SELECT count(*) FROM runs")
        t.sandbox.faults.clear()
        await t.connection.execute("DELETE FROM etl_rate_budgets")  # the pause requested by the API
        await t.agrees()


async def test_interrupted_sync_sends_no_requests_while_its_commit_ends(database_url):
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'runs'::regclass"
    async with trial(database_url, one_stream(60)) as t:
        t.api = {"page_size": 5, "concurrency": 4}
        asked, locked = asyncio.Event(), asyncio.Event()

        async def hook(path, query, number):
            if query.get("page") == "2":
                asked.set()
                await locked.wait()

        t.sandbox.faults.before_response = hook
        t.sandbox.faults.on(page(3), Status(503))
        syncing = asyncio.create_task(t.run(policy=RetryPolicy(first_pause_s=0.5)))
        await asked.wait()
        async with t.connection.transaction():
            await t.connection.execute("LOCK TABLE runs IN SHARE MODE")
            locked.set()
            while not await t.connection.fetchval(waiting):
                await asyncio.sleep(0.01)
            syncing.cancel()
            await asyncio.sleep(0.05)
            sent = len(t.sandbox.requests)
            await asyncio.sleep(1)  # after 0.75 s at most, page 3 would be requested again
        assert (await syncing).status == "interrupted"
        assert t.sandbox.requests[sent:] == []


async def test_run_is_stored_completely_or_not_at_all(database_url, tmp_path):
    """After kills during commits, no run lacks its steps, and the watermark is not above missing runs."""
    world = one_stream(60)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 3, "concurrency": 4}
        for place in (4, 7):
            await killed(t, tmp_path, place, "sync")
            assert [each for each in await t.differences() if not each.startswith("missing")] == []
            assert await t.connection.fetchval("SELECT max(watermark) FROM etl_streams") is None
        await t.agrees()
        assert await t.connection.fetchval("SELECT watermark FROM etl_streams") == await t.connection.fetchval(
            "SELECT max(updated_at) FROM runs"
        )
