"""Measure a backfill over 1, 2 and 4 addresses, and compute larger fleets from it: `python -m benchmarks.addresses`.

Each address is a copy of the command with a request budget of its own (`api.egress`), all on this machine; the server
tells them apart by their keys, and refuses more than 500 requests a minute of each. The rate limit bounds the speed, so
the CPU seconds and the WAL of a thousand runs are what counts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measures import Bench
from benchmarks.page_server import RATE_LIMIT, WINDOW_S
from benchmarks.postgres import Cluster
from benchmarks.processes import measure, page_server
from etl.limits import CONNECTIONS

PAGE = 100
_BILLION = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Costs:
    """What a backfill took: runs per second and per request; CPU seconds of 1,000 runs; kB of WAL of one; 429s."""

    rate: float
    per_request: float
    client_s: float
    server_s: float
    wal_kb: float
    refused: int


def one(bench: Bench, addresses: int, windows: int) -> Costs:
    """Run a backfill over some addresses."""
    pages = addresses * RATE_LIMIT * windows + 20
    app = f"slow-{-(-pages * PAGE // 2000) * 2000}"
    url = bench.fresh()

    def copy(number: int) -> float:
        settings = {
            "api": {
                "base_url": f"http://127.0.0.1:{bench.port}",
                "key": f"sk-bench-{number}",
                "page_size": PAGE,
                "requests_per_minute": RATE_LIMIT,
                "egress": f"address-{number}",
            },
            "database": {"url": url},
            "apps": [{"id": app}],
        }
        file = bench.directory / f"{addresses}-{number}.yaml"
        file.write_text(json.dumps(settings))
        return measure(["-m", "etl", "backfill", "--join", "all", "--config", str(file), "--json", "--quiet"]).cpu_s

    server, written = bench.cluster.cpu_s(), bench.cluster.written()
    with ThreadPoolExecutor(addresses) as threads:
        client = sum(threads.map(copy, range(addresses)))
    server, written = bench.cluster.cpu_s() - server, bench.cluster.written() - written
    received = bench.control("requests", app)
    arrivals = received["arrivals"]
    runs = int(app.removeprefix("slow-"))
    bench.cluster.drop(url)
    per_request, measured = runs / len(arrivals), addresses * RATE_LIMIT * windows
    rate = measured * per_request / (arrivals[measured] - arrivals[0])
    return Costs(
        rate, per_request, client / runs * 1000, server / runs * 1000, written / runs / 1000, received["refused"]
    )


def main() -> None:
    """Run and print both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.addresses", description=__doc__)
    parser.add_argument("--windows", type=int, default=1, help=f"windows of {WINDOW_S:.0f} s to measure")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cxb-") as name, page_server() as port:
        directory = Path(name)
        directory.chmod(0o755)
        with Cluster(directory) as cluster:
            bench = Bench(cluster, port, directory, 0)
            print(
                "| addresses | runs/s | 429 | client, CPU s per 1,000 runs | PostgreSQL, CPU s per 1,000 runs | WAL |"
            )
            print("| ---: | ---: | ---: | ---: | ---: | ---: |")
            for addresses in (1, 2, 4):
                found = one(bench, addresses, chosen.windows)
                cpu = f"{found.client_s:.2f} | {found.server_s:.2f} | {found.wal_kb:.1f} kB per run"
                print(f"| {addresses} | {found.rate:,.0f} | {found.refused} | {cpu} |", flush=True)
    print("\n| addresses | runs/s | client cores | PostgreSQL cores | WAL MB/s | connections | 1 billion runs |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for addresses in (1, 10, 100, 1000):
        rate = addresses * RATE_LIMIT * found.per_request / WINDOW_S
        hours = _BILLION / rate / 3600
        span = f"{hours / 24:,.0f} days" if hours > 48 else f"{hours:,.1f} hours"
        cores = f"{rate * found.client_s / 1000:,.1f} | {rate * found.server_s / 1000:,.1f}"
        wal = f"{rate * found.wal_kb / 1000:,.0f}"
        print(f"| {addresses:,} | {rate:,.0f} | {cores} | {wal} | {addresses * CONNECTIONS:,} | {span} |")


if __name__ == "__main__":
    main()
