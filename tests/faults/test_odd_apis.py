"""An API of another build than expected, or one that stays broken for one stream."""

from sync_trials import WORKFLOW, one_stream, trial

from etl.sandbox import World
from etl.sandbox.faults import (
    BadItem,
    Body,
    Headers,
    lists_runs,
    page,
)


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
