"""APIs that deviate from the documented behaviour, or that fail permanently for one stream."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from api_clients import QUICK
from sync_trials import APP, WORKFLOW, one_stream, trial

from etl.app import run_sync, status_report
from etl.config import AppSettings
from etl.sandbox import World
from etl.sandbox.faults import (
    Body,
    Cap,
    Headers,
    Status,
    lists_runs,
    page,
)
from etl.sandbox.responses import encode


@dataclass
class Hide:
    """A server that removes items after it has divided its listing into pages."""

    hidden: set[str]

    def apply(self, response):
        response.items[:] = [item for item in response.items if not any(run.encode() in item for run in self.hidden)]


@dataclass
class Replace:
    """A server that replaces an item of a page."""

    run_id: str
    by: bytes

    def apply(self, response):
        response.items[:] = [self.by if self.run_id.encode() in item else item for item in response.items]


def two_streams():
    world = World(1)
    for each in ("wf_1", "wf_2"):
        world.add_workflow("app_1", each)
        for _ in range(9):
            world.create_run(each)
    return world


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


async def test_server_may_cap_the_page_size(database_url):
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


@pytest.mark.parametrize("runs", [31, 27], ids=["more than a page holds", "just as many"])
async def test_silent_page_cap_does_not_end_the_listing(database_url, runs):
    world = one_stream(runs)
    world.order = "created_asc"
    async with trial(database_url, world, max_take=7) as t:
        t.api = {"page_size": 20}
        t.sandbox.faults.on(lists_runs, Headers({"pagination-take": None}))
        await t.agrees()
        world.create_run(WORKFLOW)
        world.delete_run(world.listing(WORKFLOW)[9]["id"])  # so that the count says nothing
        await t.agrees()


@pytest.mark.parametrize("order", ["created_desc", "created_asc", "none"])
@pytest.mark.parametrize("counted", [True, False])
async def test_page_cap_that_the_api_denies_hides_no_run(database_url, order, counted):
    world = one_stream(64)
    world.order = order
    async with trial(database_url, world) as t:
        t.api = {"page_size": 50}
        t.sandbox.faults.cap = Cap(20, "echoed")
        if not counted:
            t.sandbox.faults.on(lists_runs, Headers({"pagination-count": None}))
        await t.agrees()
        t.sandbox.faults.cap = Cap(7, "echoed")
        world.delete_run(world.listing(WORKFLOW)[40]["id"])
        await t.agrees("reconcile")


async def test_silent_page_cap_loses_no_workflow(database_url):
    silent: tuple[dict[str, str | None], ...] = (
        {"pagination-take": None},
        {"pagination-take": None, "pagination-count": None},
    )
    for headers in silent:
        world = World(1)
        for number in range(11):
            world.add_workflow(APP, f"wf_{number}")
        async with trial(database_url, world, max_take=4) as t:
            t.sandbox.faults.on(lambda request: True, Headers(headers))
            settings = t.settings.model_copy(update={"apps": [AppSettings(id=APP, workflows="all")]})
            summary = await run_sync(settings, "sync", policy=QUICK)
            assert len(summary.streams) == 11


@pytest.mark.parametrize("order", ["created_desc", "created_asc", "none"])
async def test_pages_filtered_by_the_server_lose_nothing(database_url, order):
    world = one_stream(67)
    world.order = order
    hidden = {world.listing(WORKFLOW)[place]["id"] for place in (15, 16, 25, 26, 35, 36, 45, 46, 55)}
    async with trial(database_url, world) as t:
        t.api = {"page_size": 10}
        t.sandbox.faults.on(lists_runs, Hide(hidden), Headers({"pagination-count": str(67 - len(hidden))}))
        for mode in ("sync", "sync", "reconcile"):
            summary = await t.run(mode)
            assert summary.status == "succeeded", summary
            assert await t.connection.fetchval("SELECT count(*) FROM runs WHERE gone_at IS NULL") == 67 - len(hidden)


@pytest.mark.parametrize("order", ["created_desc", "created_asc", "updated_desc"])
async def test_count_limited_to_one_page_marks_nothing_gone(database_url, order):
    world = one_stream(43)
    world.order = order
    async with trial(database_url, world) as t:
        t.api = {"page_size": 10}
        await t.agrees()
        t.sandbox.faults.on(lists_runs, Headers({"pagination-count": "10"}))
        for _ in range(2):
            assert (await t.run()).status == "partial"
            assert await t.differences() == []


@pytest.mark.parametrize("order", ["created_desc", "created_asc"])
@pytest.mark.parametrize("told", [None, "day"])
async def test_run_without_a_time_is_not_confused_with_a_gone_run(database_url, order, told):
    world = one_stream(67)
    world.order = order
    undated = world.listing(WORKFLOW)[30]
    world.raw[undated["id"]] = encode(undated | {"created_at": told and undated["created_at"][:10]})
    async with trial(database_url, world) as t:
        t.api = {"page_size": 10}
        await t.agrees()
        for place in (45, 22, 3):
            world.delete_run(world.listing(WORKFLOW)[place]["id"])
            await t.agrees()
        world.delete_run(undated["id"])
        await t.agrees()


async def test_long_pause_is_shown_by_status_and_can_be_interrupted(database_url):
    async with trial(database_url, one_stream(12)) as t:
        t.api = {"page_size": 5, "concurrency": 1}
        t.sandbox.faults.on(page(2), Status(429, retry_after=3600))
        syncing = asyncio.create_task(t.run(policy=None))
        while (until := (await status_report(t.settings)).paused_until) is None:
            await asyncio.sleep(0.05)
        assert timedelta(seconds=3500) < until - datetime.now(UTC) <= timedelta(seconds=3600)
        syncing.cancel()
        assert (await asyncio.wait_for(syncing, 5)).status == "interrupted"
        sent = await t.connection.fetchval("SELECT requests FROM etl_syncs")
        assert sent == len(t.sandbox.requests)


async def test_next_page_tokens_are_followed(database_url):
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


@pytest.mark.parametrize(("order", "count"), [("created_desc", None), ("created_asc", "31")])
async def test_listing_that_cannot_be_proved_complete_has_a_hint_that_helps(database_url, order, count):
    """The pages cannot overlap, because the server pages by token."""
    world = one_stream(31)
    world.order = order
    async with trial(database_url, world, next_tokens=True) as t:
        t.api, t.sync = {"page_size": 5}, {"reconcile_every": 0}
        t.sandbox.faults.on(lists_runs, Headers({"pagination-count": count}))
        for mode, window in (
            ("sync", {}),
            ("reconcile", {}),
            ("sync", {}),  # reads all of it, although nothing is new
            ("backfill", {"until": datetime(2030, 1, 1, tzinfo=UTC)}),
        ):
            summary = await t.run(mode, **window)
            assert (summary.status, "newest first, and to send pagination-count" in summary.hint) == (
                "partial",
                True,
            ), summary
            assert await t.differences() == []


@dataclass(frozen=True, slots=True)
class SilentlyRounded(Cap):
    """A server that rounds page sizes down to multiples of 5, without telling."""

    def lower(self, take):
        return str(max(5, min(int(take), self.size) // 5 * 5))


async def test_server_that_rounds_page_sizes_silently_is_read_by_whole_pages(database_url):
    async with trial(database_url, one_stream(43)) as t:
        t.sandbox.faults.cap = SilentlyRounded(10, "silent")
        await t.agrees()
        await t.agrees("reconcile")


async def test_hint_of_a_reconcile_is_never_another_reconcile(database_url):
    world = one_stream(43)
    world.order = "created_asc"
    async with trial(database_url, world) as t:
        t.sandbox.faults.cap = SilentlyRounded(10, "silent")
        summary = await t.run("reconcile")
        assert (summary.status, "newest first, and to send pagination-count" in summary.hint) == ("partial", True), (
            summary
        )
        t.sandbox.faults.clear()
        await t.agrees("reconcile")
        t.sandbox.faults.count_delta = 3
        summary = await t.run("reconcile")
        assert (summary.status, summary.error) == (
            "partial",
            f"{APP}/{WORKFLOW}: the API counts 46 runs, the warehouse 43",
        )
        assert "report it to whoever runs the API" in summary.hint


async def test_empty_page_between_full_ones_loses_nothing(database_url):
    async with trial(database_url, one_stream(40)) as t:
        t.api = {"page_size": 5}
        t.sandbox.faults.on(page(3), Body(b"[]"), times=1)
        await t.agrees()


async def test_inserted_item_does_not_affect_others(database_url):
    world = one_stream(25)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5}
        t.sandbox.faults.on(lists_runs, Replace(world.listing(WORKFLOW)[7]["id"], b"NaN"))
        summary = await t.run()
        assert await t.connection.fetchval("SELECT count(*) FROM runs") == 24
        assert summary.status == "succeeded"
        assert summary.rejects == 1
