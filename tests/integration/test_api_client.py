"""The API client against the simulated API."""

import json
from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest
from api_clients import busiest, client_of

from etl.errors import FatalError, KeyRefusedError, NotFoundError
from etl.events import RateLimited, RequestRetried, RequestSent


async def test_page_has_raw_items_and_paging_headers(sandbox, small_world):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    async with client_of(server.url) as client:
        page = await client.list_runs(app_id, workflow_id, 2, 7)
    expected = small_world.listing(workflow_id)[7:14]
    assert [json.loads(item) for item in page.items] == expected
    assert (page.number, page.size, page.count) == (2, 7, len(small_world.runs[workflow_id]))
    assert page.next_token is None
    assert (
        page.url
        == f"{server.url}/apps/{app_id}/workflows/{workflow_id}/runs?page=2&take=7&status=ALL&origin=ALL&verbose=all"
    )
    assert page.received_at <= monotonic()
    assert abs(page.server_time - datetime.now(UTC)) < timedelta(seconds=5)


async def test_filters_are_sent(sandbox, small_world):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    async with client_of(server.url) as client:
        page = await client.list_runs(app_id, workflow_id, 1, 100, status="FAILED", origin="TRIGGER")
        probe = await client.probe_count(app_id, workflow_id, status="FAILED", origin="TRIGGER")
    found = [json.loads(item) for item in page.items]
    assert {(run["status"], run["origin"]) for run in found} <= {("FAILED", "TRIGGER")}
    assert page.count == probe.count == len(found)
    assert len(probe.items) <= 1


@pytest.mark.parametrize("verbose", [True, False])
async def test_verbose_is_sent_if_set(sandbox, small_world, verbose):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    run_id = next(iter(small_world.runs[workflow_id]))
    async with client_of(server.url, verbose=verbose) as client:
        await client.list_runs(app_id, workflow_id, 1, 1)
        await client.get_run(app_id, workflow_id, run_id)
    assert [request.query.get("verbose") for request in server.requests] == ["all" if verbose else None] * 2


async def test_run_and_workflow_documents(sandbox, small_world):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    run_id, run = next(iter(small_world.runs[workflow_id].items()))
    async with client_of(server.url) as client:
        assert json.loads(await client.get_run(app_id, workflow_id, run_id)) == run
        assert json.loads(await client.get_workflow(app_id, workflow_id))["id"] == workflow_id


async def test_workflows_are_listed_in_pages(sandbox, small_world):
    server = await sandbox()
    app_id, _ = busiest(small_world)
    async with client_of(server.url) as client:
        pages = [await client.list_workflows(app_id, number, 1) for number in (1, 2)]
    ids = [json.loads(item)["id"] for page in pages for item in page.items]
    assert sorted(ids) == sorted(key for key, each in small_world.workflows.items() if each["app"]["id"] == app_id)
    assert pages[0].count == 2


async def test_next_token_is_followed(sandbox, small_world):
    server = await sandbox(next_tokens=True)
    app_id, workflow_id = busiest(small_world)
    seen: list[str] = []
    async with client_of(server.url) as client:
        page = await client.list_runs(app_id, workflow_id, 1, 50)
        seen += [json.loads(item)["id"] for item in page.items]
        while page.next_token is not None:
            page = await client.list_runs(app_id, workflow_id, 1, 50, next_token=page.next_token)
            seen += [json.loads(item)["id"] for item in page.items]
    assert seen == [run["id"] for run in small_world.listing(workflow_id)]


async def test_capped_page_size_is_accepted(sandbox, small_world):
    server = await sandbox(max_take=20)
    app_id, workflow_id = busiest(small_world)
    async with client_of(server.url) as client:
        page = await client.list_runs(app_id, workflow_id, 1, 100)
    assert (len(page.items), page.size) == (20, 20)


async def test_missing_paging_headers_default_to_the_request(sandbox, small_world):
    server = await sandbox()
    server.faults.no_paging_headers = True
    app_id, workflow_id = busiest(small_world)
    async with client_of(server.url) as client:
        page = await client.list_runs(app_id, workflow_id, 2, 10)
    assert (page.number, page.size, page.count, len(page.items)) == (2, 10, None, 10)


async def test_server_date_is_reported_unchanged(sandbox, small_world):
    server = await sandbox()
    server.faults.clock_offset = datetime(1970, 1, 1, tzinfo=UTC) - datetime.now(UTC)
    app_id, workflow_id = busiest(small_world)
    async with client_of(server.url) as client:
        page = await client.probe_count(app_id, workflow_id)
    assert page.server_time.year in (1969, 1970)


@pytest.mark.parametrize("run_id", ["a/b", "a?b#c", "50 %", "..", "ünï/🎈", "a%2Fb", "+&="])
async def test_ids_are_quoted(sandbox, small_world, run_id):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    small_world.create_run(workflow_id, id=run_id)
    async with client_of(server.url) as client:
        assert json.loads(await client.get_run(app_id, workflow_id, run_id))["id"] == run_id


async def test_empty_id_sends_no_request(sandbox, small_world):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    async with client_of(server.url) as client:
        with pytest.raises(FatalError, match="empty"):
            await client.get_run(app_id, workflow_id, "")
    assert server.requests == []


async def test_large_bodies_are_compressed(sandbox, small_world):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    raw = b'{"id":"big","input":{"text":"%b"}}' % (b"long text \\u0000 " * 400_000)
    small_world.create_run(workflow_id, id="big")
    small_world.raw["big"] = raw
    events = []
    async with client_of(server.url, events.append) as client:
        page = await client.list_runs(app_id, workflow_id, 1, 100)
        assert await client.get_run(app_id, workflow_id, "big") == raw
    assert raw in page.items
    assert [event.size > len(raw) for event in events] == [True, False]


async def test_body_over_the_limit_is_refused(sandbox, small_world):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    async with client_of(server.url, limit=10_000) as client:
        with pytest.raises(FatalError, match="larger") as caught:
            await client.list_runs(app_id, workflow_id, 1, 100)
        assert "page_size" in caught.value.hint
        assert (await client.probe_count(app_id, workflow_id)).count
    assert len(server.requests) == 2


async def test_refused_key_fails_immediately_and_stays_secret(sandbox, small_world):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    events = []
    client = client_of(server.url, events.append, key="sk-very-secret")
    async with client:
        with pytest.raises(KeyRefusedError, match="Invalid API key") as caught:
            await client.list_runs(app_id, workflow_id, 1, 100)
    assert len(server.requests) == 1
    for shown in (caught.value, caught.value.hint, client, vars(client), events):
        assert "very-secret" not in repr(shown)


async def test_not_found_error_quotes_the_api(sandbox, small_world):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    async with client_of(server.url) as client:
        with pytest.raises(NotFoundError, match=r"404 Not Found for /apps/.*/runs/nope: .*not found"):
            await client.get_run(app_id, workflow_id, "nope")
        with pytest.raises(NotFoundError, match="App not found"):
            await client.list_workflows("nope", 1, 10)
    assert len(server.requests) == 2


async def test_bad_request_error_quotes_the_api(sandbox, small_world):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    async with client_of(server.url) as client:
        with pytest.raises(FatalError, match=r"400 Bad Request .*status: "):
            await client.list_runs(app_id, workflow_id, 1, 10, status="SLEEPING")
    assert len(server.requests) == 1


async def test_every_request_emits_an_event(sandbox, small_world):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    events = []
    async with client_of(server.url, events.append) as client:
        await client.list_runs(app_id, workflow_id, 1, 10)
    [event] = events
    assert isinstance(event, RequestSent)
    assert (event.path, event.status) == (f"/apps/{app_id}/workflows/{workflow_id}/runs", 200)
    assert event.size > 1000
    assert 0 < event.seconds < 10
    assert not isinstance(event, RequestRetried | RateLimited)


async def test_unopened_client_raises(sandbox):
    client = client_of((await sandbox()).url)
    with pytest.raises(RuntimeError, match="context manager"):
        await client.list_workflows("c", 1, 1)
