"""The promises, each tested once from a user's view; docs/delivery.md refers to these tests."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sync_trials import APP, SCHEMA, WORKFLOW, one_stream, trial

from etl.db.connect import connect
from etl.db.session import Session
from etl.events import StreamId
from etl.sandbox.faults import Body
from etl.sandbox.responses import encode

STREAM = StreamId(APP, WORKFLOW)


def at_request(number: int, act: Any) -> Any:
    """Return a hook that awaits `act()` before the response to a request for a page."""
    seen = 0

    async def hook(path: str, _query: Any, _number: int) -> None:
        nonlocal seen
        seen += path.endswith("/runs")
        if seen == number and path.endswith("/runs"):
            seen += 1
            await act()

    return hook


async def test_3_nothing_new_costs_one_request_per_workflow(database_url: str) -> None:
    async with trial(database_url, one_stream(350)) as t:
        t.api = {"page_size": 100}
        await t.agrees()
        assert await t.requests_of("sync") == 1


async def test_5_an_older_copy_never_overwrites_a_newer_one(database_url: str) -> None:
    async with trial(database_url, one_stream(3)) as t:
        run_id = next(iter(t.world.runs[WORKFLOW]))
        older = encode(t.world.find(run_id))
        newer = encode(t.world.replay_run(run_id))
        await t.agrees()
        kept = await t.connection.fetchrow("SELECT * FROM runs WHERE id = $1", run_id)
        t.world.raw[run_id] = older
        t.sandbox.faults.on(lambda request: request.path.endswith(run_id), Body(newer))
        assert (await t.run("reconcile")).runs_updated == 0
        assert await t.connection.fetchrow("SELECT * FROM runs WHERE id = $1", run_id) == kept
        t.sandbox.faults.clear()
        assert (await t.agrees("reconcile")).runs_updated == 1, "only a look-up of the run itself replaces it"


@pytest.mark.parametrize("page", [1, 2, 4])
async def test_6_and_7_kills_at_any_point_lose_nothing(database_url: str, command: Any, page: int) -> None:
    async with trial(database_url, one_stream(40)) as t:
        command.environment["CORTEX_API_KEY"] = t.sandbox.key
        command.configure(
            f"api: {{base_url: '{t.sandbox.url}', page_size: 10, concurrency: 1}}\n"
            f"database: {{url: '{database_url}'}}\napps: [{{id: {APP}, workflows: [{WORKFLOW}]}}]\n"
        )
        process = await command.start("sync", "--quiet")

        async def kill() -> None:
            process.kill()
            await process.wait()

        t.sandbox.faults.before_response = at_request(page, kill)
        await process.communicate()
        assert process.returncode == -9
        assert {each.partition(":")[0] for each in await t.differences()} <= {"missing"}, "no run lacks its steps"
        loaded = await t.connection.fetchval("SELECT count(*) FROM runs")
        assert loaded <= 10 * (page - 1)
        t.sandbox.faults.before_response = None
        summary = await t.agrees()
        assert summary.runs_inserted == 40 - loaded
        ledger = "SELECT array_agg(status ORDER BY id) FROM etl_syncs"
        assert await t.connection.fetchval(ledger) == ["interrupted", "succeeded"]


async def test_8_one_invalid_run_affects_no_other(database_url: str) -> None:
    async with trial(database_url, one_stream(5)) as t:
        run_id = list(t.world.runs[WORKFLOW])[2]
        bad = t.world.corrupt(run_id, "status_number")
        summary = await t.agrees()
        assert (summary.runs_inserted, summary.rejects) == (4, 1)
        kept = await t.connection.fetchrow("SELECT run_id, reason, payload FROM etl_rejects WHERE resolved_at IS NULL")
        assert tuple(kept) == (run_id, "invalid_field", bad)
        del t.world.raw[run_id]
        await t.agrees("reconcile")
        assert await t.connection.fetchval("SELECT count(*) FROM etl_rejects WHERE resolved_at IS NULL") == 0


async def test_9_one_process_per_stream(database_url: str) -> None:
    async with trial(database_url, one_stream(5)) as t:
        other = await Session.open(database_url, SCHEMA)
        assert await other.lock(STREAM)
        summary = await t.run()
        assert (summary.status, summary.exit_code, summary.requests) == ("skipped", 75, 0)
        assert await t.connection.fetchval("SELECT status FROM etl_syncs") == "skipped"
        await other.close()
        await t.agrees()


async def test_12_memory_is_bounded_while_the_database_is_slow(database_url: str) -> None:
    """While commits are blocked, only a limited number of pages is fetched."""
    async with trial(database_url, one_stream(300)) as t:
        t.api = {"page_size": 5, "concurrency": 4}
        blocker = await connect(database_url, SCHEMA)

        async def block() -> None:
            await blocker.execute("BEGIN; LOCK TABLE runs IN EXCLUSIVE MODE")

        t.sandbox.faults.before_response = at_request(2, block)  # pages are fetched concurrently from the second one on
        syncing = asyncio.create_task(t.run())
        sent, quiet = -1, 0
        while quiet < 5:
            await asyncio.sleep(0.05)
            quiet = quiet + 1 if sent == len(t.sandbox.requests) > 0 else 0
            sent = len(t.sandbox.requests)
        assert sent <= 2 * 4 + 1, "of 60 pages"
        await blocker.execute("ROLLBACK")
        await blocker.close()
        assert (await syncing).status == "succeeded"
        assert await t.differences() == []


async def test_13_sync_uses_the_shared_request_budget(database_url: str) -> None:
    async with trial(database_url, one_stream(40)) as t:
        t.api = {"page_size": 5}
        summary = await t.agrees()
        (host, granted) = await t.connection.fetchrow(
            "SELECT host, (SELECT sum(each) FROM unnest(granted) AS each) FROM etl_rate_budgets"
        )
        assert t.sandbox.url.endswith(host)
        assert granted >= summary.requests == len(t.sandbox.requests)


@pytest.mark.parametrize("delta", [3, -3])
async def test_14_green_means_complete(database_url: str, delta: int) -> None:
    async with trial(database_url, one_stream(20)) as t:
        t.api = {"page_size": 5}
        t.sandbox.faults.count_delta = delta
        summary = await t.run()
        assert (summary.status, summary.exit_code) == ("partial", 1)
        (stream,) = summary.streams
        assert (stream.api_count, stream.warehouse_count) == (20 + delta, 20)
        assert stream.hint == f"Run: cortex-etl reconcile --workflow {WORKFLOW}"
        assert await t.connection.fetchval("SELECT watermark FROM etl_streams") is None
        t.sandbox.faults.clear()
        await t.agrees()


async def test_15_suspended_process_writes_nothing(database_url: str) -> None:
    async with trial(database_url, one_stream(40)) as t:
        t.api = {"page_size": 10, "concurrency": 1}
        taker = await connect(database_url, SCHEMA)

        async def take_over() -> None:
            await taker.execute("UPDATE etl_streams SET fence = fence + 1")

        t.sandbox.faults.before_response = at_request(3, take_over)
        summary = await t.run()
        await taker.close()
        assert (summary.status, summary.exit_code) == ("partial", 75), "it had loaded two pages before"
        assert "took the stream over" in summary.streams[0].error
        assert await t.connection.fetchval("SELECT count(*) FROM runs") <= 20
        assert await t.connection.fetchval("SELECT last_error FROM etl_streams") is None, (
            "only the new owner records this"
        )
        await t.agrees()


@pytest.mark.parametrize("retention", ["keep", "honour"])
async def test_16_emptied_payloads_are_kept_or_removed(database_url: str, retention: str) -> None:
    async with trial(database_url, one_stream(3)) as t:
        t.payloads = {"retention": retention}
        t.world.on_retention = "empty"
        run_id = next(iter(t.world.runs[WORKFLOW]))
        await t.agrees()
        before = await t.connection.fetchrow("SELECT input, result FROM runs WHERE id = $1", run_id)
        steps = "SELECT count(output) FROM run_steps WHERE run_id = $1"
        outputs = await t.connection.fetchval(steps, run_id)
        assert before["input"]
        assert outputs
        t.world.set_retention(run_id, 1)
        assert t.world.advance(timedelta(seconds=5)).emptied == [run_id]
        assert (await t.run("reconcile")).status == "succeeded"
        after = await t.connection.fetchrow("SELECT input, result FROM runs WHERE id = $1", run_id)
        left = await t.connection.fetchval(steps, run_id)
        if retention == "keep":
            assert (after, left) == (before, outputs)
        else:
            assert (tuple(after), left) == ((None, None), 0)
