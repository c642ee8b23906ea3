"""A database that stops answering (dropped packets, frozen server process): no command waits forever."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest
from postgres_proxies import Gate, gated
from sync_trials import one_stream, start, trial

from etl.db import liveness
from etl.db.connect import connect, create_pool
from etl.errors import DatabaseError
from etl.sandbox import World

PATIENCE_S = 8  # generous limit for operations that should take about a second
QUICK = {"timeout_s": 1}

MOMENTS = {
    "in a COPY": Gate(shut_before=b"COPY"),
    "before a commit": Gate(shut_before=b"COMMIT", armed_by=b"COPY"),
    "after a commit": Gate(shut_after=b"COMMIT", armed_by=b"COPY"),
    "when locking the stream": Gate(shut_before=b"lock_streams("),
    "when noting runs": Gate(shut_before=b"seen_runs SELECT"),
    "when leasing requests": Gate(shut_before=b"etl_rate_budgets"),
    "at the end of the stream": Gate(shut_after=b"SET watermark"),
}


@asynccontextmanager
async def behind_a_gate(url: str, world: World | None = None, *, moment: Gate | None = None, only_same: bool = False):
    """Yield a trial whose warehouse is behind a gate, and the gate."""
    async with trial(url, world or one_stream(60)) as t, gated(url) as gate:
        t.url, t.database, t.api = gate.url, QUICK, {"page_size": 20, "concurrency": 2}
        if moment is not None:
            gate.shut_before, gate.shut_after, gate.armed_by = moment.shut_before, moment.shut_after, moment.armed_by
            gate.only_same = only_same
        yield t, gate


def within(seconds: float = PATIENCE_S) -> asyncio.Timeout:
    return asyncio.timeout(seconds)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_sync_continues_on_another_connection(database_url: str, moment: str) -> None:
    async with behind_a_gate(database_url, moment=MOMENTS[moment], only_same=True) as (t, gate):
        async with within(20):
            await t.agrees("backfill")
        assert gate.is_shut.is_set()


@pytest.mark.parametrize("moment", MOMENTS)
async def test_persistent_silence_ends_a_sync_with_4(
    database_url: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "OUTAGE_S", 1.0)
    async with behind_a_gate(database_url, moment=MOMENTS[moment]) as (t, gate):
        async with within(12):
            ended = await t.run()
        assert gate.is_shut.is_set()
        assert (ended.status, ended.exit_code) == ("failed", 4), ended
        assert ended.hint
        gate.open()
        await t.agrees()


async def test_silence_while_the_api_answers(database_url: str) -> None:
    async with behind_a_gate(database_url) as (t, gate):

        async def shut(path: str, query: dict[str, str], number: int) -> None:
            if query.get("page") == "2" and not gate.is_shut.is_set():
                gate.shut()
                asyncio.get_running_loop().call_later(1.5, gate.open)

        t.sandbox.faults.before_response = shut
        async with within(20):
            await t.agrees()
        assert gate.is_shut.is_set()


@pytest.mark.parametrize(
    ("moment", "sign"), [*((each, signal.SIGTERM) for each in MOMENTS), ("in a COPY", signal.SIGINT)]
)
async def test_signal_ends_a_sync_in_time(database_url: str, tmp_path, moment: str, sign: signal.Signals) -> None:
    async with behind_a_gate(database_url, moment=MOMENTS[moment]) as (t, gate):
        t.database = {}  # a minute
        process = await start(t, tmp_path, "sync", "--json")
        await asyncio.wait_for(gate.is_shut.wait(), 20)
        await asyncio.sleep(0.2)
        process.signal(sign)
        assert await process.end(within_s=10) == 130, process.err
        assert process.json["status"] == "interrupted", "it ended before the signal"
        gate.open()
        async with within(20):
            await t.agrees()


@pytest.mark.parametrize("moment", ["in a COPY", "when leasing requests"])
async def test_second_signal_ends_a_sync_immediately(database_url: str, tmp_path, moment: str) -> None:
    async with behind_a_gate(database_url, moment=MOMENTS[moment]) as (t, gate):
        process = await start(t, tmp_path, "sync")
        await asyncio.wait_for(gate.is_shut.wait(), 20)
        process.signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        process.signal(signal.SIGINT)
        assert await process.end(within_s=1) == 130
        gate.open()
        async with within(20):
            await t.agrees()


@pytest.mark.parametrize("moment", ["before the greeting", "after the greeting"])
async def test_silence_while_connecting(database_url: str, moment: str) -> None:
    async with gated(database_url) as gate:
        if moment == "before the greeting":
            gate.shut()
        else:
            gate.shut_after = b"user"
        url = f"{gate.url}?connect_timeout=1"
        for opening in (connect(url, "cortex"), create_pool(url, "cortex", size=1)):
            async with within(3):
                with pytest.raises(DatabaseError, match="no response within 1 s") as caught:
                    await opening
            assert caught.value.exit_code == 4


async def test_second_host_is_reached_although_the_first_is_silent(database_url: str) -> None:
    async with gated(database_url) as silent, gated(database_url) as good:
        silent.shut()
        first, second = (urlsplit(each.url) for each in (silent, good))
        url = f"postgresql://{first.netloc},localhost:{second.port}{second.path}?connect_timeout=1"
        async with within(5):
            connection = await connect(url, "cortex")
        assert await connection.fetchval("SELECT count(*) FROM runs") == 0
        await connection.close()
        pool = await create_pool(url, "cortex", size=1)
        pool.terminate()


@pytest.mark.parametrize("reply", [b"", b"S"], ids=["before TLS", "in the TLS handshake"])
async def test_silence_while_encrypting(reply: bytes) -> None:
    waiting = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(reply)
        await waiting.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with within(3):
        with pytest.raises(DatabaseError, match="no response within 1 s"):
            await connect(f"postgresql://u@127.0.0.1:{port}/d?sslmode=require&connect_timeout=1", "cortex")
    waiting.set()
    server.close()
    await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "arguments",
    [
        ("sync",),
        ("status",),
        ("plan",),
        ("doctor",),
        ("migrate",),
        ("sql", "SELECT 1"),
        ("report",),
        ("export", "files"),
        ("rejects", "list"),
        ("grant", "someone"),
        ("forget", "--run", "r", "--yes"),
    ],
    ids=lambda arguments: arguments[0],
)
async def test_commands_give_up_connecting(at_work, database_url: str, arguments: tuple[str, ...]) -> None:
    command, _ = at_work
    async with gated(database_url) as gate:
        gate.shut()
        path = command.folder / "config.yaml"
        path.write_text(path.read_text().replace(database_url, f"{gate.url}?connect_timeout=1"))
        ended = await asyncio.wait_for(command(*arguments), 15)
        assert ended.code == 4, ended
        assert "no response within 1 s" in ended.out + ended.err


@pytest.mark.parametrize("query", ["SELECT pg_sleep(60)", "SELECT generate_series(1, 1000000000)"])
async def test_signal_ends_a_query_in_time(at_work, database_url: str, query: str) -> None:
    command, _ = at_work
    async with gated(database_url) as gate:
        gate.shut_after = query[:10].encode()
        path = command.folder / "config.yaml"
        path.write_text(path.read_text().replace(database_url, gate.url))
        process = await command.start("sql", query)
        await asyncio.wait_for(gate.is_shut.wait(), 20)
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), 10)
        assert process.returncode == 130


async def test_close_does_not_wait_for_a_silent_server(database_url: str) -> None:
    async with gated(database_url) as gate:
        connection = await connect(gate.url, "cortex")
        gate.shut()
        async with within(3):
            await connection.close()
        assert connection.is_closed()


async def test_closing_prepared_statements_has_a_limit(database_url: str) -> None:
    """asyncpg caches 100 statements, and waits without a limit for the server to close others."""
    async with gated(database_url) as gate:
        connection = await connect(gate.url, "cortex", timeout_s=1)
        for number in range(101):
            await connection.fetchval(f"SELECT {number}")
        gate.shut_before = b"C\0"
        asking = asyncio.create_task(connection.fetchval("SELECT 101"))
        done, _ = await asyncio.wait({asking}, timeout=5)
        assert gate.is_shut.is_set()
        assert done, "it still waits"
        with pytest.raises(TimeoutError):
            await asking
        connection.terminate()


async def test_reset_in_a_copy_is_noticed(database_url: str) -> None:
    """asyncpg waits for its buffer to drain, and does not notice that the connection is lost."""
    async with gated(database_url) as gate:
        connection = await connect(gate.url, "cortex")
        await connection.execute("CREATE TEMPORARY TABLE large (text text)")
        gate.shut_before = b"COPY"
        records = [("x" * 100_000,)] * 300
        copying = asyncio.create_task(connection.copy_records_to_table("large", records=records))
        await asyncio.wait_for(gate.is_shut.wait(), 5)
        await asyncio.sleep(0.2)
        gate.reset()
        done, _ = await asyncio.wait({copying}, timeout=3)
        assert done, "it still waits"
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await copying


@asynccontextmanager
async def frozen(connection: asyncpg.Connection, application_name: str):
    """Stop the server processes of connections with this name."""
    rows = await connection.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1",
        application_name,
    )
    assert rows
    for row in rows:
        os.kill(row["pid"], signal.SIGSTOP)
    try:
        yield
    finally:
        for row in rows:
            os.kill(row["pid"], signal.SIGCONT)


@pytest.mark.parametrize("name", ["cortex-etl session", "cortex-etl", "cortex-etl budget"])
async def test_frozen_server_process(database_url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its locks cannot be taken over, but all commands end, and a sync works after the process resumes."""
    monkeypatch.setattr(liveness, "OUTAGE_S", 1.0)
    async with trial(database_url, one_stream(60)) as t:
        t.database, t.api = {"timeout_s": 0.5}, {"page_size": 20, "concurrency": 1}
        going, thawed = asyncio.Event(), asyncio.Event()

        async def wait(path: str, query: dict[str, str], number: int) -> None:
            if query.get("page") == "2" and not going.is_set():
                going.set()
                await thawed.wait()

        t.sandbox.faults.before_response = wait
        running = asyncio.create_task(t.run())
        await asyncio.wait_for(going.wait(), 10)
        async with frozen(t.connection, name):
            thawed.set()
            async with within(30):
                ended = await running
        assert ended.exit_code in (0, 4), ended
        assert name != "cortex-etl session" or "lost session" in ended.error
        await asyncio.sleep(0.2)
        async with within(20):
            await t.agrees()
