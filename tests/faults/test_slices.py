"""Promises 1 to 3: a reconcile of many requests is spread over several syncs, and finds the same."""

import signal
from datetime import timedelta

import pytest
from sync_trials import WORKFLOW, kill_at, one_stream, start, trial, workflows

from etl.app import make_plan
from etl.sandbox.faults import Status

RUNS, SIZE = 200, 10


def share_of(pages):
    """Return the settings for a share of so many requests."""
    return {"reconcile_share": pages / (100_000 * 60)}


def big_stream(order="created_desc"):
    world = one_stream()
    world.order = order
    for hour in range(RUNS):
        moment = (world.now - timedelta(hours=RUNS - hour)).isoformat()
        world.create_run(WORKFLOW, created_at=moment, updated_at=moment)
    return world


async def let_time_pass(t, column="last_reconciled_at", hours=25):
    await t.connection.execute(f"UPDATE etl_streams SET {column} = {column} - interval '1 hour' * $1", hours)


async def state_of(t):
    columns = "last_reconciled_at, reconcile_began_at, reconciled_since"
    return tuple(await t.connection.fetchrow(f"SELECT {columns} FROM etl_streams"))


async def test_a_reconcile_in_slices_finds_what_changed_and_delays_no_new_run(database_url, tmp_path):
    world = big_stream()
    async with trial(database_url, world) as t:
        t.api, t.sync = {"page_size": SIZE, "concurrency": 2}, share_of(5)
        everything = await t.requests_of()
        last, *_ = await state_of(t)
        await let_time_pass(t)
        for run in world.listing(WORKFLOW)[7::20]:
            run["error"] = "changed without another trace"
        planned = (await make_plan(t.settings)).streams[0]
        assert (planned.work, planned.reconcile_left, planned.requests) == ("reconcile", RUNS // SIZE + 1, 6)
        sinces, stale = [], [10]
        while (await state_of(t))[0] < last:
            new = world.create_run(WORKFLOW)["id"]
            world.delete_run(world.listing(WORKFLOW)[150]["id"])
            if len(sinces) == 2:
                before = await state_of(t)
                pids = kill_at(t, 7)
                process = await start(t, tmp_path, "sync")
                pids.append(process.pid)
                assert await process.end() == -signal.SIGKILL
                t.sandbox.faults.clear()
                assert await state_of(t) == before
            assert await t.requests_of() < everything, "the head, a search for the start, 5 pages, one that is gone"
            assert await t.connection.fetchval("SELECT count(*) FROM runs WHERE id = $1", new) == 1
            sinces.append((await state_of(t))[2])
            stale.append(len(await t.differences()))
        assert 4 <= len(sinces) <= 6
        assert sinces[:-1] == sorted(sinces[:-1], reverse=True)
        assert stale == sorted(stale, reverse=True)
        assert stale[2] > stale[-1] == 0
        assert (await state_of(t))[1:] == (None, None)
        assert await t.requests_of() == 1


async def test_a_late_reconcile_takes_what_it_needs_and_says_so(database_url):
    world = big_stream()
    async with trial(database_url, world) as t:
        t.api, t.sync = {"page_size": SIZE}, share_of(5)
        everything = await t.requests_of()
        await let_time_pass(t)
        await t.agrees()
        assert await t.connection.fetchval("SELECT hint FROM sync_health") is None
        await let_time_pass(t, "reconcile_began_at")
        world.listing(WORKFLOW)[-3]["error"] = "changed without another trace"
        began = (await state_of(t))[1]
        await t.agrees()
        assert await state_of(t) == (began, None, None), "the next one is due at once"
        hint = await t.connection.fetchval("SELECT hint FROM sync_health")
        assert hint.startswith("To finish in time, its reconcile read 16 pages in this sync, more than")
        await t.agrees()
        assert (await state_of(t))[1] is not None
        assert await t.requests_of("reconcile") <= everything
        assert (await state_of(t))[1:] == (None, None)
        assert await t.requests_of() == 1
        assert await t.connection.fetchval("SELECT hint FROM sync_health") is None


async def test_a_doubtful_slice_is_read_again(database_url):
    world = big_stream()
    async with trial(database_url, world) as t:
        t.api, t.sync = {"page_size": SIZE}, share_of(5)
        await t.agrees()
        await let_time_pass(t)
        await t.agrees()
        before = await state_of(t)
        stale = world.listing(WORKFLOW)[60]
        stale |= {"error": "an old copy", "updated_at": "2020-01-01T00:00:00Z"}
        t.sandbox.faults.on(lambda request: request.path.endswith(stale["id"]), Status(500))
        summary = await t.run()
        assert (summary.status, summary.streams[0].hint) == (
            "partial",
            f"Run: cortex-etl reconcile --workflow {WORKFLOW}",
        )
        assert await state_of(t) == before
        t.sandbox.faults.clear()
        await t.agrees()
        assert (await state_of(t))[2] < before[2]


@pytest.mark.parametrize("what", ["created_asc", "updated_desc", "none", "no counts", "filter", "no time"])
async def test_a_listing_without_slices_is_read_as_a_whole(database_url, what):
    world = big_stream(what if what in ("created_asc", "updated_desc", "none") else "created_desc")
    async with trial(database_url, world) as t:
        t.api, t.sync = {"page_size": SIZE}, share_of(5)
        t.sandbox.faults.no_paging_headers = what == "no counts"
        if what == "filter":
            t.api["origin"] = world.listing(WORKFLOW)[0]["origin"]
        if what == "updated_desc":  # a listing by creation looks the same until a run changes
            world.replay_run(world.listing(WORKFLOW)[RUNS - 9]["id"])
        if what == "no time":
            undated = world.create_run(WORKFLOW, created_at=None)
        assert (await t.run()).status == "succeeded"
        await let_time_pass(t)
        changed = undated if what == "no time" else world.listing(WORKFLOW)[RUNS // 2]
        changed["error"] = "changed without another trace"
        assert (await t.run()).status == "succeeded"
        assert what == "filter" or await t.differences() == []
        assert (await state_of(t))[1:] == (None, None)
        assert await t.connection.fetchval("SELECT now() - last_reconciled_at < '1 hour' FROM etl_streams")


async def test_streams_wait_for_the_share_of_the_next_sync(database_url):
    world = workflows(3)
    async with trial(database_url, world) as t:
        t.api, t.sync = {"page_size": SIZE, "concurrency": 1}, share_of(4)
        await t.agrees()
        await let_time_pass(t)
        for left in (2, 1, 0):
            await t.agrees()
            due = "SELECT count(*) FROM etl_streams WHERE last_reconciled_at < now() - interval '24 hours'"
            assert await t.connection.fetchval(due) == left
        await let_time_pass(t, hours=72)
        t.sync["reconcile_share"] = 0
        await t.agrees()
        assert await t.connection.fetchval(due) == 0, "late ones are reconciled all the same"
