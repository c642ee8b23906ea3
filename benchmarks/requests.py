"""Count the requests of typical syncs: `python -m benchmarks.requests [--runs 100000]`.

One workflow, pages of 100, against the simulated API. Only requests are measured, not time.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from datetime import timedelta
from pathlib import Path
from random import Random

from pydantic import SecretStr

from etl.app import run_sync
from etl.config import ApiSettings, AppSettings, Settings, SyncSettings
from etl.db import embedded
from etl.sandbox import Sandbox, World


async def count(runs: int, data_dir: Path) -> list[tuple[str, int, str]]:
    world = World.generate(
        1, apps=1, workflows_per_app=1, runs=runs, days=90, open_runs=0, rough_edges=False, distinct=min(runs, 2000)
    )
    ((workflow_id, listed),) = world.runs.items()
    app_id = next(iter(world.apps))
    found: list[tuple[str, int, str]] = []
    async with Sandbox(world) as sandbox:
        settings = Settings(
            api=ApiSettings(base_url=sandbox.url, key=SecretStr(sandbox.key), requests_per_minute=100_000),
            data_dir=data_dir,
            apps=[AppSettings(id=app_id, workflows=[workflow_id])],
            sync=SyncSettings(reconcile_every=timedelta(0)),
        )

        async def case(name: str, mode: str) -> None:
            before = len(sandbox.requests)
            summary = await run_sync(settings, mode)  # type: ignore[arg-type]  # one of the three
            did = f"{summary.runs_inserted:,} new, {summary.runs_updated:,} changed, {summary.runs_gone:,} gone"
            found.append((name, len(sandbox.requests) - before, f"{summary.status}: {did}"))

        random = Random(1)
        await case(f"history of {len(listed):,} runs", "sync")
        await case("nothing new", "sync")
        for _ in range(runs // 100):
            world.create_run(workflow_id)
        await case("1 % new", "sync")
        for run_id in random.sample(list(listed), runs // 100):
            world.replay_run(run_id)
        await case("1 % changed, anywhere in the history (reconcile)", "reconcile")
        for run_id in sorted(listed, key=lambda each: str(listed[each]["created_at"]))[:100]:
            world.delete_run(run_id)
        await case("the 100 oldest gone", "sync")
        for run_id in random.sample(list(listed), 3):
            world.delete_run(run_id)
        await case("3 gone, anywhere", "sync")
        for run_id in random.sample(list(listed), 100):
            world.delete_run(run_id)
        await case("100 gone, anywhere", "sync")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.requests", description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cortex-requests-") as directory:
        Path(directory).chmod(0o755)
        try:
            found = asyncio.run(count(wanted.runs, Path(directory)))
        finally:
            embedded.stop(Path(directory))
    print("| sync | requests | result |\n| --- | ---: | --- |")
    for name, requests, did in found:
        print(f"| {name} | {requests:,} | {did} |")


if __name__ == "__main__":
    main()
