"""Each shipped alert rule on small data: what it finds and what it ignores."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, get_args

import asyncpg
import pytest
from postgres_fixtures import add_owners

from etl.config.sections import ShippedRule
from etl.db.querying import run_query
from etl.db.statements import statements

RULES = statements("alert_rules")


@pytest.fixture
def found(database_url: str):
    async def run(rule: str) -> list[tuple]:
        return (await run_query(database_url, "cortex", RULES[rule], timeout_s=30)).rows

    return run


async def add_runs(
    warehouse: asyncpg.Connection,
    count: int,
    *,
    hours: float,
    workflow: str = "w",
    took_s: float = 60,
    **values: object,
) -> None:
    """Add runs created some hours ago; by default, they are COMPLETED after `took_s`."""
    await add_owners(warehouse, workflow, apps=["a"])
    created = datetime.now(UTC) - timedelta(hours=hours)
    first = await warehouse.fetchval("SELECT count(*) FROM runs")
    row = {
        "workflow_app_id": "a", "app_id": "a", "stream_app_id": "a", "workflow_id": workflow, "status": "COMPLETED",
        "origin": "TRIGGER", "created_at": created, "ended_at": created + timedelta(seconds=took_s), **values,
    }  # fmt: skip
    places = ", ".join(f"${place}" for place in range(2, len(row) + 2))
    for number in range(first, first + count):
        await warehouse.execute(
            f"INSERT INTO runs (id, {', '.join(row)}) VALUES ($1, {places})", f"run{number}", *row.values()
        )


def test_settings_name_every_shipped_rule() -> None:
    assert tuple(RULES) == get_args(ShippedRule)


@pytest.mark.parametrize("rule", RULES)
async def test_empty_warehouse_fires_no_rule(warehouse, found, rule) -> None:
    assert await found(rule) == []


async def test_daily_spend(warehouse, found) -> None:
    today = datetime.now(UTC).date()
    noon = datetime(today.year, today.month, today.day, tzinfo=UTC)
    for day in range(1, 7):
        await add_runs(warehouse, 1, hours=0, created_at=noon - timedelta(days=day), own_credits=Decimal(2))
    await add_runs(warehouse, 1, hours=0, created_at=noon, own_credits=Decimal(7))
    assert await found("daily_spend") == []  # too short a history
    await add_runs(warehouse, 1, hours=0, created_at=noon - timedelta(days=9), own_credits=Decimal(2))
    assert await found("daily_spend") == [(today, Decimal("7.00"), Decimal("2.00"))]
    await warehouse.execute("UPDATE runs SET own_credits = 6 WHERE own_credits = 7")
    assert await found("daily_spend") == []  # exactly three times the usual


async def test_failure_rate(warehouse, found) -> None:
    await add_runs(warehouse, 19, hours=24 * 5)
    await add_runs(warehouse, 1, hours=24 * 5, status="FAILED")
    await add_runs(warehouse, 8, hours=0)
    await add_runs(warehouse, 2, hours=0, status="FAILED")
    await add_runs(warehouse, 20, hours=0, workflow="new", status="FAILED")  # nothing to compare with
    await add_runs(warehouse, 10, hours=24 * 5, workflow="bad", status="FAILED")
    await add_runs(warehouse, 10, hours=0, workflow="bad", status="FAILED")  # the usual rate
    assert await found("failure_rate") == [("w", None, 2, 10, Decimal("0.200"), Decimal("0.050"))]
    await add_runs(warehouse, 15, hours=0)
    assert await found("failure_rate") == []  # 2 of 25


async def test_stuck_runs(warehouse, found) -> None:
    await add_runs(warehouse, 20, hours=50, took_s=1800)
    await add_runs(warehouse, 20, hours=50, workflow="quick", took_s=1)
    still_open: dict[str, Any] = {"status": "RUNNING", "ended_at": None}
    await add_runs(warehouse, 1, hours=1, **still_open)  # run40
    await add_runs(warehouse, 1, hours=0.4, **still_open)
    await add_runs(warehouse, 1, hours=0.1, workflow="quick", **still_open)  # less than ten minutes
    await add_runs(warehouse, 1, hours=9, workflow="new", **still_open)  # no history
    (row,) = await found("stuck_runs")
    assert (row[0], row[2], row[3], row[6]) == ("w", "run40", "RUNNING", 1800)
    assert row[5] == pytest.approx(3600, abs=60)


async def test_unknown_values(warehouse, found) -> None:
    await add_runs(warehouse, 1, hours=1, status="ODD", extra='{"new": 1, "old": 2}')
    assert await found("unknown_values") == []  # there are no earlier runs
    await add_runs(warehouse, 1, hours=24 * 9, origin="RECORD", extra='{"old": 3}')
    await add_runs(warehouse, 1, hours=1, origin="RECORD")
    steps = "INSERT INTO run_steps (run_id, step_key, ordinal, type, status, extra) VALUES ($1, 'k', 0, $2, 'DONE', $3)"
    await warehouse.execute(steps, "run0", "dream", '{"mood": 1}')
    await warehouse.execute(steps, "run1", "code", None)
    await warehouse.execute(steps, "run2", "code", None)
    assert await found("unknown_values") == [
        ("run_steps.extra", "mood", 1),
        ("run_steps.type", "dream", 1),
        ("runs.extra", "new", 1),
        ("runs.origin", "TRIGGER", 1),
        ("runs.status", "ODD", 1),
    ]
