"""Each view with every kind of data: open runs, null times, no usage, drafts, children, gone runs."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from postgres_fixtures import add_owners

CONTRACT = {
    "workflow_health_daily": "day app_id workflow_id workflow_name runs completed failed cancelled skipped open "
    "failure_rate p50_duration_s p95_duration_s credits",
    "credits_daily": "day app_id workflow_id workflow_name origin runs credits",
    "step_performance": "app_id workflow_id step_key type runs failed failure_rate p50_s p95_s credits",
    "model_usage_daily": "day provider model calls failed credits",
    "recent_failures": "run_id app_id workflow_id workflow_name failed_at step_key step_type error origin version",
    "open_runs": "run_id app_id workflow_id workflow_name status created_at age_s last_synced_at",
    "run_tree": "root_run_id run_id parent_run_id parent_step_key depth status credits",
    "sync_health": "app_id workflow_id workflow_name state hint watermark lag_s last_synced_at last_reconciled_at "
    "backfill_done api_count warehouse_count quarantined last_error last_error_at",
}
DAY = date(2026, 3, 1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


async def insert(warehouse: asyncpg.Connection, table: str, **values: Any) -> None:
    places = ", ".join(f"${place}" for place in range(1, len(values) + 1))
    await warehouse.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})", *values.values())


async def run(warehouse: asyncpg.Connection, ident: str, *, seconds: float | None = None, **values: Any) -> None:
    """Insert a completed run of workflow w, triggered from app a, created at noon of DAY, lasting `seconds`."""
    row: dict[str, Any] = {
        "app_id": "a",
        "workflow_app_id": "a",
        "stream_app_id": "a",
        "workflow_id": "w",
        "status": "COMPLETED",
        "origin": "TRIGGER",
        "created_at": at("2026-03-01T12:00:00"),
        **values,
    }
    if seconds is not None:
        row["started_at"] = at("2026-03-01T12:00:00")
        row["ended_at"] = datetime.fromtimestamp(row["started_at"].timestamp() + seconds, UTC)
    await add_owners(warehouse, row["workflow_id"], apps=[row["workflow_app_id"]])
    await insert(warehouse, "runs", id=ident, **row)


async def step(warehouse: asyncpg.Connection, run_id: str, key: str, ordinal: int = 0, **values: Any) -> None:
    row = {"type": "code", "status": "COMPLETED", **values}
    await insert(warehouse, "run_steps", run_id=run_id, step_key=key, ordinal=ordinal, **row)


async def call(warehouse: asyncpg.Connection, run_id: str, step_key: str, ordinal: int, /, **values: Any) -> None:
    await insert(warehouse, "run_step_calls", run_id=run_id, step_key=step_key, ordinal=ordinal, **values)


async def rows(warehouse: asyncpg.Connection, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await warehouse.fetch(sql)]


@pytest.mark.parametrize("view", CONTRACT)
async def test_view_columns_are_in_the_documented_order(warehouse: asyncpg.Connection, view: str) -> None:
    statement = await warehouse.prepare(f"SELECT * FROM {view}")
    columns = [attribute.name for attribute in statement.get_attributes()]
    promised = CONTRACT[view].split()
    assert columns[: len(promised)] == promised
    assert await statement.fetch() == []  # an empty warehouse returns no rows, not a row of nulls
    types = {attribute.name: attribute.type.name for attribute in statement.get_attributes()}
    assert types.get("credits", "numeric") == "numeric"
    assert types.get("day", "date") == "date"


async def test_health_counts_statuses_and_rates_ended_runs(warehouse: asyncpg.Connection) -> None:
    await insert(warehouse, "workflows", id="w", name="Invoices")
    for place, (status, seconds) in enumerate(
        [("COMPLETED", 10), ("COMPLETED", 20), ("FAILED", 30), ("CANCELLED", None), ("SKIPPED", 40)]
    ):
        await run(warehouse, f"r{place}", status=status, seconds=seconds, credits=Decimal("0.1"))
    await run(warehouse, "pending", status="PENDING")
    await run(warehouse, "running", status="RUNNING", started_at=at("2026-03-01T12:00:00"))
    await run(warehouse, "newer", status="TIMED_OUT")
    (row,) = await warehouse.fetch("SELECT * FROM workflow_health_daily")
    assert dict(row) == {
        "day": DAY,
        "app_id": "a",
        "workflow_id": "w",
        "workflow_name": "Invoices",
        "runs": 8,
        "completed": 2,
        "failed": 1,
        "cancelled": 1,
        "skipped": 1,
        "open": 2,
        "failure_rate": 0.2,
        "p50_duration_s": 25.0,
        "p95_duration_s": pytest.approx(38.5),
        "credits": Decimal("0.5"),
    }


async def test_health_splits_by_utc_day_app_and_workflow(warehouse: asyncpg.Connection) -> None:
    await warehouse.execute("SET timezone = 'Pacific/Auckland'")
    await run(warehouse, "last", created_at=at("2026-03-01T23:59:59.999999"))
    await run(warehouse, "first", created_at=at("2026-03-02T00:00:00"))
    await run(warehouse, "other app", app_id="b")
    await run(warehouse, "other workflow", workflow_id="x", gone_at=at("2026-03-05T00:00:00"))
    await run(warehouse, "undated", created_at=None)
    found = await rows(
        warehouse, "SELECT day, app_id, workflow_id, workflow_name, runs FROM workflow_health_daily ORDER BY 1, 2, 3"
    )
    assert found == [
        (DAY, "a", "w", None, 1),
        (DAY, "a", "x", None, 1),
        (DAY, "b", "w", None, 1),
        (date(2026, 3, 2), "a", "w", None, 1),
        (None, "a", "w", None, 1),
    ]


async def test_health_of_runs_without_values(warehouse: asyncpg.Connection) -> None:
    await run(warehouse, "r", status="PENDING", app_id=None)
    (row,) = await warehouse.fetch("SELECT * FROM workflow_health_daily")
    assert (row["app_id"], row["failure_rate"], row["p50_duration_s"], row["credits"]) == (None, None, None, 0)


async def test_credits_are_exact_and_split_by_origin(warehouse: asyncpg.Connection) -> None:
    await insert(warehouse, "workflows", id="w", name="Invoices")
    for place in range(10):
        await run(warehouse, f"r{place}", credits=Decimal("0.1"))
    await run(warehouse, "test", origin="TEST", credits=Decimal("12345678901234567890.000000000000000001"))
    await run(warehouse, "none", origin="TEST", credits=None)
    await run(warehouse, "zero", origin="WEBHOOK", credits=Decimal(0))
    assert await rows(warehouse, "SELECT * FROM credits_daily ORDER BY origin") == [
        (DAY, "a", "w", "Invoices", "TEST", 2, Decimal("12345678901234567890.000000000000000001")),
        (DAY, "a", "w", "Invoices", "TRIGGER", 10, Decimal("1.0")),
        (DAY, "a", "w", "Invoices", "WEBHOOK", 1, Decimal(0)),
    ]


async def test_steps_are_rated_over_all_runs(warehouse: asyncpg.Connection) -> None:
    begin = at("2026-03-01T12:00:00")
    for place, (status, ms) in enumerate([("COMPLETED", 100), ("FAILED", 300), ("RUNNING", None), ("SKIPPED", 0)]):
        await run(warehouse, f"r{place}")
        end = None if ms is None else begin.replace(microsecond=ms * 1000)
        await step(warehouse, f"r{place}", "s", status=status, started_at=begin, ended_at=end, credits=Decimal("0.25"))
    await step(warehouse, "r0", "only credits", 1, type=None, status=None, credits=Decimal("0.5"))
    found = await rows(
        warehouse,
        "SELECT step_key, type, runs, failed, failure_rate, p50_s, p95_s, credits FROM step_performance ORDER BY 1",
    )
    assert found == [
        ("only credits", None, 1, 0, None, None, None, Decimal("0.5")),
        ("s", "code", 4, 1, pytest.approx(1 / 3), 0.1, pytest.approx(0.28), Decimal("1.00")),
    ]


async def test_models_are_counted_per_step_or_per_call_of_a_loop(warehouse: asyncpg.Connection) -> None:
    plain = {"type": "model", "provider": "openai", "model": "small"}
    await run(warehouse, "r1")
    await step(warehouse, "r1", "plain", credits=Decimal(1), **plain)
    await step(warehouse, "r1", "failed", 1, status="FAILED", credits=Decimal(2), **plain)
    await call(warehouse, "r1", "plain", 0, type="http_request", status="FAILED")  # a tool call is no model call
    await step(warehouse, "r1", "one model", 2, type="model", credits=Decimal(4))
    await call(warehouse, "r1", "one model", 0, status="COMPLETED", **plain)
    await call(warehouse, "r1", "one model", 1, status="FAILED", **plain)
    await run(warehouse, "r2", created_at=None, gone_at=at("2026-04-01T00:00:00"))
    await step(warehouse, "r2", "two models", type="model", credits=Decimal(8))
    await call(warehouse, "r2", "two models", 0, provider="openai", model="small", status="COMPLETED")
    await call(warehouse, "r2", "two models", 1, provider="anthropic", model="large", status="COMPLETED")
    await step(warehouse, "r2", "never called", 1, type="model", status="FAILED")
    await step(warehouse, "r2", "loop over nothing", 3, type="model", output="[]")
    await step(warehouse, "r2", "no model", 2, provider="openai", model="small")  # type code
    found = await rows(warehouse, "SELECT * FROM model_usage_daily ORDER BY day, provider, model")
    assert found == [
        (DAY, "openai", "small", 4, 2, Decimal(7)),
        (None, "anthropic", "large", 1, 0, Decimal(0)),
        (None, "openai", "small", 1, 0, Decimal(0)),
        (None, None, None, 1, 1, Decimal(0)),
    ]


async def test_calls_of_a_looped_model_step_need_no_type(warehouse: asyncpg.Connection) -> None:
    await run(warehouse, "r")
    await step(warehouse, "r", "half", 0, type="model", status="FAILED", output='[{"model": "small"}, null]')
    await call(warehouse, "r", "half", 0, key="half", status="COMPLETED", provider="openai", model="small")
    await call(warehouse, "r", "half", 1, key="half", status="FAILED")
    await step(warehouse, "r", "all", 1, type="model", status="FAILED", output="[null, null]")
    await call(warehouse, "r", "all", 0, status="FAILED")
    await call(warehouse, "r", "all", 1, key="other", status="FAILED")
    await step(warehouse, "r", "not stored", 2, type="model", status="FAILED")
    await call(warehouse, "r", "not stored", 0, key="not stored", status="FAILED")
    await call(warehouse, "r", "not stored", 1, key="not stored", status="COMPLETED")
    assert await rows(warehouse, "SELECT * FROM model_usage_daily ORDER BY model") == [
        (DAY, "openai", "small", 1, 0, Decimal(0)),
        (DAY, None, None, 5, 4, Decimal(0)),
    ]


async def test_untyped_calls_of_a_model_step_that_did_not_loop_are_tools(warehouse: asyncpg.Connection) -> None:
    await run(warehouse, "r")
    await step(warehouse, "r", "agent", type="model", status="FAILED")
    await call(warehouse, "r", "agent", 0, key="search", status="COMPLETED")
    await call(warehouse, "r", "agent", 1, key="search", status="FAILED")
    assert await rows(warehouse, "SELECT * FROM model_usage_daily") == [(DAY, None, None, 1, 1, Decimal(0))]


async def test_failure_names_the_first_failed_step(warehouse: asyncpg.Connection) -> None:
    await insert(warehouse, "workflows", id="w", name="Invoices")
    await run(warehouse, "r", status="FAILED", seconds=5, error="boom", version=3, gone_at=at("2026-04-01T00:00:00"))
    await step(warehouse, "r", "later", 0, status="FAILED", started_at=at("2026-03-01T12:00:02"), type="model")
    await step(warehouse, "r", "first", 2, status="FAILED", started_at=at("2026-03-01T12:00:01"), type="http_request")
    await step(warehouse, "r", "fine", 1, started_at=at("2026-03-01T12:00:00"))
    await step(warehouse, "r", "undated", 3, status="FAILED")
    await run(warehouse, "fine", seconds=1)
    assert await rows(warehouse, "SELECT * FROM recent_failures") == [
        ("r", "a", "w", "Invoices", at("2026-03-01T12:00:05"), "first", "http_request", "boom", "TRIGGER", 3)
    ]


async def test_failure_without_details(warehouse: asyncpg.Connection) -> None:
    await run(warehouse, "step", status="FAILED", updated_at=at("2026-03-03T00:00:00"))
    await step(warehouse, "step", "b", 1, status="FAILED", error="no b")
    await step(warehouse, "step", "a", 0, status="FAILED", error="no a")
    await run(warehouse, "created", status="FAILED", workflow_id=None)
    await run(warehouse, "nothing", status="FAILED", created_at=None, error="why not")
    found = await rows(
        warehouse, "SELECT run_id, failed_at, step_key, error FROM recent_failures ORDER BY failed_at DESC"
    )
    assert found == [
        ("nothing", None, None, "why not"),
        ("step", at("2026-03-03T00:00:00"), "a", "no a"),
        ("created", at("2026-03-01T12:00:00"), None, None),
    ]


async def test_open_runs_are_pending_or_running_and_listed(warehouse: asyncpg.Connection) -> None:
    await insert(warehouse, "workflows", id="w", name="Invoices")
    await run(warehouse, "pending", status="PENDING", created_at=None)
    await run(warehouse, "running", status="RUNNING", last_synced_at=at("2026-03-02T00:00:00"))
    await run(warehouse, "gone", status="RUNNING", gone_at=at("2026-03-02T00:00:00"))
    await run(warehouse, "done")
    found = await rows(
        warehouse,
        "SELECT run_id, workflow_name, status, round(age_s - extract(epoch FROM now())), last_synced_at > '2026-03-02Z'"
        " FROM open_runs ORDER BY 1",
    )
    begin = -round(at("2026-03-01T12:00:00").timestamp())
    assert found == [("pending", "Invoices", "PENDING", None, True), ("running", "Invoices", "RUNNING", begin, False)]


async def test_sync_health_matches_the_tables(warehouse: asyncpg.Connection) -> None:
    await insert(warehouse, "workflows", id="w", name="Invoices")
    await insert(warehouse, "etl_streams", app_id="a", workflow_id="w", api_count=9, backfill_done=True)
    await warehouse.execute("UPDATE etl_streams SET last_synced_at = now() - interval '90 seconds'")
    await insert(warehouse, "etl_streams", app_id="c", workflow_id="w")
    await run(warehouse, "r1")
    await run(warehouse, "r2", app_id="b", workflow_app_id="b")  # triggered from another app, listed for a
    await run(warehouse, "gone", gone_at=at("2026-03-02T00:00:00"))
    await run(warehouse, "other stream", stream_app_id="c")
    await run(warehouse, "other workflow", workflow_id="x")
    held = {"app_id": "a", "workflow_id": "w", "reason": "invalid_json", "error": "e", "payload": b""}
    await insert(warehouse, "etl_rejects", run_id="bad", digest=b"1", **held)
    await insert(warehouse, "etl_rejects", run_id="bad", digest=b"2", **held)
    await insert(warehouse, "etl_rejects", digest=b"3", **held)
    await insert(warehouse, "etl_rejects", digest=b"4", resolved_at=at("2026-03-02T00:00:00"), **held)
    found = await rows(
        warehouse,
        "SELECT app_id, workflow_id, workflow_name, round(lag_s), backfill_done, api_count, warehouse_count, quarantined"
        " FROM sync_health ORDER BY 1",
    )
    assert found == [
        ("a", "w", "Invoices", 90.0, True, 9, 2, 2),
        ("c", "w", "Invoices", None, False, None, 1, 0),
    ]
