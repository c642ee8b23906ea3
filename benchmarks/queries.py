"""Speed of queries: every view with a limit, every query of the cookbook, and the report.

`python -m benchmarks queries` (or `make bench ARGS=queries`) fills a warehouse with 1,000,000 runs on a temporary
PostgreSQL with default settings and prints a table of median and maximum times, from sending a query to its last row,
and of the CPU time that PostgreSQL took, which other load on the machine hardly affects.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.generate import fill
from benchmarks.postgres import SCHEMA, cpu_s, scratch_cluster
from etl.db.connect import connect
from etl.report import write_report
from etl.tables import RUN_CHILDREN, RUNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

COOKBOOK = Path(__file__).parents[1] / "docs" / "cookbook.md"

VIEWS = {
    "run_facts": "SELECT * FROM run_facts WHERE created_at > now() - interval '1 day'",
    "step_facts": "SELECT * FROM step_facts WHERE created_at > now() - interval '1 day'",
    "workflow_health_daily": "SELECT * FROM workflow_health_daily WHERE day > current_date - 30",
    "credits_daily": "SELECT * FROM credits_daily WHERE day > current_date - 30",
    "step_performance_daily": "SELECT * FROM step_performance_daily WHERE day > current_date - 30",
    "step_performance, one workflow": "SELECT * FROM step_performance WHERE workflow_id = 'wf3'",
    "model_usage_daily": "SELECT * FROM model_usage_daily WHERE day > current_date - 30",
    "recent_failures": "SELECT * FROM recent_failures WHERE failed_at > now() - interval '30 days'",
    "failure_groups, all": "SELECT * FROM failure_groups",
    "open_runs": "SELECT * FROM open_runs WHERE created_at > now() - interval '30 days'",
    "run_tree": "SELECT * FROM run_tree WHERE day > current_date - 7",
    "sync_health": "SELECT * FROM sync_health",
}
UNBOUNDED = {
    "run_tree, 30 days": "SELECT * FROM run_tree WHERE day > current_date - 30",
    "step_performance, all": "SELECT * FROM step_performance",
}
VIEW_GOAL_S, COOKBOOK_GOAL_S, REPORT_GOAL_S = 0.1, 1.0, 10.0

_COOKBOOK_QUERY = re.compile(r"^### (.+?)\n.*?^```sql\n(.*?);\n```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Timing:
    """The times of one query."""

    kind: str
    query: str
    seconds: list[float]
    goal_s: float
    cpu_s: float
    rows: int | None = None

    def line(self) -> str:
        """Return a row of the table."""
        middle, worst = median(self.seconds), max(self.seconds)
        verdict = "" if middle < self.goal_s else "over"
        rows = "" if self.rows is None else f"{self.rows:,}"
        times = " | ".join(f"{each * 1000:,.0f} ms" for each in (middle, worst, self.cpu_s))
        return f"| {self.kind} | {self.query} | {rows} | {times} | {verdict} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill a warehouse, run the queries, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks queries", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000, help="number of runs in the warehouse [%(default)s]")
    parser.add_argument("--times", type=int, default=7, help="executions of each query [%(default)s]")
    parser.add_argument("--url", help="use a warehouse on this machine instead of a temporary one")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        url = options.url
        if url is None:
            cluster = stack.enter_context(scratch_cluster())
            url = cluster.fresh("queries")
            seconds = asyncio.run(fill(url, options.runs))
            rollups = seconds.pop("rollups")
            print(f"PostgreSQL {cluster.version()} with default settings, {os.cpu_count()} cores")
            print(f"Filled in {sum(seconds.values()):.0f} s, rolled up in {rollups:.0f} s")
        asyncio.run(_measure(url, options.times))


async def _measure(url: str, times: int) -> None:
    connection = await connect(url, SCHEMA)
    try:
        await connection.execute("SET timezone = 'UTC'")
        server = Path(await connection.fetchval("SHOW data_directory"))
        print(await _size(connection))
        print("\n| | query | rows | median | maximum | CPU | |\n| --- | --- | ---: | ---: | ---: | ---: | --- |")
        for view, sql in VIEWS.items():
            print((await _time(connection, "view", f"`{view}`", sql, VIEW_GOAL_S, times)).line(), flush=True)
        for view, sql in UNBOUNDED.items():
            print((await _time(connection, "view", f"`{view}`", sql, COOKBOOK_GOAL_S, times)).line(), flush=True)
        for title, sql in _COOKBOOK_QUERY.findall(COOKBOOK.read_text(encoding="utf-8")):
            print((await _time(connection, "cookbook", title, sql, COOKBOOK_GOAL_S, times)).line(), flush=True)
    finally:
        await connection.close()
    print((await _time_report(url, server, min(times, 3))).line())


async def _time(connection: asyncpg.Connection, kind: str, name: str, sql: str, goal_s: float, times: int) -> Timing:
    seconds = []
    rows = 0
    server = Path(await connection.fetchval("SHOW data_directory"))
    before = cpu_s(server)
    for _ in range(times):
        size = 0

        async def count(piece: bytes) -> None:
            nonlocal size
            size += len(piece)

        started = perf_counter()
        status = await connection.copy_from_query(sql, output=count)
        seconds.append(perf_counter() - started)
        rows = int(status.split()[1])
    return Timing(kind, name, seconds, goal_s, (cpu_s(server) - before) / times, rows)


async def _time_report(url: str, server: Path, times: int) -> Timing:
    seconds = []
    before = cpu_s(server)
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(times):
            started = perf_counter()
            await write_report(url, SCHEMA, Path(directory) / "report.html")
            seconds.append(perf_counter() - started)
    return Timing("report", "`cortex-etl report`", seconds, REPORT_GOAL_S, (cpu_s(server) - before) / times)


async def _size(connection: asyncpg.Connection) -> str:
    tables = (RUNS.name, *(table.name for table in RUN_CHILDREN))
    counts = [f"{await connection.fetchval(f'SELECT count(*) FROM {table}'):,} {table}" for table in tables]
    size = await connection.fetchval("SELECT pg_database_size(current_database())")
    return f"{', '.join(counts)}; {size / 2**30:.1f} GiB with indexes"


if __name__ == "__main__":
    main()
