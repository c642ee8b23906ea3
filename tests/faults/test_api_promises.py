"""Promises 10, 11 and 13, as measured by the server."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
from api_clients import QUICK, busiest, client_of

from etl.errors import EtlError
from etl.events import RateLimited
from etl.sandbox.faults import Body, CutBody, Reset, Status

READER = Path(__file__).with_name("api_reader.py")
LIMIT, WINDOW_S = 60, 16.0
"""A shorter window leaves a busy machine too little time between sending a request and its arrival."""


def most_in_any_window(server, window_s):
    """Return the number of requests in the busiest window that starts with a request."""
    times = [request.time_monotonic for request in server.requests]
    return max(sum(start <= time < start + window_s for time in times) for start in times)


def start_reader(server, database_url, small_world, seconds):
    app_id, workflow_id = busiest(small_world)
    arguments = [server.url, database_url, app_id, workflow_id, LIMIT, WINDOW_S, seconds]
    return subprocess.Popen([sys.executable, str(READER), *map(str, arguments)], stdout=subprocess.PIPE)


@pytest.mark.timeout(120)  # two windows
async def test_10_and_13_processes_and_retries_share_one_request_budget(sandbox, small_world, database_url):
    server = await sandbox(requests_per_minute=LIMIT, rate_window_s=WINDOW_S)
    server.faults.on(lambda request: True, Reset(), every=7)
    server.faults.on(lambda request: True, Status(503), every=5)
    server.faults.on(lambda request: True, CutBody(), every=3)
    readers = [start_reader(server, database_url, small_world, seconds=2.2 * WINDOW_S) for _ in range(3)]
    await asyncio.sleep(3)
    os.kill(readers[0].pid, signal.SIGKILL)  # its leases still count
    outputs = await asyncio.gather(*(asyncio.to_thread(reader.communicate) for reader in readers))
    sent, refused = zip(*(map(int, output.split()) for output, _ in outputs[1:]), strict=True)
    assert sum(refused) == 0
    assert all(sent)
    assert most_in_any_window(server, WINDOW_S) <= LIMIT
    assert server.faults.applied["Reset"] > 5
    assert len(server.requests) > 1.9 * LIMIT  # not slower than necessary


async def test_10_retry_after_pauses_all_processes(sandbox, small_world, database_url):
    server = await sandbox()
    readers = [start_reader(server, database_url, small_world, seconds=5) for _ in range(2)]
    while len(server.requests) < 20:
        await asyncio.sleep(0.01)
    server.faults.queue(Status(429, retry_after=2))
    await asyncio.gather(*(asyncio.to_thread(reader.communicate) for reader in readers))
    refused_at = next(request.time_monotonic for request in server.requests if request.status == 429)
    valid_s = WINDOW_S / 200  # requests leased earlier by the other process may still be sent
    later = [request.time_monotonic - refused_at for request in server.requests if request.time_monotonic > refused_at]
    assert [each for each in later if 0.2 + valid_s < each < 1.9] == []
    assert later[-1] > 2


@pytest.mark.parametrize(
    "fault",
    [
        Status(401, message="key sk-sandbox refused"),
        Status(403, message="key sk-sandbox may not"),
        Status(500, message="key sk-sandbox broke it"),
        Body(b'{"message":"sk-sandbox"}'),
        Body(b"<p>sk-sandbox</p>"),
        Reset(),
    ],
)  # fmt: skip
async def test_11_key_appears_in_no_error_event_log_or_traceback(sandbox, small_world, fault, caplog):
    caplog.set_level(logging.DEBUG)
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    server.faults.on(lambda request: True, fault)
    events = []
    async with client_of(server.url, events.append) as client:
        with pytest.raises(EtlError) as caught:
            await client.list_runs(app_id, workflow_id, 1, 10)
    shown = [
        "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=False).format()),
        repr(caught.value.__reduce__()),
        repr(events),
        caplog.text,
        repr(client),
    ]
    assert "sk-sandbox" not in "\n".join(shown)


async def test_10_invalid_responses_are_never_accepted_as_pages(sandbox, small_world):
    server = await sandbox()
    app_id, workflow_id = busiest(small_world)
    faults = [
        Reset(),
        Status(502, html=True),
        CutBody("half_json"),
        CutBody("chunked"),
        Body(b""),
        Body(b"[", "text/html"),
    ]
    for place, fault in enumerate(faults):
        server.faults.on(lambda request: True, fault, every=place + 3)
    events = []
    stubborn = replace(QUICK, attempts=60)  # most responses are invalid here
    async with client_of(server.url, events.append, policy=stubborn) as client:
        pages = await asyncio.gather(*(client.list_runs(app_id, workflow_id, 1 + n % 5, 10) for n in range(60)))
    expected = small_world.listing(workflow_id)
    for n, page in enumerate(pages):
        assert [json.loads(item) for item in page.items] == expected[(n % 5) * 10 :][:10]
    assert not any(isinstance(event, RateLimited) for event in events)
