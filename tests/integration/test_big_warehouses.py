"""The statements in `docs/big-warehouses.md` work."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from math import inf
from pathlib import Path

import asyncpg
from postgres_fixtures import add_owners

from etl.db.rollups import roll_up

PAGE = (Path(__file__).parents[2] / "docs" / "big-warehouses.md").read_text(encoding="utf-8")


async def test_old_gone_runs_can_be_deleted(warehouse: asyncpg.Connection) -> None:
    await add_owners(warehouse, "w")
    for name, day, gone in (("old", 2024, True), ("listed", 2024, False), ("new", 2025, True)):
        at = datetime(day, 3, 1, tzinfo=UTC)
        await warehouse.execute(
            "INSERT INTO runs (id, workflow_id, created_at, gone_at, own_credits) VALUES ($1, 'w', $2, $3, 1)",
            name, at, at if gone else None,
        )  # fmt: skip
        await warehouse.execute("INSERT INTO run_steps (run_id, step_key, ordinal) VALUES ($1, 's', 0)", name)
    await roll_up(warehouse, seconds=inf)
    for block in re.findall(r"^```sql\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for statement in filter(str.strip, block.split(";")):
            await warehouse.execute(statement)
    assert {row["run_id"] for row in await warehouse.fetch("SELECT run_id FROM run_steps")} == {"listed", "new"}
    days = await warehouse.fetch("SELECT day::text, runs, credits FROM workflow_health_daily ORDER BY day")
    assert [tuple(row) for row in days] == [("2024-03-01", 1, 1), ("2025-03-01", 1, 1)]
