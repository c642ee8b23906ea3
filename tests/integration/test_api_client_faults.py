"""The API client against a failing API: retries and errors."""

import asyncio
import json
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from time import monotonic
from typing import Any

import pytest
from api_clients import QUICK, busiest, client_of

from etl.api.retry import BadRequestError, RetryPolicy
from etl.errors import FatalError, KeyRefusedError, NotFoundError, TransientError
from etl.events import RateLimited, RequestRetried, RequestSent
from etl.sandbox.faults import EMPTY_BODY, HANG, HTML_OK, OBJECT_BODY, Body, CutBody, Headers, Reset, Status

PASSING = {
    "500": Status(500),
    "502 as HTML": Status(502, html=True),
    "503 with a time to wait": Status(503, retry_after=0),
    "408": Status(408),
    "425": Status(425),
    "429 without Retry-After": Status(429),
    "429 with seconds": Status(429, retry_after=0),
    "404 by a proxy": Status(404, html=True),
    "no content": Status(204),
    "reset": Reset(),
    "hang": HANG,
    "cut by length": CutBody("length"),
    "cut in a chunk": CutBody("chunked"),
    "half the JSON": CutBody("half_json"),
    "empty": EMPTY_BODY,
    "white space": Body(b" \n"),
    "HTML": HTML_OK,
    "object for a list": OBJECT_BODY,
    "a string": Body(b'"[]"'),
    "two lists": Body(b"[][]"),
    "null": Body(b"null"),
}


@pytest.mark.parametrize("name", PASSING)
async def test_temporary_failures_are_retried_until_success(sandbox, small_world, name):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    server.faults.queue(PASSING[name], PASSING[name])
    events = []
    async with client_of(server.url, events.append, timeout_s=0.3) as client:
        page = await client.list_runs(app_id, workflow_id, 1, 10)
    assert [json.loads(item) for item in page.items] == small_world.listing(workflow_id)[:10]
    assert len(server.requests) == 3
    assert [event.is_retry for event in events if isinstance(event, RequestSent)] == [False, True, True]
    assert [event.attempt for event in events if isinstance(event, RequestRetried)] == [1, 2]


@pytest.mark.parametrize("name", ["500", "404 by a proxy", "half the JSON", "HTML", "null"])
async def test_lookup_of_a_run_is_retried(sandbox, small_world, name):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    run_id, run = next(iter(small_world.runs[workflow_id].items()))
    server.faults.queue(PASSING[name])
    async with client_of(server.url, timeout_s=0.3) as client:
        assert json.loads(await client.get_run(app_id, workflow_id, run_id)) == run
    assert len(server.requests) == 2


async def test_list_instead_of_a_run_is_refused(sandbox, small_world):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    run_id = next(iter(small_world.runs[workflow_id]))
    server.faults.on(lambda request: True, Body(b"[{}]"))
    async with client_of(server.url) as client:
        with pytest.raises(TransientError, match="not a JSON document: a JSON list"):
            await client.get_run(app_id, workflow_id, run_id)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("500", "500 Internal Server Error for /apps/.*: Something went wrong"),
        ("502 as HTML", "502 Bad Gateway .* an HTML page"),
        ("reset", "the connection broke"),
        ("hang", "no complete answer within 0.2 s"),
        ("cut by length", "cut body"),
        ("cut in a chunk", "cut body"),
        ("half the JSON", "cut body"),
        ("empty", "not a JSON list"),
        ("HTML", "not a JSON list"),
        ("object for a list", "not a JSON list"),
        ("no content", "204 No Content .* an empty body"),
    ],
)
async def test_persistent_failure_ends_after_six_attempts(sandbox, small_world, name, words):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    server.faults.on(lambda request: True, PASSING[name])
    events = []
    async with client_of(server.url, events.append, timeout_s=0.2 if name == "hang" else 10) as client:
        with pytest.raises(TransientError, match=words):
            await client.list_runs(app_id, workflow_id, 1, 10)
    assert len(server.requests) == 6
    assert sum(isinstance(event, RequestRetried) for event in events) == 5


@pytest.mark.parametrize(("status", "kind"), [(400, BadRequestError), (403, FatalError), (401, KeyRefusedError)])
async def test_permanent_error_is_not_retried(sandbox, small_world, status, kind):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    server.faults.on(lambda request: True, Status(status, message="Because so"))
    async with client_of(server.url) as client:
        with pytest.raises(kind, match="Because so") as caught:
            await client.list_runs(app_id, workflow_id, 1, 10)
    assert type(caught.value) is kind
    assert caught.value.hint
    assert len(server.requests) == 1


async def test_404_from_a_proxy_does_not_mean_gone(sandbox, small_world):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    server.faults.on(lambda request: True, Status(404, html=True))
    async with client_of(server.url) as client:
        with pytest.raises(TransientError, match=r"404 Not Found .* HTML") as caught:
            await client.get_run(app_id, workflow_id, "any")
    assert type(caught.value) is not NotFoundError


async def test_rate_limits_use_no_attempts(sandbox, small_world):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    server.faults.on(lambda request: True, Status(429, retry_after=0), times=12)
    async with client_of(server.url) as client:
        assert (await client.probe_count(app_id, workflow_id)).count
    assert len(server.requests) == 13


async def test_endless_rate_limit_fails_the_stream(sandbox, small_world):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    server.faults.on(lambda request: True, Status(429, message="Slow down"))
    policy = RetryPolicy(first_pause_s=0.05, longest_pause_s=0.05, rate_limit_timeout_s=0.5)
    started_at = monotonic()
    async with client_of(server.url, policy=policy) as client:
        with pytest.raises(FatalError, match=r"429 Too Many Requests .*Slow down") as caught:
            await client.list_runs(app_id, workflow_id, 1, 10)
    assert "requests_per_minute" in caught.value.hint
    assert 0.5 <= monotonic() - started_at < 5


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("asked", ["seconds", "a date by a clock that is wrong"])
async def test_retry_after_pauses_all_tasks(sandbox, small_world, status, asked):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    faults: list[Any] = [Status(status, retry_after=1)]
    if asked != "seconds":
        long_ago = datetime(1970, 1, 1, tzinfo=UTC)
        faults = [
            Status(status, retry_after=long_ago + timedelta(seconds=1)),
            Headers({"date": format_datetime(long_ago, usegmt=True)}),
        ]
    server.faults.on(lambda request: True, *faults, times=1)
    events = []
    async with client_of(server.url, events.append) as client:
        await asyncio.gather(client.probe_count(app_id, workflow_id), late(client, app_id, workflow_id))
    refused, *others = [request.time_monotonic for request in server.requests]
    assert len(others) == 4
    assert all(0.95 <= sent - refused < 4 for sent in others)
    [limited] = [event for event in events if isinstance(event, RateLimited)]
    assert limited.wait_s == 1


async def late(client, app_id, workflow_id):
    """Send three requests after the first one has been answered."""
    await asyncio.sleep(0.2)
    await asyncio.gather(*(client.probe_count(app_id, workflow_id) for _ in range(3)))


async def test_key_quoted_in_a_response_is_masked(sandbox, small_world):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    server.faults.queue(
        Status(500, message="key sk-sandbox is odd"),
        Body(b'{"message":"key sk-sandbox is odd"}'),
        Status(403, message="key sk-sandbox may not"),
    )
    events = []
    async with client_of(server.url, events.append) as client:
        with pytest.raises(FatalError, match=r"key \*\*\* may not") as caught:
            await client.list_runs(app_id, workflow_id, 1, 10)
    assert "sk-sandbox" not in repr([caught.value, caught.value.args, events])


async def test_cancelled_request_is_counted_and_affects_no_other(sandbox, small_world):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    server.faults.queue(HANG)
    events = []
    async with client_of(server.url, events.append) as client:
        hanging = asyncio.create_task(client.probe_count(app_id, workflow_id))
        while not server.requests:
            await asyncio.sleep(0.01)
        hanging.cancel()
        await asyncio.wait([hanging])
        assert (await client.probe_count(app_id, workflow_id)).count
    assert hanging.cancelled()
    assert [event.status for event in events] == [None, 200]


async def test_request_cancelled_before_sending_is_not_counted():
    """The server accepts the connection, but does not respond to TLS."""
    events = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        async with client_of(f"https://127.0.0.1:{server.getsockname()[1]}", events.append) as client:
            waiting = asyncio.create_task(client.list_workflows("c", 1, 1))
            connected, _ = await asyncio.get_running_loop().sock_accept(server)
            with connected:
                waiting.cancel()
                await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert events == []


async def test_every_request_passes_the_rate_limiter(sandbox, small_world):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    events = []
    async with client_of(server.url, events.append) as client:
        await client.probe_count(app_id, workflow_id)  # a persistent connection
        server.faults.on(lambda request: True, Reset(), times=3)
        await client.probe_count(app_id, workflow_id)
    assert len(server.requests) == 5
    assert sum(isinstance(event, RequestSent) for event in events) == 5


async def test_unreachable_api(unused_tcp_port):
    async with client_of(f"http://127.0.0.1:{unused_tcp_port}") as client:
        with pytest.raises(TransientError, match=f"cannot connect to 127.0.0.1:{unused_tcp_port}") as caught:
            await client.list_workflows("c", 1, 1)
    assert "base_url" in caught.value.hint


def test_production_retry_policy_is_bounded():
    policy = RetryPolicy()
    longest = [policy.pause_s(failure, 1) for failure in range(1, policy.attempts)]
    assert policy.attempts == 6
    assert 15 < sum(longest) < 60
    assert policy.pause_s(1, 0) > QUICK.pause_s(1, 1)
