"""Fill a warehouse with synthetic runs, using COPY. `generated.sql` generates the rows."""

from __future__ import annotations

import asyncio
from math import inf
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.postgres import SCHEMA
from etl.db.connect import connect
from etl.db.rollups import roll_up
from etl.tables import ENTITIES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

ROWS = Path(__file__).with_name("generated.sql")
TABLES = (*(table.name for table in ENTITIES), "etl_streams", "etl_syncs", "etl_rejects")

_COLUMNS = """
SELECT made.attname AS name, format_type(target.atttypid, target.atttypmod) AS kind
FROM pg_attribute AS made
JOIN pg_attribute AS target ON target.attrelid = $1::text::regclass AND target.attname = made.attname
WHERE made.attrelid = ('made.' || $1::text)::regclass AND made.attnum > 0
ORDER BY made.attnum
"""

# Triggers were disabled during the load, so the changed days were not recorded.
_MARK_ALL_DAYS = """
INSERT INTO etl_changed_days (workflow_id, day, runs)
SELECT workflow_id, (created_at AT TIME ZONE 'UTC')::date, count(*) FROM runs GROUP BY 1, 2
"""


async def fill(url: str, runs: int) -> dict[str, float]:
    """Load about `runs` runs; return the seconds per table and for the rollups.

    Foreign keys and other triggers are disabled, because the rows are known to be valid; indexes are not.
    """
    reader, writer = await connect(url, SCHEMA), await connect(url, SCHEMA)
    try:
        await reader.execute(ROWS.read_text(encoding="utf-8").replace("$RUNS", str(runs)))
        await reader.execute("SET max_parallel_workers_per_gather = 0")  # keep the order of the rows
        await writer.execute("SET session_replication_role = replica")
        seconds = {}
        for table in TABLES:
            started = perf_counter()
            await _copy(reader, writer, table)
            seconds[table] = perf_counter() - started
        await reader.execute("DROP SCHEMA made CASCADE")
        # As autovacuum does within minutes of such a load.
        await writer.execute("VACUUM (ANALYZE)")
        started = perf_counter()
        await writer.execute(_MARK_ALL_DAYS)
        await roll_up(writer, seconds=inf)
        seconds["rollups"] = perf_counter() - started
        await writer.execute(
            "VACUUM (ANALYZE) etl_changed_days, rollup_health, rollup_credits, rollup_steps, rollup_models, "
            "rollup_failures"
        )
        await writer.execute("CHECKPOINT")
    finally:
        await reader.close()
        await writer.close()
    return seconds


async def _copy(reader: asyncpg.Connection, writer: asyncpg.Connection, table: str) -> None:
    kinds = {row["name"]: row["kind"] for row in await reader.fetch(_COLUMNS, table)}
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=64)

    async def read() -> None:
        try:
            values = ", ".join(f'"{name}"::{kind}' for name, kind in kinds.items())
            await reader.copy_from_query(f"SELECT {values} FROM made.{table}", output=pieces.put, format="binary")
        finally:
            await pieces.put(None)

    async def rows() -> AsyncIterator[bytes]:
        while (piece := await pieces.get()) is not None:
            yield piece

    await asyncio.gather(
        read(), writer.copy_to_table(table, source=rows(), columns=list(kinds), format="binary", schema_name=SCHEMA)
    )
