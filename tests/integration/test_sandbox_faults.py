"""The faults of the simulated API as seen by a client."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest

from etl.sandbox import World, faults, serve
from etl.sandbox.odd_runs import KINDS

KEY = {"Authorization": "Bearer sk-sandbox"}
RUNS = "/apps/c/workflows/wf_ticket_triage/runs"


@pytest.fixture
async def get():
    async with aiohttp.ClientSession(headers=KEY) as session:

        async def get(url: str, method: str = "GET", **query: Any) -> tuple[int, bytes, Any]:
            async with session.request(method, url, params=query) as response:
                return response.status, await response.read(), response.headers

        yield get


@pytest.mark.parametrize("status", [401, 404, 429, 500, 502, 503])
async def test_status_can_be_queued_for_the_next_request(sandbox, get, status):
    api = await sandbox()
    api.faults.queue(None, faults.Status(status))
    answers = [await get(api.url + RUNS) for _ in range(3)]
    assert [each[0] for each in answers] == [200, status, 200]
    assert json.loads(answers[1][1])["status"] == status
    assert api.faults.applied == {"Status": 1}
    assert [request.status for request in api.requests] == [200, status, 200]


async def test_status_can_have_retry_after(sandbox, get):
    api = await sandbox()
    moment = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=7)
    api.faults.queue(faults.Status(429, retry_after=2), faults.Status(503, retry_after=moment, html=True))
    assert (await get(api.url + RUNS))[2]["retry-after"] == "2"
    _, body, headers = await get(api.url + RUNS)
    assert parsedate_to_datetime(headers["retry-after"]) == moment
    assert body.startswith(b"<!DOCTYPE html>")
    assert headers["content-type"] == "text/html"


@pytest.mark.parametrize("how", ["length", "chunked"])
async def test_body_can_be_truncated(sandbox, get, how):
    api = await sandbox()
    api.faults.queue(faults.CutBody(how))
    with pytest.raises(aiohttp.ClientPayloadError):
        await get(api.url + RUNS, verbose="all")
    assert json.loads((await get(api.url + RUNS))[1])


async def test_half_a_body_can_look_complete(sandbox, get):
    api = await sandbox()
    api.faults.queue(faults.CutBody("half_json"))
    status, body, _ = await get(api.url + RUNS, verbose="all")
    assert status == 200
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|Invalid"):
        json.loads(body)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [(faults.EMPTY_BODY, b""), (faults.HTML_OK, b"<!DOCTYPE"), (faults.OBJECT_BODY, b'{"data":[]')],
)
async def test_body_can_be_unexpected(sandbox, get, fault, expected):
    api = await sandbox()
    api.faults.queue(fault)
    status, body, _ = await get(api.url + RUNS)
    assert status == 200
    assert body.startswith(expected)
    assert bool(body) == bool(expected)


async def test_connection_can_be_reset(sandbox, get):
    api = await sandbox()
    api.faults.queue(faults.Reset(), faults.Reset())
    # Not a GET, which the client retries by itself after a reset.
    with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
        await get(f"{api.url}{RUNS}/any/replay", "POST")
    assert [request.status for request in api.requests] == [0]
    with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
        await get(f"{api.url}{RUNS}/any/replay", "POST")
    assert (await get(api.url + RUNS))[0] == 200


async def test_server_can_hang(sandbox, get):
    api = await sandbox()
    api.faults.queue(faults.HANG)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(get(api.url + RUNS), 0.2)
    assert (await get(api.url + RUNS))[0] == 200


async def test_responses_can_be_slow(sandbox, get):
    api = await sandbox()
    api.faults.latency_s = 0.1
    api.faults.queue(faults.Delay(0.1))
    began = time.monotonic()
    await get(api.url + RUNS)
    assert time.monotonic() - began >= 0.2


async def test_rules_apply_to_matching_requests(sandbox, get):
    api = await sandbox()
    rule = api.faults.on(faults.page(2), faults.Status(500), every=2, times=1)
    wanted = [await get(api.url + RUNS, page=page) for page in (1, 2, 1, 2, 2, 2)]
    assert [each[0] for each in wanted] == [200, 200, 200, 500, 200, 200]
    assert (rule.matched, rule.times) == (2, 0)
    api.faults.on(faults.gets_run, faults.Status(503))
    assert (await get(f"{api.url}{RUNS}/any"))[0] == 503
    assert (await get(api.url + RUNS))[0] == 200
    api.faults.clear()
    assert (await get(f"{api.url}{RUNS}/any"))[0] == 404


async def test_first_page_can_be_repeated(sandbox, get):
    api = await sandbox()
    api.faults.repeat_first_page = True
    first, third = [await get(api.url + RUNS, page=page, take=10) for page in (1, 3)]
    assert first[1] == third[1]
    assert third[2]["pagination-page"] == "3"


async def test_paging_headers_can_be_wrong_or_missing(sandbox, get, small_world):
    api = await sandbox()
    count = len(small_world.runs["wf_ticket_triage"])
    api.faults.count_delta = -5
    assert (await get(api.url + RUNS))[2]["pagination-count"] == str(count - 5)
    api.faults.no_paging_headers = True
    assert not [name for name in (await get(api.url + RUNS))[2] if name.lower().startswith("pagination")]


async def test_page_size_can_be_capped_between_pages(sandbox, get):
    api = await sandbox()
    api.faults.cap = faults.Cap(7)
    _, body, headers = await get(api.url + RUNS, take=50)
    assert (len(json.loads(body)), headers["pagination-take"]) == (7, "7")


async def test_clock_can_be_wrong(sandbox, get):
    api = await sandbox()
    api.faults.clock_offset = timedelta(days=-20_000)
    moment = parsedate_to_datetime((await get(api.url + RUNS))[2]["date"])
    assert abs(datetime.now(UTC) - timedelta(days=20_000) - moment) < timedelta(minutes=1)


async def test_bad_items_can_be_inserted_into_a_page(sandbox, get, small_world):
    api = await sandbox()
    run = small_world.listing("wf_ticket_triage")[0]
    foreign = KINDS["foreign_workflow"](run)
    api.faults.on(faults.page(1), faults.BadItem(b"NaN", at=1), faults.BadItem(foreign, at=0, replace=True))
    _, body, headers = await get(api.url + RUNS, take=3)
    assert body.startswith(b"[" + foreign + b",NaN,{")
    assert headers["pagination-count"] == str(len(small_world.runs["wf_ticket_triage"]))


async def test_hooks_run_before_and_after_each_response(sandbox, get, small_world):
    api = await sandbox()
    seen = []

    async def before(path: str, query: dict[str, str], number: int) -> None:
        await asyncio.sleep(0)
        seen.append(("before", path, query.get("page"), number))
        small_world.create_run("wf_ticket_triage", id=f"drifted-{number}")

    api.faults.before_response = before
    api.faults.after_response = lambda path, _query, number: seen.append(("after", path, None, number))
    _, body, _ = await get(api.url + RUNS, page=1)
    assert json.loads(body)[0]["id"] == "drifted-1"
    await get(api.url + RUNS, page=2)
    assert seen == [
        ("before", RUNS, "1", 1),
        ("after", RUNS, None, 1),
        ("before", RUNS, "2", 2),
        ("after", RUNS, None, 2),
    ]


async def test_listing_can_drift_between_pages(sandbox, get):
    outcomes = []
    for _ in range(2):
        world = World.generate(runs=240, workflows_per_app=2, open_runs=0, rough_edges=False)
        before = set(world.runs["wf_ticket_triage"])
        api = await sandbox(world)
        drift = api.faults.drift = faults.Drift(chance=0.7, creates=2, deletes=1, seed=3)
        for page in range(1, 7):
            await get(api.url + RUNS, page=page, take=10)
        await get(api.url + "/apps/c/workflows")
        assert set(world.runs["wf_ticket_triage"]) == (before | set(drift.created)) - set(drift.deleted)
        assert 0 < len(drift.created) == 2 * len(drift.deleted) < 12
        outcomes.append((drift.created, drift.deleted))
    assert outcomes[0] == outcomes[1], "the same seed drifts the same way"


async def test_serve_advances_the_world(get):
    async with serve("127.0.0.1", 0, runs=600, key="sk-sandbox", speed=7 * 86_400) as api:
        url = api.url
        count = int((await get(url + RUNS))[2]["pagination-count"])
        async with asyncio.timeout(10):
            while int((await get(url + RUNS))[2]["pagination-count"]) == count:
                await asyncio.sleep(0.1)
    async with serve(runs=60, speed=0) as api:
        url = api.url
        assert (await get(url + RUNS))[0] == 200
    with pytest.raises(aiohttp.ClientConnectorError):
        await get(url + RUNS)
