"""Streams that run on the workers of an engine (setting `engine`)."""

import asyncio
import json
import signal
import sys
from collections import Counter
from concurrent.futures import Future

import psutil
import pytest
from command_fixtures import clean_environment
from postgres_proxies import gated
from sync_trials import claimers, configure, lose_all_connections, start, trial, workers_of, workflows

from etl.app import run_sync
from etl.app.engine_worker import _channel
from etl.app.shared_state import SharedState
from etl.app.sync_invocation import wait_for_workers
from etl.app.warehouse import open_warehouse
from etl.config import EngineSettings, load
from etl.db import liveness
from etl.db.queue import Queue
from etl.engine.executors import open_executor
from etl.errors import EtlError, SettingsError
from etl.events import StreamId, ignore
from etl.sandbox.faults import Status

WORKFLOWS = 6
COUNTS = ("pages", "runs_seen", "runs_inserted", "runs_updated", "runs_unchanged", "runs_gone", "rejects", "requests")


def spread(t, **engine):
    t.api, t.engine = {"page_size": 5, "concurrency": 1}, {"kind": "processes", "workers": 3} | engine
    t.sandbox.faults.latency_s = 0.02


async def working(t, *arguments, tmp_path, count=2):
    """Start a command, and wait until each of its workers has claimed a workflow."""
    caller = await start(t, tmp_path, *arguments, "--json")
    await asyncio.wait_for(claimers(t, count), 60)
    return caller


async def test_processes_give_the_summary_that_one_process_gives(database_url, tmp_path):
    world = workflows(WORKFLOWS)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5, "concurrency": 1}
        alone = await start(t, tmp_path, "sync", "--json")
        assert await alone.end() == 0
    async with trial(database_url, world) as t:
        spread(t)
        caller = await working(t, "sync", tmp_path=tmp_path)
        notified = []
        sync_id = await t.connection.fetchval("SELECT max(id) FROM etl_syncs")
        await t.connection.add_listener(_channel(t.settings, sync_id), lambda *told: notified.append(told[-1]))
        payloads = await t.connection.fetch(
            "SELECT q::text AS row FROM etl_queue AS q UNION SELECT s::text FROM etl_shared_syncs AS s"
        )
        assert await caller.end() == 0, caller.err
        assert await t.differences() == []
        assert {name: caller.json[name] for name in COUNTS} == {name: alone.json[name] for name in COUNTS}
        assert caller.json["requests"] == len(t.sandbox.requests)
        assert len(caller.json["streams"]) == WORKFLOWS
        finished = [line for line in map(json.loads, caller.err.splitlines()) if line["event"] == "stream.finished"]
        assert {line["workflow_id"] for line in finished} == {f"wf_{number}" for number in range(WORKFLOWS)}
        assert notified
        assert not any(t.sandbox.key in text for text in (*notified, *(row["row"] for row in payloads)))
        for table in ("etl_queue", "etl_shared_syncs"):
            assert await t.connection.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_other_workers_take_over_the_work_of_a_dead_worker(database_url, tmp_path):
    async with trial(database_url, workflows(WORKFLOWS)) as t:
        spread(t)
        caller = await working(t, "sync", tmp_path=tmp_path)
        workers_of(caller)[0].kill()
        assert await caller.end() == 0, caller.err
        assert await t.differences() == []


@pytest.mark.parametrize("returns_after_s", [0, 2])
async def test_workers_continue_after_a_database_outage(database_url, tmp_path, returns_after_s):
    """All processes lose their connections; the caller reconnects at once, or later than its workers."""
    async with trial(database_url, workflows(WORKFLOWS)) as t:
        spread(t)
        t.sandbox.faults.latency_s = 0.1
        caller = await working(t, "sync", tmp_path=tmp_path)
        caller.signal(signal.SIGSTOP)
        await lose_all_connections(t)
        await asyncio.sleep(returns_after_s)
        caller.signal(signal.SIGCONT)
        assert await caller.end() == 0, caller.err
        assert await t.differences() == []
        shown = Counter(json.loads(line)["event"] for line in caller.err.splitlines())
        assert shown["stream.finished"] == WORKFLOWS or returns_after_s, "events are lost while the caller is away"


async def test_command_with_workers_waits_for_an_outage_once(database_url, tmp_path, monkeypatch):
    """It does not wait again to stop its workers and to collect their results."""
    monkeypatch.setattr(liveness, "OUTAGE_S", 4.0)  # of the command, which runs in this process
    async with gated(database_url) as gate, trial(database_url, workflows(WORKFLOWS)) as t:
        spread(t)
        t.url, t.database = gate.url, {"timeout_s": 1}
        monkeypatch.setenv("CORTEX_API_KEY", t.sandbox.key)
        command = asyncio.create_task(run_sync(load(configure(t, tmp_path)), "sync"))
        await asyncio.wait_for(claimers(t, 2), 60)
        gate.shut()
        try:
            summary = await asyncio.wait_for(command, 11)
        finally:
            for worker in workers_of(psutil.Process()):
                worker.kill()
        assert (summary.status, summary.exit_code) == ("failed", 4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_workers_stop_with_their_caller(database_url, tmp_path, number):
    async with trial(database_url, workflows(WORKFLOWS)) as t:
        spread(t)
        caller = await working(t, "sync", tmp_path=tmp_path)
        caller.signal(number)
        assert await caller.end() == (130 if number == signal.SIGINT else -signal.SIGKILL), caller.err
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cortex-etl session' AND datname = current_database()"
        async with asyncio.timeout(10):
            while await t.connection.fetchval(sessions):
                await asyncio.sleep(0.05)
        sent = len(t.sandbox.requests)
        if number == signal.SIGINT:
            row = await t.connection.fetchrow("SELECT status, runs_inserted, requests FROM etl_syncs")
            runs = await t.connection.fetchval("SELECT count(*) FROM runs")
            assert tuple(row) == ("interrupted", runs, sent)
        t.engine = {}
        await t.agrees()


@pytest.mark.parametrize("code", [2, 3])
async def test_error_of_a_worker_ends_all(database_url, tmp_path, code):
    async with trial(database_url, workflows(WORKFLOWS)) as t:
        spread(t)
        if code == 2:  # the workers read other settings than the caller
            caller = await start(t, tmp_path, "sync", "--json")
            while not await t.connection.fetchval("SELECT count(*) FROM etl_syncs"):
                await asyncio.sleep(0.01)
            path = tmp_path / "config.yaml"
            path.write_text(path.read_text().replace('"page_size": 5', '"page_size": 6'))
        else:
            caller = await working(t, "sync", tmp_path=tmp_path)
            t.sandbox.faults.on(lambda request: request.path.endswith("/runs"), Status(401))
        assert await caller.end() == code, caller.err
        assert await t.connection.fetchval("SELECT status FROM etl_syncs") == "failed"
        if code == 2:
            assert "a worker differs in api.page_size" in caller.err


async def test_unreachable_engine_is_a_failure(database_url, tmp_path):
    async with trial(database_url, workflows(WORKFLOWS, runs=1)) as t:
        t.engine = {"kind": "dask", "address": "tcp://127.0.0.1:1"}
        caller = await start(t, tmp_path, "sync", "--json")
        assert await caller.end() == 1
        assert "cannot be reached" in caller.json["error"]
        assert caller.json["hint"]
        assert await t.connection.fetchval("SELECT status FROM etl_syncs") == "failed"


CLUSTER = """
from distributed import LocalCluster
cluster = LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None)
print(cluster.scheduler_address, flush=True)
input()
cluster.close()
"""


async def test_workers_of_a_dask_cluster_share_the_work(database_url, tmp_path):
    async with trial(database_url, workflows(WORKFLOWS)) as t:
        settings = {"CORTEX_ETL_CONFIG": str(tmp_path / "config.yaml"), "CORTEX_API_KEY": t.sandbox.key}
        cluster = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLUSTER, cwd=tmp_path, env=clean_environment() | settings,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            address = (await asyncio.wait_for(cluster.stdout.readline(), 60)).decode().strip()
            spread(t, kind="dask", address=address)
            caller = await working(t, "sync", tmp_path=tmp_path)
            assert await caller.end() == 0, caller.err
            assert await t.differences() == []
            assert caller.json["requests"] == len(t.sandbox.requests)
            killed = await working(t, "backfill", tmp_path=tmp_path)
            killed.signal(signal.SIGKILL)
            assert await killed.end() == -signal.SIGKILL
            caller = await start(t, tmp_path, "backfill", "--json")
            assert await caller.end(30) == 0, "the workers are free again"
            assert await t.differences() == []
        finally:
            _, written = await asyncio.wait_for(cluster.communicate(b"\n"), 60)
        assert t.sandbox.key not in written.decode()


async def test_work_that_the_engine_gives_up_is_a_failure(database_url):
    """The scheduler of a Dask cluster dies: its client cancels what it waits for."""
    given_up = Future()
    given_up.cancel()
    async with trial(database_url, workflows(1, runs=1)) as t, open_warehouse(t.settings, ignore) as warehouse:
        row = await warehouse.session.start_sync("sync")
        shared = SharedState(warehouse, row["id"])
        await shared.add("{}")
        await Queue(warehouse.ask, row["id"], "").fill([StreamId("app", "wf_0")])
        with pytest.raises(EtlError, match="no worker is left: the engine cancelled the worker"):
            await wait_for_workers([given_up], shared)


def test_tls_needs_all_files():
    with pytest.raises(SettingsError, match=r"needs engine\.tls_ca"):
        open_executor(EngineSettings(kind="dask", address="tls://127.0.0.1:8786", tls_ca="ca.pem"), None)


def test_without_the_extra_dask_is_a_settings_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SettingsError, match="Dask is not installed"):
        open_executor(EngineSettings(kind="dask", address="tcp://127.0.0.1:8786"), None)


async def test_one_process_imports_no_engine(database_url, tmp_path):
    """An engine must not increase the start-up time and memory of a sync in one process."""
    async with trial(database_url, workflows(1, runs=1)) as t:
        t.api = {"base_url": t.sandbox.url}
        await (await start(t, tmp_path, "sync")).end()
        code = (
            "import asyncio, sys; from etl.config import load; from etl.app import run_sync;"
            "summary = asyncio.run(run_sync(load(), 'sync')); assert summary.exit_code == 0, summary;"
            "print([name for name in ('distributed', 'dask', 'multiprocessing', 'etl.engine.executors') if name in sys.modules])"
        )
        environment = clean_environment() | {"CORTEX_API_KEY": t.sandbox.key}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, cwd=tmp_path, env=environment, stdout=asyncio.subprocess.PIPE
        )
        assert (await process.communicate())[0] == b"[]\n"
