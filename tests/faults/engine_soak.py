"""`make soak-engines`: kill -9 a process of commands that several processes share, and compare what the next one leaves.

Each round starts a command on the workers of an engine, or several copies of it (`--join`). It kills one process at a
random moment and waits for the others. Then some runs change, and the same command must make the warehouse equal to the
API.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from time import monotonic

import psutil
from command_fixtures import WARM, clean_environment
from sync_trials import SCHEMA, Process, Trial, differences, start, trial, workers_of

from etl.db import embedded
from etl.db.connect import connect
from etl.db.migrate import migrate
from etl.sandbox import World

VICTIMS = {"processes": ("worker", "caller"), "dask": ("worker", "caller", "scheduler"), "copies": ("copy",)}
CODES = {"worker": {0}, "caller": {-9}, "scheduler": {0, 1}, "copy": {0, -9}}  # of a command whose process was killed
RUNS, PAGE, SPLIT_PAGES, LATENCY_S = 600, 5, 8, 0.05  # the biggest workflow has about 240 runs, in six slices
QUIET_S = 2.0  # after the end of a command, its workers stop sending requests within this time
HUNG_S = 60.0
FOUND = {"missing": "missing", "gone although listed": "missing", "listed although gone": "duplicated"}  # others: stale
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cortex-etl session'"


def start_cluster(folder: Path, settings: dict[str, str], stack: ExitStack) -> list[subprocess.Popen[bytes]]:
    """Start a Dask scheduler and two workers, each in its own process."""
    found = []
    for part, *arguments in (("scheduler", "--port=0"), *[("worker", "--no-nanny", "--nthreads=1")] * 2):
        command = [sys.executable, "-m", f"distributed.cli.dask_{part}", "--host=127.0.0.1", "--no-dashboard"]
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--scheduler-file=scheduler.json", *arguments],
                cwd=folder, env=clean_environment() | settings, stdout=log, stderr=log,
            )  # fmt: skip
        stack.callback(process.wait)
        stack.callback(process.kill)
        found.append(process)
    return found


class Round:
    """Kills one process. All choices depend on the seed alone."""

    def __init__(self, t: Trial, folder: Path, seed: int) -> None:
        self.t, self.folder, self.random = t, folder, Random(seed)
        self.kind = list(VICTIMS)[seed % len(VICTIMS)]
        self.victim = self.random.choice(VICTIMS[self.kind])
        self.mode = self.random.choice(("sync", "backfill", "reconcile"))
        self.problems: list[str] = []
        self.cluster: list[subprocess.Popen[bytes]] = []
        self.killed = False

    async def run(self, stack: ExitStack) -> Counter[str]:
        """Run the round; return the numbers of its differences, and its kill as `kind: victim`."""
        t = self.t
        if self.random.random() < 0.5:  # otherwise the history is not loaded yet
            await t.run()
            self._change(replays=0 if self.mode == "sync" else 8)  # a sync need not notice changes of old runs
        t.api, t.sandbox.faults.latency_s = {"page_size": PAGE, "concurrency": 2}, LATENCY_S
        await self._open_engine(stack)
        late = await self._run_and_kill()
        self._change()
        if self.victim == "scheduler":
            await self._open_engine(stack)
        await self._end(await self._start(), {0})
        found = await differences(t.connection, t.world)
        self.problems += found
        counts = Counter(FOUND.get(each.split(":")[0], "stale") for each in found)
        return counts + Counter({"requests after death": late, f"{self.kind}: {self.victim}": int(self.killed)})

    async def _open_engine(self, stack: ExitStack) -> None:
        self.t.engine = {"split_pages": SPLIT_PAGES}
        if self.kind == "processes":
            self.t.engine |= {"kind": "processes", "workers": 2}
        elif self.kind == "dask":
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            settings = {"CORTEX_ETL_CONFIG": str(self.folder / "config.yaml"), "CORTEX_API_KEY": self.t.sandbox.key}
            self.cluster = start_cluster(folder, settings, stack)
            async with asyncio.timeout(HUNG_S):
                while (folder / "log").read_text().count("Registered to:") < 2:
                    await asyncio.sleep(0.1)
            address = json.loads((folder / "scheduler.json").read_text())["address"]
            self.t.engine |= {"kind": "dask", "address": address}

    async def _start(self) -> dict[asyncio.Task[int], Process]:
        """Start the command, or copies of it; return them by the tasks that wait for their exit codes."""
        copies, join = (self.random.choice((2, 3)), ("--join", "soak")) if self.kind == "copies" else (1, ())
        commands = [await start(self.t, self.folder, self.mode, *join, "--json") for _ in range(copies)]
        return {asyncio.create_task(each.end(within_s=3600)): each for each in commands}

    async def _end(self, commands: dict[asyncio.Task[int], Process], codes: set[int]) -> None:
        """Wait until all commands have ended with one of `codes`; kill those that hang."""
        _, hung = await asyncio.wait(commands, timeout=HUNG_S)
        for end, command in commands.items():
            if end in hung:
                command.signal(signal.SIGKILL)
            code = await end
            if end in hung or code not in codes:
                self.problems.append(f"{'hung' if end in hung else f'exit code {code}'}: {command.err[-2000:]}")

    async def _run_and_kill(self) -> int:
        """Run the command and kill a process of it; return the number of requests that were sent too late."""
        t, random, first = self.t, self.random, len(self.t.sandbox.requests)
        held = await t.connection.fetchval("SELECT count(*) FROM runs") if self.mode == "sync" else 0
        place = random.randint(0, (sum(map(len, t.world.runs.values())) - held) // PAGE)
        delay_s, chosen = random.uniform(0, 0.5), random.random()
        commands = await self._start()
        while len(t.sandbox.requests) < first + place and not all(end.done() for end in commands):
            await asyncio.sleep(0.005)
        await asyncio.sleep(delay_s)
        while not self.killed and not all(end.done() for end in commands):
            with suppress(psutil.Error, ProcessLookupError):  # it has just ended
                if pids := self._victims(list(commands.values())):
                    os.kill(pids[int(chosen * len(pids))], signal.SIGKILL)
                    self.killed = True
            await asyncio.sleep(0.005)
        killed_at = monotonic()
        await self._end(commands, CODES[self.victim] if self.killed else {0})
        ended_at = killed_at if self.victim == "caller" else monotonic()
        while await t.connection.fetchval(SESSIONS):
            if monotonic() > ended_at + HUNG_S:
                self.problems.append("a process did not end")
                break
            await asyncio.sleep(0.05)
        await asyncio.sleep(ended_at + QUIET_S + 1 - monotonic())
        return sum(each.time_monotonic > ended_at + QUIET_S for each in t.sandbox.requests[first:])

    def _victims(self, commands: list[Process]) -> list[int]:
        if self.victim == "scheduler":
            return [self.cluster[0].pid]
        if self.victim == "worker":
            return [each.pid for each in (self.cluster[1:] or workers_of(commands[0]))]
        return [each.pid for each in commands]

    def _change(self, replays: int = 0) -> None:
        """Create, finish, delete and replay some runs."""
        random, world = self.random, self.t.world
        for _ in range(60):
            status = {"status": "RUNNING"} if random.random() < 0.1 else {}
            world.create_run(random.choice(list(world.runs)), **status)
        for run_id in random.sample(list(world.endings), len(world.endings) // 2):
            world.finish_run(run_id)
        for run_id in random.sample([each for runs in world.runs.values() for each in runs], 4):
            world.delete_run(run_id)
        ended = [each for runs in world.runs.values() for each in runs if each not in world.endings]
        for run_id in random.sample(ended, replays):
            world.replay_run(run_id)


async def soak(kills: int, seed: int, folder: Path, url: str) -> bool:
    """Run rounds until `kills` processes were killed; return whether none had a problem."""
    connection = await connect(url, SCHEMA)
    await migrate(connection, SCHEMA)
    await connection.close()
    total, first, failed, began = Counter(), seed, 0, monotonic()
    while sum(number for name, number in total.items() if ":" in name) < kills:
        world = World.generate(seed, apps=1, workflows_per_app=4, runs=RUNS, days=20, rough_edges=False)
        with ExitStack() as stack:
            async with trial(url, world) as t:
                this = Round(t, folder, seed)
                found = await this.run(stack)
        total += found
        failed += bool(this.problems or found["requests after death"])
        outcome = "; ".join(this.problems[:8]) or f"requests after death {found['requests after death']}"
        how = "killed" if this.killed else "not killed in time"
        print(f"seed {seed}: {this.mode} with {this.kind}, {this.victim} {how}: {outcome}", flush=True)
        seed += 1
    by_kind = ", ".join(f"{name} {number}" for name, number in sorted(total.items()) if ":" in name)
    print(f"{seed - first} rounds, {failed} failed, {monotonic() - began:.0f} s; killed: {by_kind}")
    print(*(f"{name} {total[name]}" for name in ("requests after death", "missing", "stale", "duplicated")), sep=", ")
    return not failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak-engines", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="of the first round; each round adds 1")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cortex-soak-") as directory:
        folder = Path(directory)
        folder.chmod(0o755)
        try:
            clean = asyncio.run(soak(wanted.kills, wanted.seed, folder, embedded.start(folder / "data")))
        finally:
            WARM.stop()
            embedded.stop(folder / "data")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
