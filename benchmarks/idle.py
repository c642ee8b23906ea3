"""The CPU of an idle stream in a sync that finds nothing new: `python -m benchmarks.idle`.

An app with 20 workflows and one with many, each of 20 runs, are synced by the command until nothing changes. The cost
of a stream is the difference in CPU seconds between their syncs, divided by that in streams. Splitting and hashing the
pages, which depends on their bytes, is measured apart. The simulated API runs in this process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.command import KEY, Command
from benchmarks.postgres import Cluster
from etl.decode.items import digest, guess_id, split_page
from etl.sandbox import Sandbox, World

if TYPE_CHECKING:
    from collections.abc import Sequence

FEW = 20
RUNS_EACH = 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both apps and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument("--workflows", type=int, default=800, help="workflows of the larger app [%(default)s]")
    parser.add_argument("--times", type=int, default=5, help="syncs of each app, in turns [%(default)s]")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="cxb-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with Cluster(directory) as cluster:
            urls = [cluster.fresh("few"), cluster.fresh("many")]
            asyncio.run(_measure(cluster, directory, urls, chosen.workflows, chosen.times))


async def _measure(cluster: Cluster, directory: Path, urls: Sequence[str], many: int, times: int) -> None:
    worlds = [
        World.generate(1, apps=1, workflows_per_app=each, runs=each * RUNS_EACH, open_runs=0, rough_edges=False)
        for each in (FEW, many)
    ]
    used: list[list[float]] = [[], []]
    server: list[list[float]] = [[], []]
    async with Sandbox(worlds[0], KEY) as small, Sandbox(worlds[1], KEY) as large:
        commands = [
            Command(directory, int(sandbox.url.rpartition(":")[2]), url, next(iter(sandbox.world.apps)))
            for sandbox, url in zip((small, large), urls, strict=True)
        ]
        for command in commands:
            await asyncio.to_thread(command.run, "backfill")
            await asyncio.to_thread(command.run, "sync")
        for _ in range(times):
            for place, command in enumerate(commands):
                before = cluster.cpu_s()
                done = await asyncio.to_thread(command.run, "sync")
                server[place].append(cluster.cpu_s() - before)
                used[place].append(done.usage.cpu_s)
                assert done.summary["runs_updated"] == done.summary["runs_inserted"] == 0, done.summary
                assert done.summary["pages"] == (FEW, many)[place], done.summary
    client_ms, server_ms = ((median(cpu[1]) - median(cpu[0])) / (many - FEW) * 1000 for cpu in (used, server))
    page_ms = _splitting_ms(worlds[1])
    print("| CPU per idle stream | ms |\n| --- | ---: |")
    print(f"| the program | {client_ms:.2f} |")
    print(f"| of which splitting and hashing its page | {page_ms:.2f} |")
    print(f"| PostgreSQL | {server_ms:.2f} |")


def _splitting_ms(world: World) -> float:
    """Return the milliseconds that it takes to split and hash a page."""
    pages = [json.dumps(list(runs.values())).encode() for runs in world.runs.values()]
    started = time.process_time()
    for page in pages:
        for item in split_page(page):
            digest(item)
            guess_id(item)
    return (time.process_time() - started) / len(pages) * 1000


if __name__ == "__main__":
    main()
