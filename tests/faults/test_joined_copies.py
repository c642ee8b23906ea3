"""Copies of a command that work on one invocation (`--join`)."""

import asyncio
import signal

import pytest
from sync_trials import claimers, lose_all_connections, start, trial, workflows

from etl.sandbox.faults import Status

WORKFLOWS = 6


def hold(t, place):
    """Block the `place`th request for runs; return the event that it waits, and the event that releases it."""
    waits, go_on, asked = asyncio.Event(), asyncio.Event(), []

    async def hook(path, query, number):
        if path.endswith("/runs"):
            asked.append(number)
            if len(asked) == place:
                waits.set()
                await asyncio.wait_for(go_on.wait(), 30)

    t.sandbox.faults.before_response = hook
    return waits, go_on


async def copies(t, tmp_path, *arguments, count=2):
    return [await start(t, tmp_path, *arguments, "--join", "nightly", "--json") for _ in range(count)]


async def copies_at_work(t, tmp_path, mode="sync"):
    """Start two copies, and wait until each has claimed a workflow."""
    both = await copies(t, tmp_path, mode)
    await asyncio.wait_for(claimers(t, 2), 30)
    return both


async def test_copies_are_one_invocation_with_one_result(database_url, tmp_path):
    async with trial(database_url, workflows(WORKFLOWS)) as t:
        t.api = {"page_size": 5, "concurrency": 1}
        t.sandbox.faults.latency_s = 0.02
        for mode in ("sync", "reconcile"):
            before = len(t.sandbox.requests)
            both = await copies_at_work(t, tmp_path, mode)
            for each in both:
                assert await each.end() == 0, each.err
            first, second = ({**each.json, "seconds": None} for each in both)
            assert first == second
            assert (first["status"], first["exit_code"], len(first["streams"])) == ("succeeded", 0, WORKFLOWS)
            assert first["requests"] == len(t.sandbox.requests) - before
            assert first["runs_inserted"] == (30 * WORKFLOWS if mode == "sync" else 0)
            assert await t.differences() == []
        rows = await t.connection.fetch("SELECT status, requests FROM etl_syncs")
        assert [row["status"] for row in rows] == ["succeeded", "succeeded"]
        await t.run()
        for table in ("etl_queue", "etl_shared_syncs"):
            assert await t.connection.fetchval(f"SELECT count(*) FROM {table}") == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
async def test_other_copies_take_over_the_work_of_a_dead_copy(database_url, tmp_path, number):
    async with trial(database_url, workflows(WORKFLOWS)) as t:
        t.api = {"page_size": 5, "concurrency": 1}
        waits, go_on = hold(t, 4)
        (first,) = await copies(t, tmp_path, "sync", count=1)
        await asyncio.wait_for(waits.wait(), 30)
        (second,) = await copies(t, tmp_path, "sync", count=1)
        await asyncio.wait_for(claimers(t, 2), 30)
        first.signal(number)
        go_on.set()
        assert await first.end() == (130 if number == signal.SIGINT else -signal.SIGKILL), first.err
        assert await second.end() == 0, second.err
        assert await t.differences() == []
        assert len(second.json["streams"]) == WORKFLOWS
        rows = await t.connection.fetch("SELECT status FROM etl_syncs")
        assert [row["status"] for row in rows] == ["succeeded"]


async def test_copies_continue_after_a_database_outage(database_url, tmp_path):
    async with trial(database_url, workflows(WORKFLOWS)) as t:
        t.api = {"page_size": 5, "concurrency": 1}
        t.sandbox.faults.latency_s = 0.05
        both = await copies_at_work(t, tmp_path)
        await lose_all_connections(t)
        for each in both:
            assert await each.end() == 0, each.err
            assert len(each.json["streams"]) == WORKFLOWS
        assert await t.differences() == []


@pytest.mark.parametrize(
    ("mode", "api", "named"), [("reconcile", {}, "mode"), ("sync", {"page_size": 6}, "api.page_size")]
)
async def test_copies_must_agree(database_url, tmp_path, mode, api, named):
    async with trial(database_url, workflows(WORKFLOWS, runs=8)) as t:
        t.api = {"page_size": 5, "concurrency": 1}
        waits, go_on = hold(t, 2)
        (first,) = await copies(t, tmp_path, "sync", count=1)
        await asyncio.wait_for(waits.wait(), 30)
        t.api |= api
        (second,) = await copies(t, tmp_path, mode, count=1)
        assert await second.end() == 2
        assert f"nightly differs in {named}" in second.err
        go_on.set()
        assert await first.end() == 0, first.err


async def test_refused_key_ends_all_copies(database_url, tmp_path):
    async with trial(database_url, workflows(WORKFLOWS)) as t:
        t.api = {"page_size": 5, "concurrency": 1}
        t.sandbox.faults.latency_s = 0.05
        both = await copies_at_work(t, tmp_path)
        t.sandbox.faults.on(lambda request: request.path.endswith("/runs"), Status(401))
        for each in both:
            assert await each.end() == 3, each.err
        rows = await t.connection.fetch("SELECT status FROM etl_syncs")
        assert [row["status"] for row in rows] == ["failed"]


async def test_copy_that_starts_after_the_end_starts_a_new_invocation(database_url, tmp_path):
    async with trial(database_url, workflows(WORKFLOWS, runs=3)) as t:
        for number in (1, 2):
            (copy,) = await copies(t, tmp_path, "sync", count=1)
            assert await copy.end() == 0, copy.err
            assert await t.connection.fetchval("SELECT count(*) FROM etl_syncs") == number
