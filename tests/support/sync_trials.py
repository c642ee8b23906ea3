"""Sync a sandbox to a warehouse and compare them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import psutil
from api_clients import QUICK
from command_fixtures import WARM, Running, clean_environment

from etl.app import SyncSummary, run_sync
from etl.config import ApiSettings, AppSettings, DatabaseSettings, Settings, SyncSettings
from etl.db.connect import connect
from etl.sandbox import Sandbox, World
from etl.sandbox.responses import encode

SCHEMA = "cortex"
_TABLES = """SELECT string_agg(format('%I', table_name), ', ') FROM information_schema.tables
WHERE table_schema = $1 AND table_type = 'BASE TABLE' AND table_name <> 'etl_migrations'"""
APP, WORKFLOW = "app_1", "wf_1"
PAGES = {"page_size": 100}  # so that requests can be counted


def one_stream(runs: int = 0, *, seed: int = 1, **fields: Any) -> World:
    """Return a world with one workflow and `runs` runs."""
    world = World(seed)
    world.add_workflow(APP, WORKFLOW)
    for _ in range(runs):
        world.create_run(WORKFLOW, **fields)
    return world


def workflows(count: int, *, runs: int = 30) -> World:
    """Return a world with several workflows, each with `runs` runs."""
    world = World(1)
    for number in range(count):
        world.add_workflow(APP, f"wf_{number}")
        for _ in range(runs):
            world.create_run(f"wf_{number}")
    return world


async def claimers(trial: Trial, at_least: int) -> None:
    """Wait until `at_least` processes have claimed a workflow."""
    while await trial.connection.fetchval("SELECT count(DISTINCT claimed_by) FROM etl_queue") < at_least:
        await asyncio.sleep(0.05)


class Stir:
    """Changes the world before each list request, at most `times` times."""

    def __init__(self, world, how, *, times=12, seed=1):
        self.world, self.how, self.left, self.random, self.made = world, how, times, Random(seed), []

    def __call__(self, path, query, number):
        if self.left and path.endswith("/runs"):
            self.left -= 1
            getattr(self, self.how)()

    def _some(self):
        return self.random.choice(list(self.world.runs[WORKFLOW]) or [self.world.create_run(WORKFLOW)["id"]])

    def create(self):
        self.made.append(self.world.create_run(WORKFLOW)["id"])

    def delete(self):
        self.world.delete_run(self._some())

    def swap(self):  # the count is unchanged
        self.delete()
        self.create()

    def flicker(self):  # runs that exist only during one request
        if self.made and (run_id := self.made.pop()) in self.world.runs[WORKFLOW]:
            self.world.delete_run(run_id)
        else:
            self.create()

    def replay(self):
        self.world.replay_run(self._some())

    def mixture(self):
        for _ in range(self.random.randint(1, 3)):
            getattr(self, self.random.choice(("create", "delete", "replay", "swap")))()


@dataclass
class Trial:
    """An API and a warehouse, with the `settings` of the next sync.

    `apps` are the apps whose listings of all workflows are read; by default, each workflow's own app.
    """

    sandbox: Sandbox
    url: str
    connection: asyncpg.Connection
    api: dict[str, Any] = field(default_factory=dict)
    sync: dict[str, Any] = field(default_factory=dict)
    payloads: dict[str, Any] = field(default_factory=dict)
    database: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    apps: tuple[str, ...] = ()
    app_key: str | None = None

    @property
    def world(self) -> World:
        return self.sandbox.world

    @property
    def settings(self) -> Settings:
        api = {"base_url": self.sandbox.url, "key": self.sandbox.key, "requests_per_minute": 100_000} | PAGES | self.api
        by_app: dict[str, list[str]] = {}
        for workflow in self.world.workflows.values():
            for app in self.apps or (workflow["app"]["id"],):
                by_app.setdefault(app, []).append(workflow["id"])
        return Settings(
            api=ApiSettings(**api),
            database=DatabaseSettings(**{"url": self.url, "schema": SCHEMA} | self.database),
            apps=[AppSettings(id=app, workflows=workflows, key=self.app_key) for app, workflows in by_app.items()],
            sync=SyncSettings(**self.sync),
            payloads=self.payloads,
            engine=self.engine | ({"kind": "local"} if self.engine else {}),
        )

    async def run(self, mode: Any = "sync", **options: Any) -> SyncSummary:
        return await run_sync(self.settings, mode, **{"policy": QUICK} | options)

    async def requests_of(self, mode: Any = "sync", **options: Any) -> int:
        """Run a sync, check that it succeeds, and return the number of its requests."""
        before = len(self.sandbox.requests)
        summary = await self.run(mode, **options)
        assert summary.status == "succeeded", summary
        sent = len(self.sandbox.requests) - before
        assert sent == summary.requests
        return sent

    async def agrees(self, mode: Any = "sync", **options: Any) -> SyncSummary:
        """Run a sync, and check that it succeeds and leaves no differences."""
        summary = await self.run(mode, **options)
        assert (summary.status, summary.exit_code) == ("succeeded", 0), (summary.error, await self.differences())
        found = await self.differences()
        assert found == [], "\n".join(found[:20])
        return summary

    async def differences(self) -> list[str]:
        return await differences(self.connection, self.world)


@asynccontextmanager
async def trial(url: str, world: World, **options: Any):
    sandbox = Sandbox(world, **{"max_take": 10_000} | options)
    connection = await connect(url, SCHEMA)
    try:
        # Tests with many cases share one database: creating one takes longer than most syncs.
        tables = await connection.fetchval(_TABLES, SCHEMA)
        await connection.execute(f"TRUNCATE {tables}")
        async with sandbox:
            yield Trial(sandbox, url, connection)
    finally:
        await connection.close()


async def differences(connection: asyncpg.Connection, world: World) -> list[str]:
    """Return the differences between the warehouse and the API's listings; empty if they are equal."""
    rows = {row["id"]: row for row in await connection.fetch("SELECT * FROM runs")}
    held = Counter(
        row["digest"] for row in await connection.fetch("SELECT * FROM etl_rejects WHERE resolved_at IS NULL")
    )
    steps = Counter(row["run_id"] for row in await connection.fetch("SELECT run_id FROM run_steps"))
    found, listed = [], set()
    for workflow_id, runs in world.runs.items():
        for run_id, run in runs.items():
            listed.add(run_id)
            served = world.raw.get(run_id) or encode(run)
            row = rows.get(run_id)
            if held[sha256(served).digest()]:
                continue
            if row is None:
                found.append(f"missing: {run_id} of {workflow_id}")
            elif row["content_hash"] != sha256(served).digest():
                found.append(f"stale: {run_id} of {workflow_id}")
            elif row["gone_at"] is not None:
                found.append(f"gone although listed: {run_id}")
            elif run_id not in world.raw and steps[run_id] != _steps(run):
                found.append(f"steps: {run_id} has {steps[run_id]}, not {_steps(run)}")
    found += [
        f"listed although gone: {each}" for each, row in rows.items() if each not in listed and not row["gone_at"]
    ]
    return found


def _steps(run: dict[str, Any]) -> int:
    """Count the steps of a run: those of its output (in the older form a list, with repeated keys) and of its usage."""
    output, usage = run.get("output") or {}, (run.get("usage") or {}).get("steps") or {}
    keys = set(output) if isinstance(output, dict) else {item.get("key") for item in output}
    return len(output) + len(set(usage) - keys)


@dataclass
class Process:
    """`cortex-etl` as a separate process, with the settings of a trial."""

    running: Running
    pid: int
    out: str = ""
    err: str = ""

    async def end(self, within_s: float = 60) -> int:
        try:
            ended = await asyncio.wait_for(self.running.end(), within_s)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            raise
        self.out, self.err = ended.out, ended.err
        return ended.code

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)


def configure(trial: Trial, folder: Path) -> Path:
    """Write a settings file with the API and the warehouse of a trial; the key is `CORTEX_API_KEY`."""
    settings = trial.settings
    config = {
        "api": {"base_url": trial.sandbox.url, "requests_per_minute": 100_000} | PAGES | trial.api,
        "database": {"url": trial.url, "schema": SCHEMA} | trial.database,
        "apps": [{"id": app.id, "workflows": app.workflows} for app in settings.apps],
        "sync": trial.sync,
        "payloads": trial.payloads,
        "engine": trial.engine,
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))  # JSON is also YAML
    return path


async def start(trial: Trial, folder: Path, *arguments: str) -> Process:
    """Start the command with the API and the warehouse of a trial."""
    path = configure(trial, folder)
    environment = clean_environment() | {"CORTEX_API_KEY": trial.sandbox.key}
    given = (*arguments, "--config", str(path), "--log-format", "json")
    running = WARM.start(*given, folder=folder, environment=environment)
    return Process(running, await asyncio.wrap_future(running.pid))


def workers_of(caller):
    """Return the workers that a process has started."""
    found = psutil.Process(caller.pid).children(recursive=True)
    return [each for each in found if any("spawn_main" in word for word in each.cmdline())]


async def lose_all_connections(trial: Trial) -> None:
    """Have PostgreSQL end all sessions in the database except that of the test, as when it is restarted."""
    await trial.connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


def kill_at(t, place, *, number=signal.SIGKILL):
    """Send a signal to the process in `pids` when the run listing is asked for the `place`th time."""
    pids: list[int] = []
    asked = []

    def hook(path, query, _number):
        if path.endswith("/runs"):
            asked.append(query.get("page"))
            if len(asked) == place and pids:
                os.kill(pids.pop(), number)

    t.sandbox.faults.before_response = hook
    return pids
