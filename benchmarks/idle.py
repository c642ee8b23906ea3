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
from typing import TYPE_CHECKING, Any

from benchmarks.postgres import Cluster
from benchmarks.processes import Usage, measure
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
    async with Sandbox(worlds[0]) as small, Sandbox(worlds[1]) as large:
        files = [_settings(directory, *each) for each in zip(urls, (small, large), strict=True)]
        for file in files:
            await _run("backfill", file)
            await _run("sync", file)
        for _ in range(times):
            for place, file in enumerate(files):
                before = cluster.cpu_s()
                usage, summary = await _run("sync", file)
                server[place].append(cluster.cpu_s() - before)
                used[place].append(usage.cpu_s)
                assert summary["runs_updated"] == summary["runs_inserted"] == 0, summary
                assert summary["pages"] == (FEW, many)[place], summary
    client_ms, server_ms = ((median(cpu[1]) - median(cpu[0])) / (many - FEW) * 1000 for cpu in (used, server))
    page_ms = _splitting_ms(worlds[1])
    print("| CPU per idle stream | ms |\n| --- | ---: |")
    print(f"| the program | {client_ms:.2f} |")
    print(f"| of which splitting and hashing its page | {page_ms:.2f} |")
    print(f"| PostgreSQL | {server_ms:.2f} |")


def _settings(directory: Path, url: str, sandbox: Sandbox) -> Path:
    settings: dict[str, Any] = {
        "api": {"base_url": sandbox.url, "key": sandbox.key, "requests_per_minute": 100_000},
        "database": {"url": url},
        "apps": [{"id": each} for each in sandbox.world.apps],
        "sync": {"reconcile_every": "0"},
    }
    file = directory / f"{len(sandbox.world.workflows)}.yaml"
    file.write_text(json.dumps(settings))
    return file


async def _run(mode: str, file: Path) -> tuple[Usage, dict[str, Any]]:
    usage = await asyncio.to_thread(measure, ["-m", "etl", mode, "--config", str(file), "--json", "--quiet"])
    return usage, json.loads(usage.output)


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
