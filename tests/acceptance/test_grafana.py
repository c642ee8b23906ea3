"""The dashboard `docs/grafana/cortex.json`: every query runs on realistic data, and the panels are well formed.

Grafana itself is not run: variables and macros are replaced as described in its documentation.
"""

from __future__ import annotations

import itertools
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sync_trials import trial

from etl.db.querying import QueryResult, run_query
from etl.sandbox import World

DASHBOARD = json.loads((Path(__file__).parents[2] / "docs" / "grafana" / "cortex.json").read_text(encoding="utf-8"))
VARIABLES = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
PANELS = [each for each in DASHBOARD["panels"] if each["type"] != "row"]
SOURCE = {"type": "grafana-postgresql-datasource", "uid": "${datasource}"}
NOW = datetime.now(UTC).replace(microsecond=0)
PERIOD = (NOW - timedelta(days=30), NOW + timedelta(hours=1))
NUMBERS = {"int4", "int8", "numeric", "float8"}


def targets() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(panel, target) for panel in PANELS for target in panel["targets"]]


def substituted(sql: str, workflows: list[str]) -> str:
    """Replace variables and macros; a variable with several values becomes a list of quoted texts."""
    start, end = (f"'{moment:%Y-%m-%dT%H:%M:%SZ}'" for moment in PERIOD)
    sql = re.sub(r"\$__timeFilter\((\w+)\)", rf"\1 BETWEEN {start} AND {end}", sql)
    sql = sql.replace("$__timeFrom()", start).replace("$__timeTo()", end)
    sql = re.sub(r"\$workflow\b", ",".join("'{}'".format(each.replace("'", "''")) for each in workflows), sql)
    assert "$" not in sql
    return sql


@pytest.fixture
async def loaded(database_url: str, warehouse: asyncpg.Connection) -> tuple[str, list[str]]:
    """A warehouse with 45 days of runs: its URL, and the values of the variable `workflow`."""
    async with trial(database_url, World.generate(runs=900, days=45, now=NOW - timedelta(hours=1))) as api:
        await api.run("backfill")
    await warehouse.execute("ANALYZE")
    choices = await run_query(database_url, "cortex", VARIABLES["workflow"]["query"], timeout_s=20)
    assert choices.columns == ("__text", "__value")
    return database_url, [row[1] for row in choices.rows]


async def test_every_query_returns_rows(loaded: tuple[str, list[str]]) -> None:
    url, workflows = loaded
    for panel, target in targets():
        result = await run_query(url, "cortex", substituted(target["rawSql"], workflows), timeout_s=20)
        assert result.rows, panel["title"]
        assert len(set(result.columns)) == len(result.columns), panel["title"]
        if target["format"] == "time_series":
            assert_series(panel["title"], result)
        if panel["type"] == "stat":
            assert (len(result.rows), [kind in NUMBERS for kind in result.types]) == (1, [True]), panel["title"]
        for override in panel["fieldConfig"]["overrides"]:
            assert override["matcher"]["options"] in result.columns, panel["title"]


def assert_series(title: str, result: QueryResult) -> None:
    """Check the format of time series in Grafana: ascending times, at most one text column, numbers, no duplicates."""
    kinds = dict(zip(result.columns, result.types, strict=True))
    assert kinds.pop("time") in {"timestamp", "timestamptz"}, title
    assert kinds.pop("metric", "text") == "text", title
    assert kinds, title
    assert set(kinds.values()) <= NUMBERS, title
    rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
    times = [row["time"] for row in rows]
    assert times == sorted(times), title
    keys = [(row["time"], row.get("metric")) for row in rows]
    assert len(set(keys)) == len(keys), title
    assert all(row.get("metric", "") is not None for row in rows), title


async def test_a_selected_workflow_limits_the_panels(loaded: tuple[str, list[str]]) -> None:
    url, _ = loaded
    for panel, target in targets():
        if "$workflow" in target["rawSql"] and panel["type"] != "stat":
            result = await run_query(url, "cortex", substituted(target["rawSql"], ["o'no"]), timeout_s=20)
            assert result.rows == [], panel["title"]


def test_panels_are_well_formed() -> None:
    ids = [each["id"] for each in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert {each["type"] for each in PANELS} <= {"stat", "timeseries", "table"}
    for panel in PANELS:
        assert panel["title"]
        assert panel["datasource"] == SOURCE
        for target in panel["targets"]:
            assert (target["datasource"], target["rawQuery"], target["refId"]) == (SOURCE, True, "A")
            assert target["format"] == ("time_series" if panel["type"] == "timeseries" else "table")
    assert VARIABLES["workflow"]["datasource"] == SOURCE
    assert VARIABLES["datasource"]["query"] == SOURCE["type"]


def test_panels_do_not_overlap() -> None:
    areas = [each["gridPos"] for each in DASHBOARD["panels"]]
    assert all(each["x"] >= 0 and each["x"] + each["w"] <= 24 for each in areas)
    for a, b in itertools.combinations(areas, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)


def test_the_dashboard_shows_health_credits_models_steps_failures_and_freshness() -> None:
    rows = [each["title"] for each in DASHBOARD["panels"] if each["type"] == "row"]
    assert rows == ["Health", "Credits", "Models", "Steps", "Failures", "Freshness"]
    named = " ".join(target["rawSql"] for _, target in targets())
    for view in (
        "workflow_health_daily", "open_runs", "credits_daily", "run_facts", "model_usage_daily",
        "step_performance_daily", "failure_groups", "recent_failures", "sync_health", "sync_history",
    ):  # fmt: skip
        assert re.search(rf"FROM {view}\b", named), view
