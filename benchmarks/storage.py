"""Effects of storage options: fillfactor and HOT updates, lz4, and BRIN instead of a B-tree.

`python -m benchmarks.storage` fills a warehouse on a temporary PostgreSQL and rewrites `runs` with each option. It
compares sizes, WAL, shares of HOT updates and CPU seconds of the server, which hardly depend on other load.
"""

from __future__ import annotations

import argparse
import asyncio

import asyncpg

from benchmarks.data import library
from benchmarks.generate import fill
from benchmarks.partitions import server_cpu_s
from benchmarks.postgres import SCHEMA, scratch_cluster
from etl.db.connect import connect
from etl.tables import RUNS

FILLFACTORS = (100, 90, 70)
COMPRESSIONS = ("pglz", "lz4")
DOCUMENT_ROUNDS = 5

COLUMNS = ", ".join(f'"{name}"' for name in RUNS.names)
# Typical changes: an open run ends; the retention of an old run changes.
CHANGES = {
    "run ended": "status = 'COMPLETED', ended_at = now(), updated_at = now()",
    "retention changed": "retention_max_age_s = 5, updated_at = now()",
}
CHANGE = """
    UPDATE {table} SET {change}, content_hash = sha256(content_hash), last_synced_at = now()
    WHERE hashtext(id) % 100 = {chosen}
"""
LAST_30_DAYS = "SELECT count(credits) FROM {table} WHERE created_at >= now() - interval '30 days'"


def main() -> None:
    """Fill a warehouse, measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage", description=__doc__)
    parser.add_argument("--runs", type=int, default=200_000, help="number of runs in the warehouse [%(default)s]")
    options = parser.parse_args()
    with scratch_cluster() as cluster:
        url = cluster.fresh("storage")
        asyncio.run(fill(url, options.runs))
        lines = asyncio.run(_measure(url))
    print(f"{options.runs:,} runs; 1 % of them changed at a time\n")
    print("\n".join(lines))


async def _measure(url: str) -> list[str]:
    connection = await connect(url, SCHEMA)
    lines = ["| `runs` with fillfactor | size | " + " | ".join(f"{each}: HOT, WAL" for each in CHANGES) + " |"]
    lines.append("| ---: | ---: |" + " ---: |" * len(CHANGES))
    lines += [await _with_fillfactor(connection, each) for each in FILLFACTORS]
    lines += ["", "| payloads of 7.6 kB | size | CPU writing | CPU reading |", "| --- | ---: | ---: | ---: |"]
    lines += [await _with_compression(connection, each) for each in COMPRESSIONS]
    lines += ["", "| index on `created_at` | size | pages read for 30 days |", "| --- | ---: | ---: |"]
    lines += [await _with_index(connection, each) for each in ("btree", "brin")]
    await connection.close()
    return lines


async def _with_fillfactor(connection: asyncpg.Connection, fillfactor: int) -> str:
    table = f"runs_{fillfactor}"
    await connection.execute(f"CREATE TABLE {table} (LIKE runs INCLUDING ALL) WITH (fillfactor = {fillfactor})")
    await connection.execute(f"INSERT INTO {table} ({COLUMNS}) SELECT {COLUMNS} FROM runs")
    await connection.execute(f"VACUUM (ANALYZE) {table}")
    cells = [f"{fillfactor} %", await _size(connection, table)]
    for chosen, change in enumerate(CHANGES.values()):
        await connection.execute("CHECKPOINT")
        before = await connection.fetchval("SELECT pg_current_wal_insert_lsn()")
        async with connection.transaction():
            await connection.execute(CHANGE.format(table=table, change=change, chosen=chosen))
            (hot, changed), *_ = await connection.fetch(
                "SELECT pg_stat_get_xact_tuples_hot_updated(oid), pg_stat_get_xact_tuples_updated(oid) "
                "FROM (SELECT $1::text::regclass::oid AS oid) AS named",
                table,
            )
        wal = await connection.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", before)
        cells.append(f"{100 * hot / changed:.0f} %, {float(wal) / changed / 1000:.1f} kB per run")
    await connection.execute(f"DROP TABLE {table}")
    return "| " + " | ".join(cells) + " |"


async def _with_compression(connection: asyncpg.Connection, compression: str) -> str:
    documents = [
        template.filled(dict.fromkeys(template.blanks, b'"x"')).decode()
        for templates in library().templates.values()
        for template in templates
    ]
    try:
        await connection.execute(f"CREATE TABLE documents (document jsonb COMPRESSION {compression})")
    except asyncpg.FeatureNotSupportedError:
        return f"| {compression} | not supported by this server | | |"
    started = server_cpu_s(connection)
    for _ in range(DOCUMENT_ROUNDS):
        await connection.executemany("INSERT INTO documents VALUES ($1)", [(each,) for each in documents])
    written = server_cpu_s(connection)
    for _ in range(DOCUMENT_ROUNDS):
        await connection.fetchval("SELECT count(document ->> 'status') FROM documents")
    read = server_cpu_s(connection)
    size = await _size(connection, "documents")
    await connection.execute("DROP TABLE documents")
    return f"| {compression} | {size} | {written - started:.1f} s | {read - written:.1f} s |"


async def _with_index(connection: asyncpg.Connection, method: str) -> str:
    table = f"runs_{method}"
    await connection.execute(f"CREATE TABLE {table} AS SELECT * FROM runs")
    await connection.execute(f"CREATE INDEX {table}_idx ON {table} USING {method} (created_at)")
    await connection.execute(f"VACUUM (ANALYZE) {table}")
    await connection.execute("SET enable_seqscan = off")
    plan = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) {LAST_30_DAYS.format(table=table)}")
    await connection.execute("RESET enable_seqscan")
    pages = next(row[0] for row in plan if "Buffers" in row[0])
    numbers = sum(int(word.partition("=")[2]) for word in pages.split() if word.startswith(("hit=", "read=")))
    size = await _size(connection, f"{table}_idx")
    await connection.execute(f"DROP TABLE {table}")
    return f"| {method} | {size} | {numbers:,} |"


async def _size(connection: asyncpg.Connection, relation: str) -> str:
    size = await connection.fetchval("SELECT pg_table_size($1::text::regclass)", relation)
    return f"{size / 2**20:,.1f} MiB"


if __name__ == "__main__":
    main()
