"""The measurements, one function each, run in separate processes and reported as lines of the table."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.command import Command, Done
from benchmarks.page_server import RATE_LIMIT, WINDOW_S
from benchmarks.postgres import database_of
from benchmarks.processes import FailedError, measure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.postgres import Cluster

DLT_PYTHON = "CORTEX_BENCH_DLT_PYTHON"
"""Environment variable: a Python with `dlt[postgres]`; by default the one that runs the benchmarks."""


DAYS_OF_LARGE = 4
"""Days covered by the large history, rounded up; its copies are shifted by as many days."""

PEER_TIMEOUT_S = 300
"""Timeout of the peer."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table. `goal` describes the goal, if there is one, and `met` is whether it was met."""

    what: str
    rate: float | None = None
    seconds: float | None = None
    cpu_s: float | None = None
    server_cpu_s: float | None = None
    peak_mb: float | None = None
    requests: int | None = None
    note: str = ""
    goal: str = ""
    met: bool | None = None


@dataclass
class Bench:
    """The servers that the measurements share, and the rates that ratios are computed from."""

    cluster: Cluster
    port: int
    directory: Path
    runs: int
    rates: dict[str, float] = field(default_factory=dict)
    databases: int = 0

    def fresh(self, *, migrated: bool = True) -> str:
        """Create a database and return its URL."""
        self.databases += 1
        return self.cluster.fresh(f"bench{self.databases}", migrated=migrated)

    def control(self, what: str, app: str, *rest: object) -> Any:
        """Send a control request to the page server and return the response."""
        path = "/".join(("-", what, app, *map(str, rest)))
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}") as response:
            return json.load(response)

    def floor(self, *arguments: object) -> tuple[dict[str, float], float]:
        """Run one of the floors; return its result and the CPU seconds of the database server."""
        before = self.cluster.cpu_s()
        usage = measure(["-m", "benchmarks.floors", *map(str, arguments)])
        result: dict[str, float] = json.loads(usage.output)
        return result, self.cluster.cpu_s() - before

    def line(self, what: str, done: Done, runs: int, server_cpu_s: float, **more: Any) -> Line:
        """Return the line of a command that processed `runs` runs."""
        rate = runs / done.summary["seconds"]
        self.rates[what] = rate
        usage = done.usage
        return Line(
            what,
            rate,
            usage.seconds,
            usage.cpu_s,
            server_cpu_s,
            usage.peak_mb,
            done.summary["requests"],
            **more,
        )


def floors(bench: Bench) -> Iterator[Line]:
    """Measure fetching, decoding and loading on their own."""
    app, runs = f"app-{bench.runs}", bench.runs
    bench.control("requests", app)  # makes the server prepare its pages
    pages = runs // 20 // 100
    result, _ = bench.floor("fetch", bench.port, app, pages)
    yield Line("floor: fetch and discard, 8 connections", runs / result["seconds"], result["seconds"])
    result, _ = bench.floor("decode", runs)
    yield Line("floor: typed decode, payloads left raw", runs / result["seconds"], result["seconds"])
    for connections in (1, 2):
        url = bench.fresh()
        result, server = bench.floor("copy", url, runs, connections)
        bench.cluster.drop(url)
        rate = runs / result["seconds"]
        bench.rates["floor"] = max(rate, bench.rates.get("floor", 0))
        note = f"{result['rows'] / runs:.1f} rows per run"
        what = f"floor: plain COPY, {connections} connection{'s' if connections > 1 else ''}"
        yield Line(what, rate, result["seconds"], result["cpu_s"], server, note=note)


def lifecycle(bench: Bench) -> Iterator[Line]:
    """Measure one warehouse, starting empty: backfill, reconcile, idle sync, 1 % changed."""
    runs, app = bench.runs, f"app-{bench.runs}"
    command = Command(bench.directory, bench.port, bench.fresh(), app)
    done, server = _timed(bench, command, "backfill")
    _expect(done, "runs_inserted", runs)
    share = runs / done.summary["seconds"] / bench.rates["floor"]
    note = f"{share:.2f} of plain COPY"
    yield bench.line("backfill", done, runs, server, note=note, goal="≥ 0.65 of plain COPY", met=share >= 0.65)
    if runs >= 10_000:
        yield Line("backfill: memory", peak_mb=done.usage.peak_mb, goal="< 200 MB", met=done.usage.peak_mb < 200)
    done, server = _timed(bench, command, "reconcile")
    _expect(done, "runs_unchanged", runs)
    rate = runs / done.summary["seconds"]
    yield bench.line("reconcile, nothing changed", done, runs, server, goal="≥ 20,000/s", met=rate >= 20_000)
    written = bench.cluster.written()
    done, server = _timed(bench, command, "sync")
    _expect(done, "runs_inserted", 0)
    seconds, asked = done.usage.seconds, done.summary["requests"]
    note = f"{(bench.cluster.written() - written) / 1000:.0f} kB of WAL"
    met = seconds < 1 and asked <= 21
    yield Line(
        "sync, nothing new (with start-up)", None, seconds, done.usage.cpu_s, server, done.usage.peak_mb, asked,
        note=note, goal="1 request per workflow (+1), < 1 s", met=met,
    )  # fmt: skip
    yield Line("sync, nothing new: memory", peak_mb=done.usage.peak_mb, goal="< 120 MB", met=done.usage.peak_mb < 120)
    arrivals = bench.control("requests", app)["arrivals"]
    start_up = min(each for each in arrivals if each > done.usage.started) - done.usage.started
    imports = measure(["-c", "import aiohttp, asyncpg, pydantic, structlog"]).seconds
    note = f"{imports:.2f} s to import aiohttp, asyncpg, pydantic and structlog"
    yield Line("sync: start-up to the first request", seconds=start_up, note=note, goal="< 0.3 s", met=start_up < 0.3)
    bench.control("change", app, 100)
    changed = runs // 20 // 100 * 20
    written = bench.cluster.written()
    done, server = _timed(bench, command, "reconcile")
    _expect(done, "runs_updated", changed)
    wal = (bench.cluster.written() - written) / max(changed, 1) / 1000
    note = f"{changed} of {changed} found, {wal:.0f} kB of WAL each"
    yield bench.line("reconcile, 1 % changed", done, runs, server, note=note, goal="all found", met=True)
    bench.control("change", app, 0)


def checked(bench: Bench) -> Iterator[Line]:
    """Measure the backfill by a role that cannot skip foreign key checks."""
    runs, url = bench.runs, bench.fresh()
    command = Command(bench.directory, bench.port, bench.cluster.loader(url), f"app-{runs}")
    done, server = _timed(bench, command, "backfill")
    _expect(done, "runs_inserted", runs)
    share = bench.rates["backfill"] * done.summary["seconds"] / runs
    note = f"{share:.2f} times as fast without these checks"
    yield bench.line("backfill, all foreign keys checked", done, runs, server, note=note)
    bench.cluster.drop(url)


def peer(bench: Bench) -> Iterator[Line]:
    """Measure dlt, tuned by hand."""
    python = os.environ.get(DLT_PYTHON, sys.executable)
    if subprocess.run([python, "-c", "import dlt, psycopg2"], capture_output=True, check=False).returncode:
        yield Line(
            "dlt, tuned by hand",
            note="skipped: dlt is not installed; run make bench-peer",
        )
        return
    url = bench.fresh(migrated=False)
    before = bench.cluster.cpu_s()
    directory = bench.directory / "dlt"
    app = f"app-{bench.runs}"
    arguments = ["-m", "benchmarks.peer_dlt", str(bench.port), app, url, str(directory)]
    try:
        usage = measure(arguments, python=python, timeout_s=PEER_TIMEOUT_S)
    except FailedError as error:
        yield Line("dlt, tuned by hand", note=f"failed or took more than {PEER_TIMEOUT_S} s: {str(error)[-100:]}")
        return
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    result = json.loads(usage.output.splitlines()[-1])
    rate = bench.runs / result["seconds"]
    ratio = bench.rates["backfill"] / rate
    note = f"dlt {result['version']}; cortex-etl is {ratio:.1f} times as fast"
    server = bench.cluster.cpu_s() - before
    yield Line(
        "dlt, tuned by hand", rate, result["seconds"], usage.cpu_s, server, usage.peak_mb,
        note=note, goal="≥ 12 times", met=ratio >= 12,
    )  # fmt: skip


def real_api(bench: Bench, windows: int) -> Iterator[Line]:
    """Measure a backfill that is bound by the rate limit of 500 requests a minute, with 100 ms latency."""
    needed = windows * RATE_LIMIT + 1
    app = f"slow-{(needed // 20 + 1) * 20 * 100}"
    command = Command(bench.directory, bench.port, bench.fresh(), app, requests_per_minute=RATE_LIMIT, page_size=100)
    done, server = _timed(bench, command, "backfill")
    response = bench.control("requests", app)
    arrivals, refused = response["arrivals"], response["refused"]
    share = windows * WINDOW_S / (arrivals[windows * RATE_LIMIT] - arrivals[0])
    core = done.usage.cpu_s / done.usage.seconds
    note = f"{share:.1%} of the rate limit used, {refused} refused (429), {core:.1%} of one core"
    yield Line(
        f"backfill at 500 requests a minute, {windows} min", None, done.usage.seconds, done.usage.cpu_s, server,
        done.usage.peak_mb, len(arrivals), note=note, goal="≥ 98 %, no 429, < 8 %",
        met=share >= 0.98 and not refused and core < 0.08,
    )  # fmt: skip


def large(bench: Bench, runs: int, total: int) -> Iterator[Line]:
    """Measure the memory of a history of `runs`, and the time per run in a warehouse of `total` runs."""
    small = Command(bench.directory, bench.port, bench.fresh(), "app-10000")
    small.run("backfill")
    here, others = (bench.directory, bench.port, small.url), ("app-10000", "next-10000", f"app-{runs}")
    first, first_server = _timed(bench, Command(*here, "next-10000", others=others[:1]), "backfill")
    command = Command(*here, f"app-{runs}", others=others[:2])
    done, server = _timed(bench, command, "backfill")
    _expect(done, "runs_inserted", runs)
    peak = done.usage.peak_mb
    yield bench.line(f"backfill of {runs:,}", done, runs, server, goal="< 200 MB", met=peak < 200)
    copies = max(0, round((total - runs) / runs))
    database = database_of(small.url)
    for number in range(1, copies + 1):
        bench.cluster.multiply(database, f"app-{runs}", f"copy{number}", number * DAYS_OF_LARGE)
    bench.cluster.count_days(database)
    bench.cluster.ask("CHECKPOINT")
    held = int(str(bench.cluster.ask("SELECT count(*) FROM runs", database)))
    done, server = _timed(bench, Command(*here, "last-10000", others=others), "backfill")
    _expect(done, "runs_inserted", 10_000)
    growth = done.summary["seconds"] / first.summary["seconds"]
    cpu = (done.usage.cpu_s + server) / (first.usage.cpu_s + first_server)
    note = f"{growth:.2f} times the time per run at 10,000, {cpu:.2f} times the CPU"
    yield bench.line(f"10,000 more at {held:,}", done, 10_000, server, note=note, goal="≤ 1.3 times", met=growth <= 1.3)


def _timed(bench: Bench, command: Command, mode: str) -> tuple[Done, float]:
    before = bench.cluster.cpu_s()
    done = command.run(mode)
    return done, bench.cluster.cpu_s() - before


def _expect(done: Done, name: str, number: int) -> None:
    found = done.summary[name]
    if found != number or done.summary["status"] != "succeeded":
        raise AssertionError(f"expected {name} to be {number}, got {found}: {done.summary}")
