"""Pages that are too large for memory, for the API, or for the time limit."""

from __future__ import annotations

from hashlib import sha256

import pytest
from sync_trials import WORKFLOW, one_stream, trial

from etl.api import client, transport
from etl.api.retry import RetryPolicy
from etl.events import RequestRetried
from etl.sandbox.faults import Cap, Delay, Status, lists_runs, page
from etl.sandbox.responses import encode

AUTO = {"page_size": "auto"}


def lengthen(world, places, size):
    """Give the runs at some places of the listing an input of `size` bytes."""
    listing = world.listing(WORKFLOW)
    for place in places:
        run = listing[place]
        world.raw[run["id"]] = encode(run | {"input": {"text": "x" * size}})
    return [listing[place]["id"] for place in places]


@pytest.fixture
def small_memory(monkeypatch):
    """Set the limits to 200 kB for a page, and 500 kB for an item."""
    monkeypatch.setattr(client, "PAGE_BYTES", 200_000)
    monkeypatch.setattr(transport, "PAGE_BYTES", 200_000)
    monkeypatch.setitem(client.CortexClient.__init__.__kwdefaults__, "max_response_bytes", 500_000)


@pytest.mark.parametrize("order", ["created_desc", "created_asc", "updated_desc"])
async def test_long_runs_are_read_on_smaller_pages(database_url, small_memory, order):
    world = one_stream(120)
    world.order = order
    lengthen(world, range(40, 80), 40_000)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 50}
        await t.agrees()
        first = [int(request.query["take"]) for request in t.sandbox.requests]
        assert first[0] == 50
        assert min(first) <= 12
        await t.agrees("reconcile")
        assert len(t.sandbox.requests) < 100


@pytest.mark.parametrize("order", ["created_desc", "created_asc", "updated_desc"])
async def test_only_the_too_large_run_is_quarantined(database_url, small_memory, order):
    world = one_stream(120)
    world.order = order
    (run_id,) = lengthen(world, [70], 600_000)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 50}
        for mode in ("sync", "sync", "reconcile"):
            await t.agrees(mode)
        (row,) = await t.connection.fetch("SELECT * FROM etl_rejects")
        raw = world.raw[run_id]
        assert (row["run_id"], row["reason"], row["payload"]) == (run_id, "too_large", b"")
        assert (row["bytes"], row["digest"]) == (len(raw), sha256(raw).digest())
        assert await t.connection.fetchval("SELECT count(*) FROM runs") == 119
        del world.raw[run_id]
        await t.agrees("reconcile")
        assert await t.connection.fetchval("SELECT count(*) FROM runs") == 120


@pytest.mark.parametrize(("cap", "how"), [(50, "told"), (50, "silent"), (250, "refused"), (250, "hangs")])
async def test_server_may_cap_pages_in_any_way_and_change_the_cap(database_url, cap, how):
    world = one_stream(1200)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 1000, "timeout_s": 1 if how == "hangs" else 60}
        t.sandbox.faults.cap = Cap(cap, how)
        await t.agrees()
        world.delete_run(world.listing(WORKFLOW)[700]["id"])
        t.sandbox.faults.cap = Cap(cap // 2, how)
        await t.agrees("reconcile")
        t.sandbox.faults.cap = None
        await t.agrees("reconcile")


@pytest.mark.parametrize("how", ["told", "silent", "refused", "hangs"])
async def test_server_may_lower_its_cap_while_a_listing_is_read(database_url, how):
    world = one_stream(1500)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 250, "timeout_s": 1 if how == "hangs" else 60}

        def lower(_path, _query, number):
            if number in (4, 9):
                t.sandbox.faults.cap = Cap(100 if number == 4 else 40, how)

        t.sandbox.faults.before_response = lower
        await t.agrees()


async def test_slow_pages_are_replaced_by_smaller_ones_at_most_six_times(database_url):
    async with trial(database_url, one_stream(300)) as t:
        t.api = {"page_size": 100, "timeout_s": 0.5, "concurrency": 1}
        t.sandbox.faults.on(lists_runs, Delay(60))
        events = []
        policy = RetryPolicy(first_pause_s=0.01, longest_pause_s=1, jitter=0)
        summary = await t.run(policy=policy, listener=events.append)
        assert summary.status == "failed"
        assert [request.query["take"] for request in t.sandbox.requests] == ["100", "25", "6", "3", "1", "1"]
        assert (summary.requests, summary.retries) == (6, 5)
        told = [(event.attempt, event.wait_s) for event in events if isinstance(event, RequestRetried)]
        assert told == [(1, 0.01), (2, 0.02), (3, 0.04), (4, 0.08), (5, 0.16)]
        t.sandbox.faults.rules.clear()
        await t.agrees()


@pytest.mark.parametrize("status", [408, 504])
async def test_gateway_that_takes_a_page_for_too_slow_gets_requests_for_smaller_ones(database_url, status):
    async with trial(database_url, one_stream(300)) as t:
        t.api = {"page_size": 100}
        t.sandbox.faults.on(lambda each: int(each.query.get("take", 0)) > 30, Status(status))
        await t.agrees()


@pytest.mark.parametrize("runs", range(3, 9))
async def test_short_listing_without_a_count_is_read_to_its_end_if_pages_are_slow(database_url, runs):
    async with trial(database_url, one_stream(runs)) as t:
        t.api = {"page_size": "auto"}
        t.sandbox.faults.no_paging_headers = True
        t.sandbox.faults.on(lambda each: int(each.query.get("take", 0)) > 10, Status(504))
        for mode in ("sync", "reconcile", "sync"):
            await t.agrees(mode)


async def test_each_slow_page_counts_as_one_retry(database_url):
    async with trial(database_url, one_stream(300)) as t:
        t.api = {"page_size": 25, "timeout_s": 0.5, "concurrency": 4}
        t.sandbox.faults.on(page(3), Delay(60), times=1)
        summary = await t.run()
        assert (summary.status, summary.retries) == ("succeeded", 1)


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_page_that_always_times_out_fails_the_stream(database_url, concurrency):
    def shows_run_150(request):
        number, size = (int(request.query.get(name, 0)) for name in ("page", "take"))
        return lists_runs(request) and (number - 1) * size < 150 <= number * size

    async with trial(database_url, one_stream(300)) as t:
        t.api = {"page_size": 100, "timeout_s": 0.3, "concurrency": concurrency}
        t.sandbox.faults.on(shows_run_150, Delay(60))
        summary = await t.run(policy=RetryPolicy(first_pause_s=0.01, longest_pause_s=0.1, jitter=0))
        assert summary.status == "failed"
        assert summary.requests < 60
        t.sandbox.faults.rules.clear()
        await t.agrees()


async def test_slow_pages_of_a_moment_do_not_shrink_the_pages_of_later_syncs(database_url):
    async with trial(database_url, one_stream(150)) as t:
        t.api = {"page_size": "auto", "timeout_s": 0.3, "concurrency": 1}
        t.sandbox.faults.cap = Cap(100)
        slow = iter([2, 3, 5, 9])
        number = next(slow)

        def is_slow(request):
            nonlocal number
            if not lists_runs(request) or len(t.sandbox.requests) != number:
                return False
            number = next(slow, 0)
            return True

        t.sandbox.faults.on(is_slow, Delay(60))
        assert (
            await t.run(policy=RetryPolicy(first_pause_s=0.01, longest_pause_s=0.1, jitter=0))
        ).status == "succeeded"
        t.sandbox.faults.rules.clear()
        assert await t.requests_of("reconcile") <= 4


def takes(t, since=0):
    """Return the page sizes of the requests for runs."""
    return [int(each.query["take"]) for each in t.sandbox.requests[since:] if "take" in each.query]


@pytest.mark.parametrize(
    ("cap", "how"), [(50, "told"), (50, "refused"), (100, "silent"), (250, "refused"), (1000, "told")]
)
async def test_largest_pages_are_found_and_remembered(database_url, cap, how):
    world = one_stream(2300)
    async with trial(database_url, world) as t:
        t.api = AUTO
        t.sandbox.faults.cap = Cap(cap, how)
        await t.agrees()
        assert takes(t)[0] == 1000
        known = await t.connection.fetchval("SELECT page_size FROM etl_page_sizes")
        assert cap / 2 < known <= cap
        before = len(t.sandbox.requests)
        await t.agrees("reconcile")
        asked = takes(t, before)
        assert max(asked) <= known
        assert len(asked) <= 1.3 * 2300 / known + 3
        await t.connection.execute("UPDATE etl_page_sizes SET tried_at = now() - interval '8 days'")
        before = len(t.sandbox.requests)
        t.sandbox.faults.cap = None
        await t.agrees("reconcile")
        assert takes(t, before)[0] == 1000, "larger pages are tried again"
        assert await t.connection.fetchval("SELECT page_size FROM etl_page_sizes") == 1000


async def test_idle_sync_asks_for_one_small_page(database_url):
    world = one_stream(1500)
    async with trial(database_url, world) as t:
        t.api = AUTO
        await t.agrees()
        before = len(t.sandbox.requests)
        assert await t.requests_of() == 1
        assert takes(t, before) == [100]
        for _ in range(600):
            world.create_run(WORKFLOW)
        before = len(t.sandbox.requests)
        await t.agrees()
        assert takes(t, before)[:2] == [100, 1000], "the rest is read on large pages"


async def test_head_page_is_smaller_if_runs_are_large(database_url):
    world = one_stream(120)
    lengthen(world, range(120), 60_000)
    async with trial(database_url, world) as t:
        t.api = AUTO
        await t.agrees()
        before = len(t.sandbox.requests)
        assert await t.requests_of() == 1
        assert 20 <= takes(t, before)[0] < 40


async def test_search_for_gone_runs_asks_for_pages_that_fit(database_url):
    world = one_stream(200)
    ids = lengthen(world, range(200), 60_000)
    async with trial(database_url, world) as t:
        t.api = AUTO
        await t.agrees()
        world.delete_run(ids[150])
        before = len(t.sandbox.requests)
        await t.agrees()
        assert max(takes(t, before)) <= 100
