"""Self-test: random histories of the simulated API, synced with kills into the user's own PostgreSQL.

In each history runs are created, finished, replayed and deleted while syncs run in their own processes, with drift,
429, 5xx, truncated bodies and bad runs, and are killed (SIGKILL) at random times. After a final reconcile without
faults, the warehouse must equal the API.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Any

from asyncpg import UndefinedTableError
from pydantic import SecretStr

from etl.api.retry import RetryPolicy
from etl.app.sync_invocation import run_sync
from etl.app.warehouse import database_url
from etl.config import ApiSettings, AppSettings, DatabaseSettings, Settings, SyncSettings
from etl.db.connect import connect, quote_identifier
from etl.db.statements import statements
from etl.sandbox import Sandbox, World
from etl.sandbox.faults import CutBody, Drift, Reset, Status, any_request
from etl.sandbox.responses import encode
from etl.text import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from multiprocessing.process import BaseProcess

    from etl.sync.stream import Mode

_ORDERS = ("created_desc", "created_desc", "updated_desc", "created_asc", "none")
_BAD_RUNS = ("nan", "missing_id", "bad_date", "nul", "lone_surrogate", "foreign_workflow")
_RETRIES = RetryPolicy(first_pause_s=0.02, longest_pause_s=0.2)
_LONGEST_SYNC_S = 120.0
_STARTS = ("forkserver", "spawn")


@dataclass(slots=True)
class SelftestReport:
    """The result of all histories.

    Attributes:
        missing: number of runs that the warehouse lacks.
        stale: number of runs that the warehouse has in an old state.
        duplicated: number of runs that the warehouse has and the API does not.
        unfinished: number of histories whose last syncs failed.
    """

    histories: int = 0
    syncs: int = 0
    kills: int = 0
    requests: int = 0
    missing: int = 0
    stale: int = 0
    duplicated: int = 0
    unfinished: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every history ended with the warehouse equal to the API."""
        return not (self.missing or self.stale or self.duplicated or self.unfinished)


async def run_selftest(
    settings: Settings,
    *,
    rounds: int = 5,
    seed: int = 1,
    slices: float = 0.3,
    report: Callable[[str], object] = lambda _: None,
) -> SelftestReport:
    """Run random histories and compare the warehouse with the API after each.

    Args:
        settings: where the database is; each history uses its own schema, which is dropped afterwards.
        rounds: number of histories.
        seed: random seed; history n of seed s equals history 0 of seed s + n.
        slices: the share of histories whose reconciles take several syncs.
        report: receives one line per history.

    Returns:
        The sums over all histories.

    Raises:
        DatabaseError: the database cannot be reached or used.
    """
    url = await database_url(settings)
    total, started = SelftestReport(), monotonic()
    for number in range(seed, seed + rounds):
        schema = f"cortex_selftest_{os.getpid()}_{number}"
        async with _scratch(url, schema):
            history = _History(url, schema, number, slices)
            line = await history.run(total)
        total.histories += 1
        report(f"history {number}: {line}")
    total.seconds = round(monotonic() - started, 1)
    return total


@asynccontextmanager
async def _scratch(url: str, schema: str) -> AsyncIterator[None]:
    """Drop the schema at the end of the block."""
    try:
        yield
    finally:
        connection = await connect(url, schema)
        try:
            await connection.execute(f"DROP SCHEMA IF EXISTS {quote_identifier(schema)} CASCADE")
        finally:
            await connection.close()


class _History:
    """One random history."""

    def __init__(self, url: str, schema: str, seed: int, slices: float) -> None:
        self._random = Random(seed)  # noqa: S311 - repeatable
        self._world = World.generate(seed, apps=1, workflows_per_app=2, runs=self._random.randint(20, 160), days=20)
        self._in_slices = self._random.random() < slices  # whether a reconcile takes several syncs
        self._world.order = _ORDERS[0] if self._in_slices else self._random.choice(_ORDERS)
        self._url, self._schema = url, schema
        self._page_size = 3 if self._in_slices else self._random.choice((3, 7, 10, 25, 100))
        context: Any = multiprocessing.get_context(_STARTS[0] if hasattr(os, "fork") else _STARTS[1])
        context.set_forkserver_preload(["etl.app.selftest"])
        self._processes = context

    async def run(self, total: SelftestReport) -> str:
        """Run the history, add its result to `total` and return it as a line."""
        random, kills, syncs = self._random, 0, 0
        async with Sandbox(self._world) as sandbox:
            settings = self._settings(sandbox)
            modes: tuple[Mode, ...] = ("sync",) if self._in_slices else ("sync", "sync", "backfill", "reconcile")
            for _ in range(random.randint(3, 5) + 3 * self._in_slices):
                await self._advance()
                self._add_faults(sandbox)
                kill_after_s = random.uniform(0.03, 0.7) if random.random() < 0.7 else None
                code = await self._sync(settings, random.choice(modes), kill_after_s)
                kills, syncs = kills + (code is None), syncs + 1
            sandbox.faults.clear()
            ends = [await self._sync(settings, mode, None) for mode in ("sync", "reconcile")]
            found = await self._differences()
            total.requests += len(sandbox.requests)
        total.syncs, total.kills = total.syncs + syncs + 2, total.kills + kills
        for kind, ids in found.items():
            setattr(total, kind, getattr(total, kind) + len(ids))
            total.failures += [f"{kind}: {each} ({self._schema})" for each in ids[:5]]
        total.unfinished += ends != [0, 0]
        runs = sum(map(len, self._world.runs.values()))
        counts = " ".join(f"{kind} {len(ids)}" for kind, ids in found.items())
        how = f"{self._world.order}, pages of {self._page_size}, {counted(kills, 'kill')}"
        return f"{counted(runs, 'run')}, {how}: {counts}"

    def _settings(self, sandbox: Sandbox) -> Settings:
        return Settings(
            api=ApiSettings(
                base_url=sandbox.url,
                key=SecretStr(sandbox.key),
                requests_per_minute=100_000,
                page_size=self._page_size,
                concurrency=self._random.choice((1, 4, 8)),
            ),
            database=DatabaseSettings.model_validate({"url": self._url, "schema": self._schema}),
            apps=[AppSettings(id=app, workflows="all") for app in self._world.apps],
            sync=SyncSettings(reconcile_share=6 / 6_000_000 if self._in_slices else 0.1),
        )

    async def _advance(self) -> None:
        """Advance the clock, so that runs are created, finished, replayed or expire; delete some, and corrupt one."""
        world, random = self._world, self._random
        hours = random.choice((1, 6, 24, 72))
        world.advance(timedelta(hours=hours))
        connection = await connect(self._url, self._schema)
        with suppress(UndefinedTableError):  # before the first sync
            await connection.execute(statements("selftest")["let_time_pass"], hours)
        await connection.close()
        listed = [run_id for runs in world.runs.values() for run_id in runs]
        for run_id in random.sample(listed, min(len(listed), random.randint(0, 4))):
            world.delete_run(run_id)
        listed = [run_id for runs in world.runs.values() for run_id in runs if run_id not in world.raw]
        if listed and random.random() < 0.4:
            world.corrupt(random.choice(listed), random.choice(_BAD_RUNS))

    def _add_faults(self, sandbox: Sandbox) -> None:
        """Add random faults of the API for the next sync."""
        random, faults = self._random, sandbox.faults
        faults.clear()
        if random.random() < 0.6:
            faults.drift = Drift(
                chance=0.3, creates=random.randint(0, 2), deletes=random.randint(0, 2), seed=random.randrange(10**6)
            )
        for fault in (Status(429, retry_after=0), Status(503), CutBody("half_json"), CutBody("length"), Reset()):
            if random.random() < 0.3:
                faults.on(any_request, fault, every=random.randint(2, 9), times=random.randint(1, 3))

    async def _sync(self, settings: Settings, mode: Mode, kill_after_s: float | None) -> int | None:
        """Sync in a separate process, and kill it after some time; return its exit code, None if it was killed."""
        process = self._processes.Process(target=_sync_here, args=(settings, mode))
        process.start()
        try:
            done = await _ended(process, _LONGEST_SYNC_S if kill_after_s is None else kill_after_s)
            return process.exitcode if done else None
        finally:  # also if interrupted: the process must end before its schema is dropped
            process.kill()
            process.join(10.0)
            process.close()

    async def _differences(self) -> dict[str, list[str]]:
        """Return the ids of runs that the warehouse lacks, has in another state than the API, or has in excess."""
        connection = await connect(self._url, self._schema)
        try:
            rows = await connection.fetch(statements("selftest")["stored_runs"])
            held = {row["digest"] for row in await connection.fetch(statements("selftest")["held_items"])}
        finally:
            await connection.close()
        stored = {row["id"]: row for row in rows}
        found: dict[str, list[str]] = {"missing": [], "stale": [], "duplicated": []}
        listed = {run_id: run for runs in self._world.runs.values() for run_id, run in runs.items()}
        for run_id, run in listed.items():
            served = sha256(self._world.raw.get(run_id) or encode(run)).digest()
            row = stored.pop(run_id, None)
            if served in held:
                continue
            if row is None:
                found["missing"].append(run_id)
            elif row["content_hash"] != served:
                found["stale"].append(run_id)
        found["duplicated"] = list(stored)
        return found


async def _ended(process: BaseProcess, within_s: float) -> bool:
    """Wait for a process without blocking the simulated API, which runs in this event loop; return whether it ended."""
    give_up = monotonic() + within_s
    while process.is_alive():
        if monotonic() > give_up:
            return False
        await asyncio.sleep(0.02)
    return True


def _sync_here(settings: Settings, mode: Mode) -> None:
    # Terminals send SIGINT to all processes of a group. The parent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(asyncio.run(run_sync(settings, mode, policy=_RETRIES)).exit_code)
