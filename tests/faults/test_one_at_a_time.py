"""Promises 9 and 15: one process per stream, and a process that lost its lock writes nothing."""

import asyncio
import os
import signal
from contextlib import nullcontext
from typing import Any

import pytest
from sync_trials import SCHEMA, WORKFLOW, one_stream, start, trial

from etl.db.batch import Batch
from etl.db.connect import create_pool
from etl.db.session import Session
from etl.db.store import Store
from etl.errors import LockLostError
from etl.events import StreamId
from etl.plan.window import Reconciled
from etl.sandbox import World
from etl.sandbox.faults import Status


def hold_at(t, place):
    """Block the `place`th request for runs; return the event that it waits, and the event that releases it."""
    waits, go_on, asked = asyncio.Event(), asyncio.Event(), []

    async def hook(path, query, number):
        if path.endswith("/runs"):
            asked.append(number)
            if len(asked) == place:
                waits.set()
                await go_on.wait()

    t.sandbox.faults.before_response = hook
    return waits, go_on


async def test_second_invocation_skips_locked_streams(database_url, tmp_path):
    async with trial(database_url, one_stream(30)) as t:
        t.api = {"page_size": 5, "concurrency": 1}
        waits, go_on = hold_at(t, 3)
        first = await start(t, tmp_path, "sync")
        await asyncio.wait_for(waits.wait(), 30)
        second = await start(t, tmp_path, "sync", "--json")
        assert await second.end() == 75, second.err
        go_on.set()
        assert await first.end() == 0, first.err
        rows = await t.connection.fetch("SELECT status FROM etl_syncs ORDER BY id")
        assert [row["status"] for row in rows] == ["succeeded", "skipped"]
        assert await t.differences() == []


async def test_unlocked_streams_are_synced(database_url):
    world = World(1)
    for each in ("wf_1", "wf_2"):
        world.add_workflow("app_1", each)
        world.create_run(each)
    async with trial(database_url, world) as t:
        session = await Session.open(t.url, SCHEMA)
        assert await session.lock(StreamId("app_1", "wf_1")) is not None
        summary = await t.run()
        assert (summary.status, summary.exit_code) == ("partial", 75)
        assert {each.workflow_id: each.status for each in summary.streams} == {"wf_1": "skipped", "wf_2": "succeeded"}
        await session.close()
        await t.agrees()


async def test_lock_ends_with_its_process(database_url, tmp_path):
    async with trial(database_url, one_stream(20)) as t:
        t.api = {"page_size": 5, "concurrency": 1}
        waits, go_on = hold_at(t, 2)
        first = await start(t, tmp_path, "sync")
        await asyncio.wait_for(waits.wait(), 30)
        first.signal(signal.SIGKILL)
        go_on.set()
        await t.agrees()  # immediately, without a delay until the server notices
        await first.end()


async def test_suspended_process_writes_nothing(database_url, tmp_path):
    """A process is suspended, loses its lock, and resumes after another one has locked the stream."""
    world = one_stream(30)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5, "concurrency": 1}
        waits, go_on = hold_at(t, 4)
        suspended = await start(t, tmp_path, "sync")
        await asyncio.wait_for(waits.wait(), 30)
        os.kill(suspended.pid, signal.SIGSTOP)
        go_on.set()
        t.sandbox.faults.clear()
        await t.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'cortex-etl session' AND datname = current_database()"
        )
        waits, go_on = hold_at(t, 3)
        owner = asyncio.create_task(t.run())
        await asyncio.wait_for(waits.wait(), 30)
        before = await t.connection.fetch("SELECT id, last_synced_at FROM runs ORDER BY id")
        os.kill(suspended.pid, signal.SIGCONT)
        assert await suspended.end() != 0
        assert await t.connection.fetch("SELECT id, last_synced_at FROM runs ORDER BY id") == before
        go_on.set()
        assert (await owner).status == "succeeded"
        assert await t.differences() == []


async def test_open_transaction_of_a_suspended_process_is_ended(database_url, tmp_path):
    """A process that is suspended in a transaction keeps rows locked: the next owner ends the transaction."""
    world = one_stream(3)
    async with trial(database_url, world) as t:
        await t.agrees()
        stream = StreamId("app_1", WORKFLOW)
        sleeper = await Session.open(t.url, SCHEMA)
        state = await sleeper.lock(stream)
        from etl.db.connect import connect

        connection = await connect(t.url, SCHEMA)
        transaction = connection.transaction()
        await transaction.start()
        await Store(t.connection, sleeper, stream, state, sync_id=None).begin(connection)
        run_id = next(iter(world.runs[WORKFLOW]))
        await connection.execute("UPDATE runs SET status = status WHERE id = $1", run_id)
        await sleeper.close()
        world.replay_run(run_id)
        successor = asyncio.create_task(t.agrees("reconcile"))
        done, _ = await asyncio.wait({successor}, timeout=30)
        connection.terminate()
        await successor
        assert done, "it waited for the suspended process"


async def test_commit_without_the_fencing_token_is_refused(database_url):
    async with trial(database_url, one_stream(3)) as t:
        await t.agrees()
        stream = StreamId("app_1", WORKFLOW)
        session = await Session.open(t.url, SCHEMA)
        old = await session.lock(stream)
        new = await session.lock(stream)
        run_ids = [row["id"] for row in await t.connection.fetch("SELECT id FROM runs")]
        with pytest.raises(LockLostError):
            await Store(t.connection, session, stream, old, sync_id=None).commit(t.connection, Batch(gone=run_ids))
        assert await t.connection.fetchval("SELECT count(*) FROM runs WHERE gone_at IS NOT NULL") == 0
        await Store(t.connection, session, stream, new, sync_id=None).commit(t.connection, Batch(gone=run_ids))
        assert await t.connection.fetchval("SELECT count(*) FROM runs WHERE gone_at IS NOT NULL") == 3
        await session.close()


async def test_all_writes_of_a_stream_check_the_fencing_token(database_url):
    world = one_stream(3)
    due, bad = list(world.runs[WORKFLOW])[:2]
    world.runs[WORKFLOW][due] |= {"status": "COMPLETED", "input": {"a": 1}, "retention_due_at": "2026-01-01T00:00:00Z"}
    world.corrupt(bad, "status_number")
    async with trial(database_url, world) as t:
        await t.agrees()
        stream = StreamId("app_1", WORKFLOW)
        session, pool = await Session.open(t.url, SCHEMA), await create_pool(t.url, SCHEMA, size=1)
        states = [await session.lock(stream), await session.lock(stream)]
        suspended, owner = (Store(pool, session, stream, each, sync_id=None, keep_payloads=False) for each in states)
        end: dict[str, Any] = {
            "watermark": None,
            "backfilled": True,
            "reconciled": Reconciled(None, None, None),
            "api_count": 9,
            "order": None,
            "error": None,
            "hint": None,
        }
        rejects = list(await owner.open_rejects())
        facts = f"""SELECT (SELECT input FROM runs WHERE id = '{due}') IS NOT NULL AS payload,
            (SELECT count(*) FROM etl_rejects WHERE resolved_at IS NULL) AS rejects, api_count FROM etl_streams"""
        for store, expected in ((suspended, (True, 1, 3)), (owner, (False, 0, 9))):
            await store.remove_due_payloads()
            await store.drop_rejects(rejects)
            with nullcontext() if store is owner else pytest.raises(LockLostError):
                await store.finish(**end)
            assert tuple(await t.connection.fetchrow(facts)) == expected
        await session.close()
        pool.terminate()


async def test_locked_stream_is_tried_again_at_the_end(database_url):
    world = World(1)
    for each in ("wf_1", "wf_2"):
        world.add_workflow("app_1", each)
        world.create_run(each)
    async with trial(database_url, world) as t:
        session = await Session.open(t.url, SCHEMA)
        assert await session.lock(StreamId("app_1", "wf_1")) is not None

        async def let_go(path, query, number):
            await session.close()

        t.sandbox.faults.before_response = let_go
        assert {each.workflow_id: each.status for each in (await t.agrees()).streams} == {
            "wf_1": "succeeded",
            "wf_2": "succeeded",
        }


async def test_failed_streams_take_precedence_over_locked_ones(database_url):
    world = World(1)
    for each in ("wf_1", "wf_2"):
        world.add_workflow("app_1", each)
    async with trial(database_url, world) as t:
        session = await Session.open(t.url, SCHEMA)
        assert await session.lock(StreamId("app_1", "wf_1")) is not None
        t.sandbox.faults.on(lambda request: "wf_2" in request.path, Status(403))
        summary = await t.run()
        assert (summary.status, summary.exit_code) == ("failed", 1)
        await session.close()


@pytest.mark.parametrize("exit_code", [3, 4])
async def test_refused_key_and_unusable_database_take_precedence_over_held_streams(database_url, exit_code):
    world = World(1)
    for each in ("wf_1", "wf_2"):
        world.add_workflow("app_1", each)
    async with trial(database_url, world) as t:
        session = await Session.open(t.url, SCHEMA)
        assert await session.lock(StreamId("app_1", "wf_1")) is not None
        before = [row["pid"] for row in await t.connection.fetch("SELECT pid FROM pg_stat_activity")]

        async def take_no_writes(path, query, number):
            name = await t.connection.fetchval("SELECT current_database()")
            await t.connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> ALL ($2)"
            await t.connection.execute(query, name, before)

        if exit_code == 3:
            t.sandbox.faults.on(lambda request: "wf_2" in request.path, Status(401))
        else:
            t.sandbox.faults.before_response = take_no_writes
        summary = await t.run()
        assert (summary.status, summary.exit_code) == ("failed", exit_code)
        await session.close()


async def test_stream_that_another_invocation_took_over_is_skipped(database_url):
    async with trial(database_url, one_stream(30)) as t:
        t.api = {"page_size": 5, "concurrency": 1}

        async def take_over(path, query, number):
            await t.connection.execute("UPDATE etl_streams SET fence = fence + 1")

        t.sandbox.faults.before_response = take_over
        summary = await t.run()
        assert (summary.status, summary.exit_code) == ("partial", 75), "it read a page"
        assert await t.connection.fetchval("SELECT last_error FROM etl_streams") is None


async def test_streams_are_locked_only_before_they_are_read(database_url):
    """PostgreSQL's lock table is limited, and taking thousands of locks would delay the first request."""
    world = World(1)
    for number in range(30):
        world.add_workflow("app_1", f"wf_{number}")
        world.create_run(f"wf_{number}")
    async with trial(database_url, world) as t:
        t.api = {"concurrency": 2}
        locks = "SELECT count(*) FROM etl_locks JOIN etl_streams ON key = lock_key('stream', app_id, workflow_id)"
        held = []

        async def count(path, query, number):
            held.append(await t.connection.fetchval(locks))

        t.sandbox.faults.before_response = count
        await t.agrees()
        assert len(held) == 30
        assert 1 <= min(held) <= max(held) <= 2


async def test_workflow_is_read_as_a_whole_or_postponed(database_url):
    """Its apps may list the same runs, so counts of one app may not be compared while the other app is loaded."""
    world = World(1)
    for each in ("wf_1", "wf_2"):
        world.add_workflow("app_1", each)
        world.create_run(each)
    async with trial(database_url, world) as t:
        t.apps, t.api = ("app_1", "c"), {"concurrency": 1}
        session = await Session.open(t.url, SCHEMA)
        assert await session.lock(StreamId("c", "wf_1")) is not None
        summary = await t.run()
        assert (summary.status, summary.exit_code) == ("partial", 75)
        ends = {(each.app_id, each.workflow_id): each.status for each in summary.streams}
        assert list(ends.items())[2:] == [(("app_1", "wf_1"), "succeeded"), (("c", "wf_1"), "skipped")]
        await session.close()
        await t.agrees()


async def test_queue_is_empty_after_the_end(database_url, tmp_path):
    async with trial(database_url, one_stream(30)) as t:
        t.api = {"page_size": 5, "concurrency": 1}
        waits, go_on = hold_at(t, 2)
        killed = await start(t, tmp_path, "sync")
        await asyncio.wait_for(waits.wait(), 30)
        assert await t.connection.fetchval("SELECT count(*) FROM etl_queue WHERE claimed_by IS NOT NULL") == 1
        killed.signal(signal.SIGKILL)
        go_on.set()
        await killed.end()
        await t.agrees()
        assert await t.connection.fetchval("SELECT count(*) FROM etl_queue") == 0
