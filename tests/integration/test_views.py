"""Each view with every kind of data: open runs, null times, no usage, drafts, children, gone runs."""

from __future__ import annotations

import random
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from math import inf
from typing import Any

import asyncpg
import pytest
from postgres_fixtures import add_owners

from etl.db.rollups import roll_up

CONTRACT = {
    "run_facts": "run_id app_id app_name workflow_id workflow_name version status origin created_at started_at ended_at "
    "duration_s credits credits_with_children input_tokens output_tokens steps failed_step_key error parent_run_id "
    "record_id collection_id triggered_by_app_id gone_at",
    "step_facts": "run_id app_id workflow_id workflow_name version created_at step_key type status started_at duration_s "
    "provider model input_tokens output_tokens calls credits child_run_id error",
    "workflow_health_daily": "day app_id workflow_id workflow_name runs completed failed cancelled skipped open "
    "failure_rate p50_duration_s p95_duration_s credits",
    "credits_daily": "day app_id workflow_id workflow_name origin runs credits credits_with_children",
    "step_performance": "app_id workflow_id workflow_name step_key type runs failed failure_rate p50_s p95_s credits",
    "model_usage_daily": "day app_id workflow_id workflow_name provider model calls failed input_tokens output_tokens "
    "credits",
    "recent_failures": "run_id app_id workflow_id workflow_name failed_at step_key step_type error origin version",
    "failure_groups": "app_id workflow_id workflow_name step_key message runs first_seen last_seen versions",
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
        "own_credits": values.get("credits"),
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
    assert {name for name, kind in types.items() if name.endswith("_s") and kind != "float8"} == set()


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


async def test_health_has_a_row_per_utc_day_and_workflow(warehouse: asyncpg.Connection) -> None:
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
        (DAY, "a", "w", None, 2),
        (DAY, "a", "x", None, 1),
        (date(2026, 3, 2), "a", "w", None, 1),
        (None, "a", "w", None, 1),
    ]


async def test_health_of_runs_without_values(warehouse: asyncpg.Connection) -> None:
    await run(warehouse, "r", status="PENDING", app_id=None, workflow_app_id=None)
    (row,) = await warehouse.fetch("SELECT * FROM workflow_health_daily")
    assert (row["app_id"], row["failure_rate"], row["p50_duration_s"], row["credits"]) == (None, None, None, None)
    await run(warehouse, "s", app_id="b", workflow_app_id=None)
    assert await rows(warehouse, "SELECT app_id, runs FROM workflow_health_daily") == [("b", 2)]


async def test_credits_have_a_row_per_day_workflow_and_origin(warehouse: asyncpg.Connection) -> None:
    await insert(warehouse, "workflows", id="w", name="Invoices")
    for place in range(10):
        await run(warehouse, f"r{place}", credits=Decimal("0.1"))
    await run(
        warehouse, "other app", app_id="b", stream_app_id="b", credits=Decimal("0.1"), own_credits=Decimal("0.05")
    )
    await run(warehouse, "test", origin="TEST", credits=Decimal("12345678901234567890.0000000000010000335"))
    await run(warehouse, "none", origin="TEST", credits=None)
    await run(warehouse, "zero", origin="WEBHOOK", credits=Decimal(0))
    await run(warehouse, "unknown", origin="ENDPOINT", credits=None)
    large = Decimal("12345678901234567890.000000000001")
    found = await rows(warehouse, "SELECT * FROM credits_daily ORDER BY origin")
    assert found == [
        (DAY, "a", "w", "Invoices", "ENDPOINT", 1, None, None),
        (DAY, "a", "w", "Invoices", "TEST", 2, large, large),
        (DAY, "a", "w", "Invoices", "TRIGGER", 11, Decimal("1.05"), Decimal("1.1")),
        (DAY, "a", "w", "Invoices", "WEBHOOK", 1, 0, 0),
    ]
    assert [str(row[6]) for row in found] == ["None", str(large), "1.05", "0"], "no noise digits"


async def test_steps_have_a_row_per_workflow_and_step(warehouse: asyncpg.Connection) -> None:
    begin = at("2026-03-01T12:00:00")
    for place, (status, ms) in enumerate([("COMPLETED", 100), ("FAILED", 300), ("RUNNING", None), ("SKIPPED", 0)]):
        await run(warehouse, f"r{place}")
        end = None if ms is None else begin.replace(microsecond=ms * 1000)
        values: dict[str, Any] = {"status": status, "started_at": begin, "ended_at": end, "credits": Decimal("0.25")}
        await step(warehouse, f"r{place}", "s", **values)
    await run(warehouse, "newer", app_id="b", created_at=at("2026-03-02T12:00:00"))
    await step(warehouse, "newer", "s", type="service", child_credits=Decimal("0.1"), credits=Decimal("0.25"))
    await run(warehouse, "newest", created_at=at("2026-03-03T12:00:00"))
    await step(warehouse, "newest", "s", type=None, status=None)
    await run(warehouse, "undated", created_at=None)
    await step(warehouse, "undated", "s", type="note", status=None)
    await step(warehouse, "r0", "only credits", 1, type=None, status=None, credits=Decimal("0.5"))
    found = await rows(
        warehouse,
        "SELECT app_id, step_key, type, runs, failed, failure_rate, p50_s, p95_s, credits FROM step_performance ORDER BY 2",
    )
    assert found == [
        ("a", "only credits", None, 1, 0, None, None, None, Decimal("0.5")),
        ("a", "s", "service", 7, 1, 0.25, 0.1, pytest.approx(0.28), Decimal("1.15")),
    ]


@pytest.mark.parametrize("rolled_up", [False, True])
async def test_days_of_all_apps_name_the_app_of_the_workflow(warehouse: asyncpg.Connection, rolled_up: bool) -> None:
    await run(warehouse, "r1", app_id="z", status="FAILED")
    await step(warehouse, "r1", "s", type="model", status="FAILED")
    await run(warehouse, "r2", app_id="y", workflow_app_id=None, workflow_id="v", status="FAILED")
    await step(warehouse, "r2", "s", type="model", status="FAILED")
    if rolled_up:
        await roll_up(warehouse, seconds=inf)
    for view in ("health_days", "credit_days", "step_days", "model_days", "failure_days"):
        assert await rows(warehouse, f"SELECT workflow_id, app_id FROM {view} ORDER BY 1") == [("v", "y"), ("w", "a")]


async def test_models_are_counted_per_step_or_per_call_of_a_loop(warehouse: asyncpg.Connection) -> None:
    plain: dict[str, Any] = {"type": "model", "provider": "openai", "model": "small"}
    loop: dict[str, Any] = {"type": "model", "looped": True}
    await run(warehouse, "r1")
    await step(warehouse, "r1", "plain", credits=Decimal(1), input_tokens=7, output_tokens=1, **plain)
    await step(warehouse, "r1", "failed", 1, status="FAILED", credits=Decimal(2), child_credits=Decimal(1), **plain)
    await call(warehouse, "r1", "plain", 0, type="http_request", status="FAILED")  # a tool call is no model call
    await call(warehouse, "r1", "plain", 1, input_tokens=1000, **plain)  # neither is a model that a tool used
    await step(warehouse, "r1", "one model", 2, credits=Decimal(4), **loop)
    await call(warehouse, "r1", "one model", 0, status="COMPLETED", input_tokens=30, **plain)
    await call(warehouse, "r1", "one model", 1, status="FAILED", provider="openai", model="small")  # untyped
    await call(warehouse, "r1", "one model", 2, status="FAILED", type="code")
    await run(warehouse, "r2", created_at=None, gone_at=at("2026-04-01T00:00:00"))
    await step(warehouse, "r2", "two models", credits=Decimal(8), **loop)
    await call(warehouse, "r2", "two models", 0, provider="openai", model="small", status="COMPLETED")
    await call(warehouse, "r2", "two models", 1, provider="anthropic", model="large", status="COMPLETED")
    await step(warehouse, "r2", "never called", 1, type="model", status="FAILED")
    await step(warehouse, "r2", "loop over nothing", 3, **loop)
    await step(warehouse, "r2", "no model", 2, provider="openai", model="small")  # type code
    await run(warehouse, "r3", workflow_id="v")
    await step(warehouse, "r3", "one failed early", credits=Decimal(16), **loop)
    await call(warehouse, "r3", "one failed early", 0, status="COMPLETED", input_tokens=500, **plain)
    await call(warehouse, "r3", "one failed early", 1, status="FAILED")
    await step(warehouse, "r3", "of another type", 1, credits=Decimal(32), type="service", looped=True)
    await call(warehouse, "r3", "of another type", 0, status="COMPLETED", input_tokens=6000, **plain)
    await call(warehouse, "r3", "of another type", 1, status="COMPLETED")  # untyped
    found = await rows(warehouse, "SELECT * FROM model_usage_daily ORDER BY day, workflow_id, provider, model")
    assert found == [
        (DAY, "a", "v", None, "openai", "small", 2, 0, 6500, None, Decimal(16)),
        (DAY, "a", "v", None, None, None, 1, 1, None, None, None),
        (DAY, "a", "w", None, "openai", "small", 4, 2, 37, 1, Decimal(6)),
        (None, "a", "w", None, "anthropic", "large", 1, 0, None, None, None),
        (None, "a", "w", None, "openai", "small", 1, 0, None, None, None),
        (None, "a", "w", None, None, None, 1, 1, None, None, None),
    ]
    tokens = "SELECT run_id, input_tokens, output_tokens FROM run_facts ORDER BY 1"
    assert await rows(warehouse, tokens) == [("r1", 37, 1), ("r2", None, None), ("r3", 6500, None)]
    of_steps = await rows(
        warehouse, "SELECT step_key, input_tokens, calls FROM step_facts WHERE run_id = 'r1' ORDER BY 1"
    )
    assert of_steps == [("failed", None, 0), ("one model", 30, 3), ("plain", 7, 2)]


async def test_run_facts_have_a_row_per_run(warehouse: asyncpg.Connection) -> None:
    await insert(warehouse, "workflows", id="w", name="Invoices")
    await insert(warehouse, "apps", id="a", name="Back office")
    await run(warehouse, "early", created_at=None)
    await run(warehouse, "parent", app_id="b", credits=Decimal(5), own_credits=Decimal(2), seconds=3)
    await step(warehouse, "parent", "call", type="workflow", credits=Decimal(3), child_credits=Decimal(3))
    await run(warehouse, "child", status="FAILED", credits=Decimal(3), version=4, record_id="rec", collection_id="col")
    await step(warehouse, "child", "later", 0, status="FAILED", started_at=at("2026-03-01T12:00:02"), error="late")
    await step(warehouse, "child", "first", 1, status="FAILED", started_at=at("2026-03-01T12:00:01"), error="boom")
    for starter in ("early", "parent", "child"):
        await insert(warehouse, "child_runs", parent_run_id=starter, parent_step_key="call", run_id="child")
    await run(warehouse, "erased", credits=Decimal(1), erased_at=at("2026-03-05T00:00:00"))
    found = {row["run_id"]: dict(row) for row in await warehouse.fetch("SELECT * FROM run_facts")}
    assert len(found) == 4
    assert await warehouse.fetchval("SELECT sum(credits) FROM run_facts") == 6
    parent, child = found["parent"], found["child"]
    assert (parent["app_id"], parent["app_name"], parent["triggered_by_app_id"]) == ("a", "Back office", "b")
    assert (parent["credits"], parent["credits_with_children"], parent["steps"]) == (2, 5, 1)
    assert (parent["parent_run_id"], parent["duration_s"], parent["failed_step_key"]) == (None, 3.0, None)
    assert (child["parent_run_id"], child["failed_step_key"], child["error"]) == ("parent", "first", "boom")
    assert (child["workflow_name"], child["version"], child["record_id"], child["collection_id"]) == (
        "Invoices", 4, "rec", "col",
    )  # fmt: skip
    (of_step,) = await rows(warehouse, "SELECT credits, credits_with_children FROM step_facts WHERE run_id = 'parent'")
    assert of_step == (0, 3)


def message_of(error: str) -> str:
    """The message of a failure according to the contract."""
    error = re.sub(r"\"[^\"]*\"|`[^`]*`|“[^”]*”|‘[^’]*’|«[^»]*»|(?<!\w)'[^']*'(?!\w)", "'…'", error)
    uuid = r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b"
    error = re.sub(uuid, "<id>", error)
    error = re.sub(r"\b[0-9a-fA-F]{8,}\b", "<id>", error)
    error = re.sub(r"\b(?=\w*[A-Za-z])(?=\w*[0-9])\w{8,}\b", "<id>", error)
    error = re.sub(r"[0-9]+(\.[0-9]+)?", "<n>", error)
    return " ".join(error.split())[:200]


MESSAGES = {
    "": "",
    "SyntaxError: Unexpected token '<', \"<!DOCTYPE \"... is not valid JSON": "SyntaxError: Unexpected token '…', '…'... is not valid JSON",
    "This model's maximum is 128000 tokens, it's 'too' long": "This model's maximum is <n> tokens, it's '…' long",
    "Waiting for selector `.price` failed": "Waiting for selector '…' failed",
    "run 8f14e45f-ceea-467f-a3d4-2b1c0d9e8f7a not found": "run <id> not found",
    "object DEADBEEF and 0123456789abcdef": "object <id> and <id>",
    "call_00f3ab and user_12345 and step_1": "<id> and <id> and step_<n>",
    "context_length_exceeded": "context_length_exceeded",
    "429 after 1.5 s,\n\t 30000ms at 10:443": "<n> after <n> s, <n>ms at <n>:<n>",
    "'a 12345678 b' 12345678": "'…' <id>",
    "no field “name” in «a ‘b’», can’t go on": "no field '…' in '…', can’t go on",
    "x" * 300: "x" * 200,
}


@pytest.mark.parametrize("error", MESSAGES)
async def test_failure_messages_leave_out_what_differs(warehouse: asyncpg.Connection, error: str) -> None:
    assert message_of(error) == MESSAGES[error]
    assert await warehouse.fetchval("SELECT failure_message($1)", error) == MESSAGES[error]


async def test_failure_messages_equal_those_of_another_implementation(warehouse: asyncpg.Connection) -> None:
    chance = random.Random(5)
    pieces = [
        "a1b2c3d4",
        "'",
        '"',
        "`",
        " ",
        "  ",
        "\n",
        "1.",
        "17",
        "_",
        "-",
        "x",
        "error",
        "deadbeef",
        "€",
        "“",
        "”",
        "‘",
        "’",
        "é9",
        ".",
    ]
    errors = ["".join(chance.choices(pieces, k=chance.randrange(25))) for _ in range(2000)]
    found = await warehouse.fetch(
        "SELECT failure_message(e) FROM unnest($1::text[]) WITH ORDINALITY AS t (e, n) ORDER BY n", errors
    )
    assert [row[0] for row in found] == [message_of(each) for each in errors]


async def test_failures_are_grouped_by_step_and_message(warehouse: asyncpg.Connection) -> None:
    await insert(warehouse, "workflows", id="w", name="Invoices")
    for place, (error, version) in enumerate([("limit 17", 3), ("limit 18", 1), ("limit 19", 3), ("other", None)]):
        await run(warehouse, f"r{place}", status="FAILED", seconds=place, error=error, version=version, app_id="b")
        await step(warehouse, f"r{place}", "s", status="FAILED", error="of the step")
    await run(warehouse, "of its step", status="FAILED", seconds=9, version=2)
    await step(warehouse, "of its step", "s", status="FAILED", error="limit 20")
    await run(warehouse, "no step", status="FAILED", error="limit 21", gone_at=at("2026-04-01T00:00:00"))
    await run(warehouse, "erased", status="FAILED", erased_at=at("2026-04-01T00:00:00"))
    found = await rows(warehouse, "SELECT * FROM failure_groups ORDER BY runs DESC, message, step_key")
    noon = at("2026-03-01T12:00:00")
    assert found == [
        ("a", "w", "Invoices", "s", "limit <n>", 4, noon, noon.replace(second=9), [1, 2, 3]),
        ("a", "w", "Invoices", None, "limit <n>", 1, noon, noon, []),
        ("a", "w", "Invoices", "s", "other", 1, noon.replace(second=3), noon.replace(second=3), []),
    ]


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
    await run(warehouse, "erased", status="RUNNING", erased_at=at("2026-03-02T00:00:00"))
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
