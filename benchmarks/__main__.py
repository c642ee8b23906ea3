"""Run the benchmarks on temporary servers: `python -m benchmarks [--smoke | --quick]`.

`python -m benchmarks queries` measures the speed of queries instead (see `benchmarks/queries.py`).
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from benchmarks import measures, queries
from benchmarks.postgres import Cluster
from benchmarks.processes import page_server
from benchmarks.results_table import show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.measures import Line

SMOKE, QUICK, WHOLE = 2_000, 10_000, 30_000
LARGE, TOTAL = 300_000, 1_000_000


def main() -> None:
    """Run and print; with `--strict`, exit with 1 if a goal is missed."""
    if sys.argv[1:2] == ["queries"]:
        queries.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--smoke", action="store_true", help=f"{SMOKE:,} runs, a few seconds: only checks that it works")
    size.add_argument("--quick", action="store_true", help=f"{QUICK:,} runs, under 2 minutes")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a goal is missed")
    chosen = parser.parse_args()
    runs = SMOKE if chosen.smoke else QUICK if chosen.quick else WHOLE
    started = monotonic()
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="cxb-") as name, page_server() as port:
        directory = Path(name)
        directory.chmod(0o755)
        with Cluster(directory) as cluster:
            bench = measures.Bench(cluster, port, directory, runs)
            for measurement in _chosen(bench, smoke=chosen.smoke, quick=chosen.quick):
                for measured in measurement:
                    line = replace(measured, goal="", met=None) if chosen.smoke else measured
                    print(f"  {monotonic() - started:6.1f} s  {line.what}", file=sys.stderr, flush=True)
                    lines.append(line)
            version = cluster.version()
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, PostgreSQL {version} with default settings"
    show(f"{runs:,} runs of 20 workflows · {datetime.now(UTC):%Y-%m-%d} · {machine}", lines)
    if chosen.strict and any(line.met is False for line in lines):
        sys.exit(1)


def _chosen(bench: measures.Bench, *, smoke: bool, quick: bool) -> Iterator[Iterator[Line]]:
    yield measures.floors(bench)
    yield measures.lifecycle(bench)
    yield measures.checked(bench)
    if smoke:
        return
    yield measures.peer(bench)
    yield measures.real_api(bench, windows=1 if quick else 3)
    if not quick:
        yield measures.large(bench, LARGE, TOTAL)


if __name__ == "__main__":
    main()
