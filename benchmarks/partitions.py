"""Benefits and costs of monthly partitions: the same runs and steps in a plain and in a partitioned layout.

`python -m benchmarks.partitions` fills both with several years of runs on a temporary PostgreSQL, loads more batches as
a sync does, and runs queries that depend on the layout. It reports CPU seconds of the server beside wall-clock time,
because other load on the machine affects only the latter.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.postgres import SCHEMA, scratch_cluster
from etl.db.connect import connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

STEPS = 5
BATCH = 1000
BATCHES = 30
PAGE = 100

# The keys of a partitioned table must include the month, and so must references to it. The month is set when a run is
# first seen: created_at may be null, and changing the key would move the row.
LAYOUTS = {
    "plain": (
        """
        CREATE TABLE runs (id text PRIMARY KEY, month date NOT NULL, created_at timestamptz, body text);
        CREATE TABLE run_steps (run_id text REFERENCES runs ON DELETE CASCADE, month date, step_key text, body text,
            PRIMARY KEY (run_id, step_key));
        CREATE INDEX ON runs (created_at)
        """
    ),
    "partitioned": (
        """
        CREATE TABLE runs (id text, month date, created_at timestamptz, body text, PRIMARY KEY (id, month))
            PARTITION BY RANGE (month);
        CREATE TABLE run_steps (run_id text, month date, step_key text, body text,
            PRIMARY KEY (run_id, month, step_key),
            FOREIGN KEY (run_id, month) REFERENCES runs (id, month) ON DELETE CASCADE) PARTITION BY RANGE (month);
        CREATE INDEX ON runs (created_at);
        DO $$ DECLARE first date := date_trunc('month', now())::date; BEGIN
            FOR place IN -1 .. $MONTHS LOOP
                EXECUTE format('CREATE TABLE runs_%s PARTITION OF runs FOR VALUES FROM (%L) TO (%L)',
                    place + 1, first - place * interval '1 month', first - (place - 1) * interval '1 month');
                EXECUTE format('CREATE TABLE run_steps_%s PARTITION OF run_steps FOR VALUES FROM (%L) TO (%L)',
                    place + 1, first - place * interval '1 month', first - (place - 1) * interval '1 month');
            END LOOP;
        END $$
        """
    ),
}
# Remove the second oldest month: the oldest is incomplete.
REMOVALS = {
    "plain": (
        "DELETE FROM runs WHERE month = (SELECT (min(month) + interval '1 month')::date FROM runs)",
        "VACUUM runs",
        "VACUUM run_steps",
    ),
    "partitioned": (
        """
        DO $$ DECLARE
            old interval := age(date_trunc('month', now()), (SELECT min(month) + interval '1 month' FROM runs));
            place int := extract(year FROM old) * 12 + extract(month FROM old) + 1;
        BEGIN
            EXECUTE format('DROP TABLE run_steps_%s', place);
            EXECUTE format('ALTER TABLE runs DETACH PARTITION runs_%s', place);
            EXECUTE format('DROP TABLE runs_%s', place);
        END $$
        """,
    ),
}
RUNS = """
    INSERT INTO runs SELECT md5(i::text), date_trunc('month', at)::date, at, repeat('r', 200)
    FROM generate_series($1::bigint, $2::bigint) AS i
    CROSS JOIN LATERAL (SELECT now() - (1 - i / $3::float8) * $4 * interval '30 days' AS at) AS made
"""
RUN_STEPS = """
    INSERT INTO run_steps SELECT md5(i::text), date_trunc('month', at)::date, 'step ' || k, repeat('s', 150)
    FROM generate_series($1::bigint, $2::bigint) AS i
    CROSS JOIN LATERAL (SELECT now() - (1 - i / $3::float8) * $4 * interval '30 days' AS at) AS made
    CROSS JOIN generate_series(1, $5::int) AS k
"""
LAST_30_DAYS = """
    SELECT count(*), count(step_key) FROM runs JOIN run_steps ON run_id = id
    WHERE created_at >= now() - interval '30 days'
"""
SOME_IDS = "SELECT md5((random() * $1)::bigint::text) AS id FROM generate_series(1, $2::int)"
KNOWN = "SELECT id, created_at FROM runs WHERE id = ANY ($1)"


def main() -> None:
    """Fill both layouts, measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.partitions", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000, help="number of runs in each layout [%(default)s]")
    parser.add_argument("--months", type=int, default=36, help="number of months covered [%(default)s]")
    options = parser.parse_args()
    with scratch_cluster() as cluster:
        found = {}
        for layout, tables in LAYOUTS.items():
            url = cluster.fresh(layout, migrated=False)
            made = tables.replace("$MONTHS", str(options.months))
            found[layout] = asyncio.run(_measure(url, made, REMOVALS[layout], options.runs, options.months))
    print(f"{options.runs:,} runs with {STEPS} steps each, over {options.months} months\n")
    print("| | " + " | ".join(found) + " |\n| --- | " + " | ".join("---:" for _ in found) + " |")
    for what in found["plain"]:
        print(f"| {what} | " + " | ".join(found[layout][what] for layout in found) + " |")


async def _measure(url: str, tables: str, removal: Sequence[str], runs: int, months: int) -> dict[str, str]:
    connection = await connect(url, SCHEMA)
    await connection.execute(f"CREATE SCHEMA {SCHEMA}")
    await connection.execute(tables)
    await connection.execute("SET session_replication_role = replica")
    await connection.execute(RUNS, 1, runs, runs, months)
    await connection.execute(RUN_STEPS, 1, runs, runs, months, STEPS)
    await connection.execute("SET session_replication_role = origin")
    await connection.execute("VACUUM (ANALYZE)")
    await connection.execute("CHECKPOINT")
    size = await connection.fetchval("SELECT pg_database_size(current_database())")
    found = {"size with indexes": f"{size / 2**20:,.0f} MiB"}
    started, cpu = perf_counter(), server_cpu_s(connection)
    for batch in range(BATCHES):
        first = runs + batch * BATCH
        async with connection.transaction():
            await connection.execute(RUNS, first + 1, first + BATCH, runs + BATCH * BATCHES, 1)
            await connection.execute(RUN_STEPS, first + 1, first + BATCH, runs + BATCH * BATCHES, 1, STEPS)
    cpu = server_cpu_s(connection) - cpu
    found[f"loading {BATCH * BATCHES:,} new runs"] = f"{perf_counter() - started:.1f} s, {cpu:.1f} s of CPU"
    ids = [row["id"] for row in await connection.fetch(SOME_IDS, runs, 50 * PAGE)]
    pages = [ids[start : start + PAGE] for start in range(0, len(ids), PAGE)]
    found[f"{PAGE} runs by id, as for one page"] = await _asked(connection, KNOWN, [[page] for page in pages])
    found["one run by its id"] = await _asked(connection, KNOWN, [[page[:1]] for page in pages])
    found["runs and steps of 30 days"] = await _asked(connection, LAST_30_DAYS, [[]] * 5)
    held = await connection.fetchval("SELECT count(*) FROM runs")
    started = perf_counter()
    for statement in removal:
        await connection.execute(statement)
    seconds = perf_counter() - started
    removed = held - await connection.fetchval("SELECT count(*) FROM runs")
    found["deleting one month"] = f"{removed:,} runs in {seconds:.1f} s"
    await connection.close()
    return found


async def _asked(connection: asyncpg.Connection, question: str, arguments: Sequence[Sequence[object]]) -> str:
    seconds = []
    for each in arguments:
        started = perf_counter()
        await connection.fetch(question, *each)
        seconds.append(perf_counter() - started)
    return f"{median(seconds) * 1000:,.1f} ms"


def server_cpu_s(connection: asyncpg.Connection) -> float:
    """Return the CPU seconds used by a connection's server process."""
    fields = Path(f"/proc/{connection.get_server_pid()}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


if __name__ == "__main__":
    main()
