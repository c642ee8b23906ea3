"""Database outages during a sync: it continues afterwards, or ends with a hint."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_clients import QUICK
from postgres_proxies import gated
from sync_trials import SCHEMA, Trial, differences, lose_all_connections, one_stream, start, trial

from etl.app import run_sync, sync_invocation
from etl.config import AppSettings, DatabaseSettings
from etl.db import embedded, liveness
from etl.db.connect import connect
from etl.errors import DatabaseError
from etl.events import BatchLoaded, Event, Notice
from etl.sandbox import Sandbox


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A server that the test may stop."""
    directory = Path(tempfile.mkdtemp(prefix="cf-"))
    directory.chmod(0o755)
    yield directory / "data"
    embedded.stop(directory / "data")
    shutil.rmtree(directory, ignore_errors=True)


def _restart(data_dir: Path, *, away_s: float = 0) -> None:
    embedded.stop(data_dir)
    time.sleep(away_s)
    embedded.start(data_dir)


@pytest.mark.parametrize("mode", ["backfill", "reconcile"])
async def test_sync_continues_after_a_database_outage(data_dir: Path, mode: str) -> None:
    url = embedded.start(data_dir)
    world = one_stream(200)
    async with Sandbox(world, max_take=10) as sandbox:
        trial = Trial(sandbox, url, None, api={"page_size": 10, "concurrency": 2})
        if mode == "reconcile":
            await trial.run("backfill")
            for run_id in list(world.runs["wf_1"])[::3]:
                world.replay_run(run_id)

        async def restart(path: str, query: dict[str, str], number: int) -> None:
            if query.get("page") == "8" and not restarted:
                restarted.append(number)
                await asyncio.shield(asyncio.to_thread(_restart, data_dir))  # the sync may cancel this request

        restarted: list[int] = []
        sandbox.faults.before_response = restart
        summary = await trial.run(mode)
        assert restarted
        assert (summary.status, summary.exit_code) == ("succeeded", 0), summary.error
        connection = await connect(url, SCHEMA)
        try:
            assert await differences(connection, world) == []
            ended = await connection.fetchval("SELECT status FROM etl_syncs ORDER BY id DESC LIMIT 1")
            assert ended == "succeeded"
        finally:
            await connection.close()


async def test_sync_continues_after_an_outage_while_workflows_are_listed(data_dir: Path) -> None:
    url = embedded.start(data_dir)
    world = one_stream(20)
    async with Sandbox(world) as sandbox:
        settings = Trial(sandbox, url, None).settings
        settings = settings.model_copy(update={"apps": [AppSettings(id="app_1")]})

        async def restart(path: str, query: dict[str, str], number: int) -> None:
            if path.endswith("/workflows") and not restarted:
                restarted.append(number)
                await asyncio.to_thread(_restart, data_dir)

        restarted: list[int] = []
        sandbox.faults.before_response = restart
        summary = await run_sync(settings, "sync", policy=QUICK)
        assert restarted
        assert (summary.status, summary.runs_inserted) == ("succeeded", 20), summary.error


async def test_outage_is_logged_without_driver_noise(data_dir: Path, tmp_path: Path) -> None:
    """The driver would print many lines if it cannot connect."""
    url = embedded.start(data_dir)
    async with Sandbox(one_stream(200), max_take=10) as sandbox:
        trial = Trial(sandbox, url, None, api={"page_size": 10, "concurrency": 2})

        async def restart(path: str, query: dict[str, str], number: int) -> None:
            if query.get("page") == "8" and not restarted:
                restarted.append(number)
                await asyncio.shield(asyncio.to_thread(_restart, data_dir, away_s=1))

        restarted: list[int] = []
        sandbox.faults.before_response = restart
        process = await start(trial, tmp_path, "sync")
        ended = await process.running.end()
    assert restarted
    assert ended.code == 0
    assert "database.lost" in {json.loads(line)["event"] for line in ended.err.splitlines()}


@pytest.mark.parametrize(
    "timeout_s", [sync_invocation.RECORD_TIMEOUT_S, 0.5]
)  # longer and shorter than reconnecting takes
async def test_persistent_outage_exits_with_4_and_loses_nothing(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, timeout_s: float
) -> None:
    monkeypatch.setattr(liveness, "OUTAGE_S", 1.0)
    monkeypatch.setattr(sync_invocation, "RECORD_TIMEOUT_S", timeout_s)
    url = embedded.start(data_dir)
    world = one_stream(200)
    async with Sandbox(world, max_take=10) as sandbox:
        trial = Trial(sandbox, url, None, api={"page_size": 10, "concurrency": 2})

        async def end(path: str, query: dict[str, str], number: int) -> None:
            if query.get("page") == "8":
                await asyncio.to_thread(embedded.stop, data_dir)

        sandbox.faults.before_response = end
        ended = await run_sync(trial.settings, "sync")
        assert (ended.status, ended.exit_code) == ("failed", 4)
        assert isinstance(ended.cause, DatabaseError)
        assert ended.hint
        sandbox.faults.clear()
        embedded.start(data_dir)
        summary = await trial.run("sync")
        assert summary.status == "succeeded"
        assert summary.runs_inserted < 200, "data committed before the outage is kept"
        connection = await connect(url, SCHEMA)
        try:
            assert await differences(connection, world) == []
            statuses = [row["status"] for row in await connection.fetch("SELECT status FROM etl_syncs ORDER BY id")]
            assert statuses == ["interrupted", "succeeded"]
        finally:
            await connection.close()


@pytest.mark.parametrize("mode", ["backfill", "sync"])
async def test_runs_of_a_commit_without_an_answer_are_counted(database_url: str, mode: str) -> None:
    async with gated(database_url) as gate, trial(database_url, one_stream(45)) as t:
        t.api = {"page_size": 10, "concurrency": 2}
        if mode == "sync":
            await t.agrees()
            for _ in range(25):
                t.world.create_run("wf_1")
        t.url, asked = gate.url, []

        def lose(path: str, query: dict[str, str], number: int) -> None:
            asked.append(path)
            gate.lost_commits += len(asked) == 2

        t.sandbox.faults.before_response = lose
        told: list[Event] = []
        summary = await t.run(mode, listener=told.append)
        assert gate.lost_commits == 0
        assert any(isinstance(event, Notice) and event.name == "database.lost" for event in told)
        assert (summary.status, summary.exit_code) == ("succeeded", 0)
        assert await t.differences() == []
        new = 45 if mode == "backfill" else 25
        assert (summary.runs_inserted, summary.runs_updated) == (new, 0)
        assert sum(event.inserted for event in told if isinstance(event, BatchLoaded)) == new
        assert await t.connection.fetchval("SELECT runs_inserted FROM etl_syncs ORDER BY id DESC LIMIT 1") == new


async def test_runs_of_a_transaction_that_was_not_committed_are_counted_once(database_url: str) -> None:
    async with trial(database_url, one_stream(45)) as t:
        t.api = {"page_size": 10, "concurrency": 1}
        asked: list[str] = []

        async def cut(path: str, query: dict[str, str], number: int) -> None:
            asked.append(path)
            if len(asked) == 3:
                await lose_all_connections(t)

        t.sandbox.faults.before_response = cut
        summary = await t.agrees("backfill")
        assert summary.runs_inserted == 45


async def test_killed_embedded_server_is_started_again(data_dir: Path) -> None:
    world = one_stream(200)
    async with Sandbox(world, max_take=10) as sandbox:
        trial = Trial(sandbox, "postgresql://unused", None, api={"page_size": 10, "concurrency": 2})
        settings = trial.settings.model_copy(update={"database": DatabaseSettings(), "data_dir": data_dir})

        async def kill(path: str, query: dict[str, str], number: int) -> None:
            if query.get("page") == "8" and not killed:
                killed.append(int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0]))
                os.kill(killed[0], signal.SIGKILL)

        killed: list[int] = []
        sandbox.faults.before_response = kill
        summary = await run_sync(settings, "sync")
        assert killed
        assert (summary.status, summary.exit_code) == ("succeeded", 0), summary.error
        connection = await connect(embedded.start(data_dir), SCHEMA)
        try:
            assert await differences(connection, world) == []
        finally:
            await connection.close()
