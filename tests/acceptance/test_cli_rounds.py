"""`sync --every`: rounds until a signal arrives, or until an error that a new round cannot fix."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest
from command_fixtures import ended as end_of

from etl.sandbox.faults import Status, any_request


@pytest.fixture
async def start(command):
    """Start a command, and kill it at the end of the test if it is still running."""
    started = []

    async def start(*arguments: str) -> asyncio.subprocess.Process:
        started.append(await command.start(*arguments))
        return started[-1]

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def next_line(stream: asyncio.StreamReader) -> str:
    line = (await asyncio.wait_for(stream.readline(), 30)).decode()
    assert line, "the command ended"
    return line


async def next_summary(process) -> str:
    """Read up to the summary line of a round."""
    line = ""
    while not line.startswith("sync "):
        line = await next_line(process.stdout)
    return line


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
async def test_rounds_until_a_signal_between_two(at_work, start, warehouse, sign) -> None:
    _, running = at_work
    process = await start("sync", "--every", "2s")
    assert "sync succeeded: 240 new" in await next_summary(process)
    running.world.create_run(next(iter(running.world.workflows)))
    assert "sync succeeded: 1 new" in await next_summary(process)
    assert "sync succeeded: 0 new" in await next_summary(process)
    await asyncio.sleep(0.5)
    process.send_signal(sign)
    ended = await asyncio.wait_for(end_of(process), 10)
    assert ended.code == 0, ended.err
    assert "interrupted" not in ended.err
    assert "every 2s, until stopped" in ended.err
    rows = await warehouse.fetch("SELECT status, started_at FROM etl_syncs ORDER BY id")
    assert [row["status"] for row in rows] == ["succeeded"] * 3
    assert (rows[2]["started_at"] - rows[1]["started_at"]).total_seconds() == pytest.approx(2, abs=0.7)


async def test_signal_within_a_round_interrupts_it(at_work, start) -> None:
    _, running = at_work
    process = await start("sync", "--every", "1h", "--json")
    running.faults.latency_s = 3
    while not running.requests:
        await asyncio.sleep(0.05)
    process.terminate()
    ended = await asyncio.wait_for(end_of(process), 10)
    assert (ended.code, ended.json["status"]) == (130, "interrupted")


async def test_failures_wait_for_the_next_round(at_work, start) -> None:
    _, running = at_work
    running.faults.on(any_request, Status(403, message="not yours"))
    process = await start("sync", "--every", "1s", "--json", "--log-format", "console")

    async def next_status() -> tuple[str, int]:
        text = ""
        while not text.endswith("}\n") or text.count("{") != text.count("}"):
            text += await next_line(process.stdout)
        found = json.loads(text)
        return found["status"], found["exit_code"]

    assert await next_status() == ("failed", 1)
    assert await next_status() == ("failed", 1)
    running.faults.clear()
    assert await next_status() == ("succeeded", 0)
    running.key = "sk-other"
    assert await next_status() == ("failed", 3)
    ended = await asyncio.wait_for(end_of(process), 10)
    assert ended.code == 3
    assert "2 rounds in a row have failed; the next one begins in 2s" in ended.err


async def test_unreachable_database_waits_for_the_next_round(command, start) -> None:
    command.configure("api: {key: sk-1}\napps: [{id: a}]\ndatabase: {url: 'postgresql://u:p@127.0.0.1:9/d'}\n")
    process = await start("sync", "--every", "1s", "--log-format", "console")
    said = ""
    while "2 rounds in a row have failed; the next one begins in 2s" not in said:
        said += await next_line(process.stderr)
        assert said.count("error:") <= 2
    await asyncio.sleep(0.3)
    process.terminate()
    ended = await asyncio.wait_for(end_of(process), 10)
    assert ended.code == 0
    assert said.count("error: PostgreSQL cannot be reached") == 2


async def test_settings_errors_end_the_rounds(command) -> None:
    command.configure("api: {key: sk-1}\n")
    ended = await command("sync", "--every", "1s")
    assert (ended.code, ended.err.count("error:")) == (2, 1)


@pytest.mark.parametrize(("every", "says"), [("0", "expected at least 1s"), ("soon", "expected a duration such as")])
async def test_interval_is_checked(command, every, says) -> None:
    ended = await command("sync", "--every", every)
    assert (ended.code, says in ended.err) == (2, True)
