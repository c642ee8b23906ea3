"""An API that answers badly: a retry, a clear error on that stream, never a wrong row, a hang or a lost run."""

from datetime import timedelta

import pytest
from sync_trials import WORKFLOW, one_stream, start, trial

from etl.sandbox import World
from etl.sandbox.faults import (
    EMPTY_BODY,
    HTML_OK,
    OBJECT_BODY,
    BadItem,
    Body,
    CutBody,
    Headers,
    Reset,
    Status,
    lists_runs,
    page,
)

PASSING = (
    Status(500), Status(502, html=True), Status(503, retry_after=0), Status(429, retry_after=0), Reset(),
    CutBody(), CutBody("chunked"), CutBody("half_json"), EMPTY_BODY, HTML_OK, OBJECT_BODY, Body(b"null"),
)  # fmt: skip


def two_streams():
    world = World(1)
    for each in ("wf_1", "wf_2"):
        world.add_workflow("app_1", each)
        for _ in range(9):
            world.create_run(each)
    return world


async def test_what_passes_is_sat_out(database_url):
    async with trial(database_url, one_stream(45)) as t:
        t.api = {"page_size": 4, "concurrency": 3}
        t.sandbox.faults.queue(*(each for fault in PASSING for each in (fault, None)))
        summary = await t.agrees()
        assert summary.retries >= len(PASSING)
        assert await t.connection.fetchval("SELECT retries FROM etl_syncs") == summary.retries


@pytest.mark.parametrize("fault", [Status(503), HTML_OK, EMPTY_BODY, OBJECT_BODY, CutBody("half_json"), Status(404)])
async def test_what_stays_fails_its_stream_alone(database_url, fault):
    async with trial(database_url, two_streams()) as t:
        t.sandbox.faults.on(lambda request: "wf_1" in request.parts, fault)
        summary = await t.run()
        assert (summary.status, summary.exit_code) == ("partial", 1)
        outcomes = {each.workflow_id: each for each in summary.streams}
        assert outcomes["wf_2"].outcome == "succeeded"
        assert outcomes["wf_1"].outcome == "failed"
        assert outcomes["wf_1"].error
        rows = {row["workflow_id"]: row for row in await t.connection.fetch("SELECT * FROM etl_streams")}
        assert rows["wf_1"]["last_error"]
        assert rows["wf_2"]["last_error"] is None
        t.sandbox.faults.clear()
        await t.agrees()
        assert await t.connection.fetchval("SELECT count(*) FROM etl_streams WHERE last_error IS NOT NULL") == 0


async def test_six_tries_and_no_more(database_url):
    async with trial(database_url, one_stream(3)) as t:
        t.sandbox.faults.on(lists_runs, Status(503))
        await t.run()
        assert len(t.sandbox.requests) == 6


async def test_a_refused_key_stops_everything(database_url, tmp_path):
    async with trial(database_url, two_streams()) as t:
        t.sandbox.faults.on(lists_runs, Status(401))
        process = await start(t, tmp_path, "sync")
        assert await process.end() == 3
        assert len(t.sandbox.requests) <= 2
        assert await t.connection.fetchval("SELECT status FROM etl_syncs") == "failed"


async def test_page_1_for_every_page_is_an_error_and_no_loop(database_url):
    world = one_stream(30)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5}
        t.sandbox.faults.first_page_forever = True
        summary = await t.run()
        assert summary.exit_code == 1
        assert "earlier page" in summary.streams[0].error
        t.sandbox.faults.first_page_forever = False
        await t.agrees()
        for _ in range(12):
            world.create_run(WORKFLOW)
        t.sandbox.faults.first_page_forever = True
        before = len(t.sandbox.requests)
        assert (await t.run()).exit_code == 1
        assert len(t.sandbox.requests) - before < 40
        t.sandbox.faults.clear()
        await t.agrees()


@pytest.mark.parametrize("delta", [-7, -1, 1, 7, 1000])
async def test_a_count_that_lies_is_never_green(database_url, delta):
    async with trial(database_url, one_stream(23)) as t:
        t.api = {"page_size": 5}
        t.sandbox.faults.count_delta = delta
        for mode in ("sync", "sync", "reconcile"):
            summary = await t.run(mode)
            assert (summary.status, summary.exit_code) == ("partial", 1)
            assert summary.requests < 60
            assert summary.streams[0].mend
        assert await t.differences() == []
        assert "API counts" in await t.connection.fetchval("SELECT last_error FROM etl_streams")
        t.sandbox.faults.clear()
        await t.agrees()


async def test_paging_headers_may_be_missing_or_nonsense(database_url):
    for value in (None, "", "many", "-1", "1e9", "9" * 30):
        world = one_stream(23)
        async with trial(database_url, world) as t:
            t.api = {"page_size": 5}
            names = ("pagination-count", "pagination-take", "pagination-page")
            t.sandbox.faults.on(lists_runs, Headers(dict.fromkeys(names, value)))
            await t.agrees()
            world.create_run(WORKFLOW)
            await t.agrees()


async def test_the_server_may_cap_the_page_size(database_url):
    for silent in (False, True):
        world = one_stream(64)
        async with trial(database_url, world, max_take=7) as t:
            t.api = {"page_size": 50}
            if silent:
                t.sandbox.faults.on(lists_runs, Headers({"pagination-take": None}))
            await t.agrees()
            for _ in range(15):
                world.create_run(WORKFLOW)
            world.delete_run(world.listing(WORKFLOW)[40]["id"])
            await t.agrees()
            assert await t.requests_of() == 1


async def test_tokens_for_the_next_page_are_followed(database_url):
    world = one_stream(31)
    async with trial(database_url, world, next_tokens=True) as t:
        t.api = {"page_size": 5}
        await t.agrees()
        assert all(
            "next" in request.query for request in t.sandbox.requests if request.query.get("page") not in (None, "1")
        )
        for _ in range(12):
            world.create_run(WORKFLOW)
        await t.agrees()
        await t.agrees("reconcile")


async def test_a_clock_from_1970_changes_nothing(database_url):
    world = one_stream(12)
    async with trial(database_url, world) as t:
        t.sandbox.faults.clock_offset = -timedelta(days=365 * 56)
        await t.agrees()
        world.create_run(WORKFLOW, created_at="1970-01-01T00:00:00Z", updated_at="1970-01-01T00:00:00Z")
        world.create_run(WORKFLOW, created_at="2199-01-01T00:00:00Z", updated_at="2199-01-01T00:00:00Z")
        await t.agrees()
        world.create_run(WORKFLOW)
        await t.agrees()


async def test_an_empty_page_among_full_ones_loses_nothing(database_url):
    async with trial(database_url, one_stream(40)) as t:
        t.api = {"page_size": 5}
        t.sandbox.faults.on(page(3), Body(b"[]"), times=1)
        await t.agrees()


async def test_an_item_spliced_into_a_page_leaves_the_others(database_url):
    async with trial(database_url, one_stream(25)) as t:
        t.api = {"page_size": 5}
        t.sandbox.faults.on(page(2), BadItem(b"NaN", at=2, replace=True))
        summary = await t.run()
        assert await t.connection.fetchval("SELECT count(*) FROM runs") == 24
        assert summary.status == "succeeded"
        assert summary.rejects == 1
