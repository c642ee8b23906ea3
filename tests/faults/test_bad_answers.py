"""Invalid responses end in a retry, in the quarantine or in a clear error of the stream."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from sync_trials import WORKFLOW, one_stream, trial

from etl.api.retry import RetryPolicy
from etl.sandbox import odd_runs
from etl.sandbox.faults import EMPTY_BODY, HTML_OK, OBJECT_BODY, BadItem, Body, CutBody, Reset, Status, lists_runs, page

PATIENT = RetryPolicy(first_pause_s=0.01, longest_pause_s=0.02)
SMALL = {"page_size": 10, "concurrency": 4}
PASSING = [
    HTML_OK,
    EMPTY_BODY,
    OBJECT_BODY,
    Body(b"[]]"),
    CutBody("half_json"),
    CutBody("length"),
    CutBody("chunked"),
    Reset(),
    Status(502, html=True),
    Status(429, retry_after=0),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: repr(fault)[:24])
async def test_temporary_failures_are_retried(database_url: str, fault: Any) -> None:
    async with trial(database_url, one_stream(45)) as here:
        here.api = SMALL
        here.sandbox.faults.on(lists_runs, fault, every=2, times=3)
        summary = await here.agrees("backfill", policy=PATIENT)
        assert summary.runs_inserted == 45
        assert here.sandbox.faults.applied.total() == 3


@pytest.mark.parametrize("fault", [OBJECT_BODY, Body(b'{"id": "another"}')], ids=["no run", "another run"])
async def test_lookup_is_retried_if_the_response_is_another_run(database_url: str, fault: Any) -> None:
    world = one_stream(45)
    opened = world.create_run(WORKFLOW, status="RUNNING")["id"]
    for _ in range(30):
        world.create_run(WORKFLOW)
    async with trial(database_url, world) as here:
        here.api = SMALL
        await here.agrees("backfill")
        world.finish_run(opened)
        here.sandbox.faults.on(lambda request: request.path.endswith(opened), fault, times=1)
        await here.agrees("sync", policy=PATIENT)
        assert here.sandbox.faults.applied.total() == 1
        assert await here.connection.fetchval("SELECT count(*) FROM etl_rejects") == 0


@pytest.mark.parametrize("fault", [*PASSING[:7], Status(404, message="none")], ids=lambda fault: repr(fault)[:24])
async def test_permanent_failure_fails_only_its_stream(database_url: str, fault: Any) -> None:
    world = one_stream(45)
    world.add_workflow("app_1", "wf_2")
    for _ in range(15):
        world.create_run("wf_2")
    async with trial(database_url, world) as here:
        here.api = SMALL
        here.sandbox.faults.on(lambda request: page(3)(request) and WORKFLOW in request.path, fault)
        summary = await here.run("sync", policy=PATIENT)
        assert (summary.status, summary.exit_code) == ("partial", 1)
        ends = {stream.workflow_id: stream for stream in summary.streams}
        assert (ends["wf_2"].status, ends[WORKFLOW].status) == ("succeeded", "failed")
        assert ends[WORKFLOW].error
        assert await here.connection.fetchval("SELECT count(*) FROM runs WHERE workflow_id = 'wf_2'") == 15
        error = await here.connection.fetchval("SELECT last_error FROM etl_streams WHERE workflow_id = $1", WORKFLOW)
        assert error.startswith(ends[WORKFLOW].error)
        here.sandbox.faults.clear()
        await here.agrees("sync")


async def test_counts_are_those_of_the_last_answer_after_a_failure(database_url: str) -> None:
    async with trial(database_url, one_stream(20)) as here:
        here.api = SMALL
        await here.agrees()
        for _ in range(30):
            here.world.create_run(WORKFLOW)
        here.sandbox.faults.on(page(3), Status(404, message="none"))
        assert (await here.run()).status == "failed"
        row = await here.connection.fetchrow("SELECT api_count, accounted_for, state, blocker FROM sync_health")
        loaded = await here.connection.fetchval("SELECT count(*) FROM runs")
        assert 20 < loaded < 50
        assert tuple(row) == (50, loaded, "incomplete", f"the API counts 50 runs, the warehouse has {loaded}")
        here.sandbox.faults.clear()
        await here.agrees()


async def test_repeated_first_page_is_an_error_and_keeps_its_runs(database_url: str) -> None:
    async with trial(database_url, one_stream(45)) as here:
        here.api = SMALL
        here.sandbox.faults.repeat_first_page = True
        summary = await asyncio.wait_for(here.run("sync", policy=PATIENT), 60)
        assert (summary.status, summary.exit_code) == ("failed", 1)
        assert "page after page shows no new items" in summary.error
        assert summary.requests < 20
        assert await here.connection.fetchval("SELECT count(*) FROM runs") == 10
        here.sandbox.faults.clear()
        await here.agrees("sync")


@pytest.mark.parametrize("delta", [-30, -3, 3, 30, 500])
async def test_wrong_count_is_never_green_and_loses_no_run(database_url: str, delta: int) -> None:
    async with trial(database_url, one_stream(45)) as here:
        here.api = SMALL
        here.sandbox.faults.count_delta = delta
        summary = await here.run("sync")
        assert (summary.status, summary.exit_code) == ("partial", 1)
        assert await here.differences() == []
        row = await here.connection.fetchrow("SELECT watermark, api_count, last_error, last_hint FROM etl_streams")
        error, hint = f"the API counts {45 + delta} runs, the warehouse 45", "Run: cortex-etl reconcile --workflow wf_1"
        assert tuple(row) == (None, 45 + delta, error, hint)


@pytest.mark.parametrize("kind", ["nan", "bad_utf8", "number", "null", "missing_id", "bad_date", "cut"])
async def test_bad_item_is_quarantined_and_resolved_by_a_good_copy(database_url: str, kind: str) -> None:
    async with trial(database_url, one_stream(25)) as here:
        here.api = SMALL
        run_id = list(here.world.runs[WORKFLOW])[12]
        raw = here.world.corrupt(run_id, kind)
        summary = await here.agrees("sync")
        assert (summary.runs_inserted, summary.rejects) == (24, 1)
        row = await here.connection.fetchrow("SELECT * FROM etl_rejects")
        assert row["payload"] == raw
        assert row["reason"]
        assert row["page"] == 2
        assert (await here.agrees("sync")).rejects <= 1
        assert await here.connection.fetchval("SELECT count(*) FROM etl_rejects") == 1
        del here.world.raw[run_id]
        await here.agrees("reconcile")
        assert await here.connection.fetchval("SELECT count(*) FROM etl_rejects WHERE resolved_at IS NULL") == 0


async def test_hostile_values_are_stored_or_quarantined(database_url: str) -> None:
    async with trial(database_url, one_stream(len(odd_runs.KINDS) + 30)) as here:
        here.api = {"page_size": 20}
        for run_id, kind in zip(list(here.world.runs[WORKFLOW])[5:], odd_runs.KINDS, strict=False):
            here.world.corrupt(run_id, kind)
        await here.agrees("backfill")
        await here.agrees("reconcile")


async def test_repeated_bad_item_is_quarantined_once(database_url: str) -> None:
    async with trial(database_url, one_stream(45)) as here:
        here.api = SMALL
        here.sandbox.faults.on(page(2), BadItem(b'{"id": NaN}'))
        for _ in range(3):
            await here.run("reconcile")
        rows = await here.connection.fetch("SELECT payload FROM etl_rejects")
        assert [row["payload"] for row in rows] == [b'{"id": NaN}']
        assert await here.connection.fetchval("SELECT count(*) FROM runs") == 45
        here.sandbox.faults.clear()
        await here.agrees("reconcile")


async def test_wrong_api_clock_changes_nothing(database_url: str) -> None:
    async with trial(database_url, one_stream(45)) as here:
        here.api = SMALL
        here.sandbox.faults.clock_offset = -timedelta(days=365 * 56)
        await here.agrees("sync")
        for number in range(5):
            here.world.create_run(
                WORKFLOW, created_at="1970-01-01T00:00:00Z", updated_at=f"1970-01-01T00:00:0{number}Z"
            )
        summary = await here.agrees("sync")
        assert summary.runs_inserted == 5


async def test_run_listed_twice_on_a_page_is_stored_once(database_url: str) -> None:
    async with trial(database_url, one_stream(45)) as here:
        here.api = SMALL
        run = next(iter(here.world.runs[WORKFLOW].values()))
        here.sandbox.faults.on(page(2), BadItem(json.dumps(run).encode()))
        await here.run("sync")
        assert await here.connection.fetchval("SELECT count(*) FROM runs") == 45
