"""What parts of the schema cost in a backfill: pairs of backfills, with and without a part, in turns.

`python -m benchmarks.pairs` loads 20,000 runs into new databases on a temporary PostgreSQL with default settings. The
cost is the difference in CPU seconds of the program and of PostgreSQL, which other load on the machine hardly affects.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median, stdev
from typing import TYPE_CHECKING

from benchmarks.command import Command
from benchmarks.postgres import SCHEMA, Cluster
from benchmarks.processes import page_server
from etl.db.connect import connect

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the schema, and the statements that remove it. `checked`: load as a role that checks foreign keys."""

    name: str
    without: str
    checked: bool = False


PARTS = (
    Part(
        "own credits",
        """
        DROP FUNCTION update_own_credits(interval);
        CREATE FUNCTION update_own_credits(interval) RETURNS boolean LANGUAGE sql AS 'SELECT true';
        CREATE RULE nothing AS ON INSERT TO etl_changed_credits DO INSTEAD NOTHING
        """,
    ),
    Part(
        "foreign keys runs → workflows → apps",
        """
        ALTER TABLE runs DROP CONSTRAINT runs_workflow_fkey, DROP CONSTRAINT runs_app_fkey;
        ALTER TABLE workflows DROP CONSTRAINT workflows_app_fkey
        """,
        checked=True,
    ),
    Part(
        "rollup of failures",
        """
        CREATE OR REPLACE VIEW counted_failures AS
        SELECT NULL::text AS workflow_id, NULL::date AS day, NULL::text AS workflow_app_id, NULL::text AS app_id,
            NULL::text AS step_key, NULL::text AS message, NULL::integer AS version, 0::bigint AS runs,
            NULL::timestamptz AS first_seen, NULL::timestamptz AS last_seen
        WHERE false
        """,
    ),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the parts and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pairs", description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000, help="runs per backfill [%(default)s]")
    parser.add_argument("--pairs", type=int, default=10, help="backfills with and without a part [%(default)s]")
    parser.add_argument("--part", help="measure only parts whose name contains this")
    options = parser.parse_args(arguments)
    print("| part | CPU with it | without | median cost | standard error |\n| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory(prefix="cxb-") as name, page_server() as port:
        directory = Path(name)
        directory.chmod(0o755)
        with Cluster(directory) as cluster:
            _backfill(cluster, directory, port, options.runs, PARTS[0], without=False)  # warms up
            for part in PARTS:
                if not options.part or options.part in part.name:
                    print(_compare(cluster, directory, port, options.runs, options.pairs, part), flush=True)


def _compare(cluster: Cluster, directory: Path, port: int, runs: int, pairs: int, part: Part) -> str:
    used: dict[bool, list[float]] = {False: [], True: []}
    for number in range(pairs):
        for without in (False, True) if number % 2 else (True, False):
            used[without].append(_backfill(cluster, directory, port, runs, part, without=without))
    costs = [with_it / without - 1 for with_it, without in zip(used[False], used[True], strict=True)]
    error = stdev(costs) / len(costs) ** 0.5 if len(costs) > 1 else 0.0
    medians = " | ".join(f"{median(used[without]):.2f} s" for without in (False, True))
    return f"| {part.name} | {medians} | {median(costs):+.1%} | {error:.1%} |"


def _backfill(cluster: Cluster, directory: Path, port: int, runs: int, part: Part, *, without: bool) -> float:
    """Load a new database; return the CPU seconds that the program and PostgreSQL took."""
    url = cluster.fresh("pair")
    if without:
        asyncio.run(_execute(url, part.without))
    loading = cluster.loader(url) if part.checked else url
    before = cluster.cpu_s()
    done = Command(directory, port, loading, f"app-{runs}").run("backfill")
    used = done.usage.cpu_s + cluster.cpu_s() - before
    assert done.summary["runs_inserted"] == runs, done.summary
    cluster.drop(url)
    return used


async def _execute(url: str, sql: str) -> None:
    connection = await connect(url, SCHEMA)
    await connection.execute(sql)
    await connection.close()


if __name__ == "__main__":
    main()
