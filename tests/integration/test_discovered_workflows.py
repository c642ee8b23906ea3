"""Workflow discovery: storing workflows, and marking them as gone."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from etl.app import SyncSummary, run_sync
from etl.config import ApiSettings, AppSettings, DatabaseSettings, PayloadSettings, Settings
from etl.db.connect import create_pool
from etl.db.health import record_requested
from etl.db.workflows import mark_workflows_gone, save_workflows
from etl.events import Listener, StreamId, ignore
from etl.normalize.definitions import normalize_workflow
from etl.sandbox import Sandbox, World
from etl.sandbox.faults import BadItem, Status


def listing(*workflows: tuple[str, str | None]) -> list[Any]:
    """The rows of a listing of (workflow, app that it belongs to)."""
    documents = [{"id": name, "app": None if owner is None else {"id": owner}} for name, owner in workflows]
    return [normalize_workflow(json.dumps(document).encode()) for document in documents]


async def test_unlisted_workflow_is_marked_gone(database_url: str) -> None:
    pool = await create_pool(database_url, "cortex", size=1)

    async def gone_after(app: str, *listed: tuple[str, str | None]) -> list[str]:
        await save_workflows(pool, listing(*listed))
        streams, others = [StreamId(app, name) for name, _ in listed], sorted({"a", "b"} - {app})
        await record_requested(pool, streams, reconcile_every=timedelta(0), kept_apps=others)
        await mark_workflows_gone(pool, [app])
        rows = await pool.fetch("SELECT id FROM workflows WHERE gone_at IS NOT NULL ORDER BY id")
        return [row["id"] for row in rows]

    assert await gone_after("b", ("b1", "b"), ("b2", "b")) == []
    assert await gone_after("a", ("a1", "a"), ("b1", "b"), ("nobody's", None)) == []  # app b is not listed
    assert await gone_after("a", ("b1", "b")) == ["a1", "nobody's"]
    assert await gone_after("a", ("a1", "a"), ("b1", "b"), ("nobody's", None)) == []
    assert await gone_after("b", ("b1", "b")) == ["b2"]
    assert await gone_after("b") == ["b2"]  # the other app lists b1
    await pool.close()


def two_workflows() -> World:
    world = World(1)
    for name in ("w1", "w2"):
        world.add_workflow("a", name)
        world.create_run(name)
    return world


async def sync(
    source: Sandbox,
    database_url: str,
    *,
    payloads: PayloadSettings | None = None,
    listener: Listener = ignore,
    **api: Any,
) -> SyncSummary:
    settings = Settings(
        api=ApiSettings(base_url=source.url, key=source.key, requests_per_minute=10_000, **api),
        database=DatabaseSettings(url=database_url),
        apps=[AppSettings(id="a")],
        payloads=payloads or PayloadSettings(),
    )
    return await run_sync(settings, "sync", listener=listener)


@pytest.mark.parametrize("odd", [{"tags": ["blue"]}, {"description": 5}, {"deleted": "no"}, {"retention": []}])
async def test_workflow_with_an_odd_field_is_synced(
    sandbox: Any, warehouse: Any, database_url: str, odd: dict[str, Any]
) -> None:
    world = two_workflows()
    source = await sandbox(world)
    kept = dict(world.workflows["w2"])
    for oddly in (False, True, False):
        world.workflows["w2"] = kept | (odd if oddly else {})
        world.create_run("w2")
        assert (await sync(source, database_url)).status == "succeeded"
        assert await warehouse.fetchval("SELECT count(*) FROM runs WHERE workflow_id = 'w2'") == len(world.runs["w2"])
        assert (
            await warehouse.fetchval("SELECT name FROM workflows WHERE id = 'w2' AND gone_at IS NULL") == kept["name"]
        )


async def test_workflow_without_a_valid_id_is_not_green(sandbox: Any, warehouse: Any, database_url: str) -> None:
    world = two_workflows()
    source = await sandbox(world)
    assert (await sync(source, database_url)).status == "succeeded"
    world.workflows["w2"]["id"] = 5
    world.create_run("w1")
    summary = await sync(source, database_url)
    assert (summary.status, summary.exit_code, summary.runs_inserted) == ("partial", 1, 1)
    assert "cannot be read" in summary.error
    assert await warehouse.fetchval("SELECT count(*) FROM workflows WHERE gone_at IS NOT NULL") == 0


async def test_workflow_refused_by_postgresql_keeps_its_id(sandbox: Any, warehouse: Any, database_url: str) -> None:
    world = two_workflows()
    source = await sandbox(world)
    deep = b'{"id": "w2", "name": "deep", "x": %b%b}' % (b"[" * 20_000, b"]" * 20_000)
    source.faults.on(lambda request: request.parts[-1] == "workflows", BadItem(deep, at=1, replace=True))
    told: list[Any] = []
    assert (await sync(source, database_url, listener=told.append)).status == "succeeded"
    found = await warehouse.fetch("SELECT id, name FROM workflows ORDER BY id")
    assert [tuple(row) for row in found] == [("w1", world.workflows["w1"]["name"]), ("w2", None)]
    assert await warehouse.fetchval("SELECT count(*) FROM runs") == 2
    (notice,) = [event for event in told if getattr(event, "name", "") == "workflow.refused"]
    assert notice.fields["error"].startswith("PostgreSQL refused w2: ")


async def test_workflow_with_an_oversized_id_is_not_green(sandbox: Any, warehouse: Any, database_url: str) -> None:
    world = two_workflows()
    world.workflows["w2"]["id"] = "w" * 10_000
    summary = await sync(await sandbox(world), database_url)
    assert (summary.status, summary.exit_code, summary.runs_inserted) == ("partial", 1, 1)
    assert "expected at most 1000 bytes" in summary.error


async def test_workflows_are_redacted_like_runs(sandbox: Any, warehouse: Any, database_url: str) -> None:
    world = two_workflows()
    secret = {"password": "hunter2", "kept": "here"}
    for document in world.workflows.values():
        document["steps"] = [{"key": "s", "type": "code", "request": {"headers": {"token": "hunter3"}}}]
        document["x_more"] = secret
        document["version"]["x_more"] = secret
    payloads = PayloadSettings(redact=["$..password", "$..id", "$.workflow_version_draft.steps[*].request"])
    assert (await sync(await sandbox(world), database_url, payloads=payloads)).status == "succeeded"
    found = await warehouse.fetch("SELECT id, app_id, current_version_id, name, extra::text AS extra FROM workflows")
    assert len(found) == 2
    for row in found:
        there = world.workflows[row["id"]]
        assert (row["app_id"], row["name"]) == ("a", there["name"])
        assert row["current_version_id"] == there["version"]["id"]
        assert row["extra"].count('"password": "[redacted]"') == 2
        assert row["extra"].count('"kept": "here"') == 2
        assert '"request": "[redacted]"' in row["extra"]
        assert "hunter3" not in row["extra"]


async def test_workflow_that_moves_between_pages_is_found(sandbox: Any, warehouse: Any, database_url: str) -> None:
    world = World(1)
    for number in range(6):
        world.add_workflow("a", f"w{number}")
        world.create_run(f"w{number}")
    source = await sandbox(world)
    asked = 0

    def leave(path: str, _query: Any, _number: int) -> None:
        nonlocal asked
        asked += path.endswith("/workflows")
        if asked == 2 and path.endswith("/workflows"):
            del world.workflows[next(iter(world.workflows))]

    source.faults.before_response = leave
    assert (await sync(source, database_url, page_size=2)).status == "succeeded"
    rows = await warehouse.fetch("SELECT DISTINCT workflow_id FROM runs")
    assert {row["workflow_id"] for row in rows} >= world.workflows.keys()
    assert await warehouse.fetchval("SELECT count(*) FROM workflows WHERE gone_at IS NULL") >= len(world.workflows)


@pytest.mark.parametrize("counts", [True, False], ids=["counts", "no counts"])
async def test_workflow_that_moves_to_the_top_is_found(
    sandbox: Any, warehouse: Any, database_url: str, counts: bool
) -> None:
    world = World(1)
    for number in range(9):
        world.add_workflow("a", f"w{number}")
        world.create_run(f"w{number}")
    source = await sandbox(world)
    source.faults.no_paging_headers = not counts
    asked = 0

    def move(path: str, _query: Any, _number: int) -> None:
        nonlocal asked
        asked += path.endswith("/workflows")
        if asked == 2 and path.endswith("/workflows"):
            moved = list(world.workflows)[6]
            world.workflows = {moved: world.workflows[moved]} | world.workflows

    source.faults.before_response = move
    assert (await sync(source, database_url, page_size=4)).status == "succeeded"
    rows = await warehouse.fetch("SELECT DISTINCT workflow_id FROM runs")
    assert {row["workflow_id"] for row in rows} == set(world.workflows)


async def test_missing_workflows_are_not_green(sandbox: Any, database_url: str) -> None:
    source = await sandbox(two_workflows())
    source.faults.count_delta = 1
    summary = await sync(source, database_url)
    assert (summary.status, summary.exit_code) == ("partial", 1)
    assert any("counts 3 workflows and lists 2" in stream.error for stream in summary.streams)


async def test_workflows_are_listed_on_smaller_pages_if_the_api_refuses_large_ones(
    sandbox: Any, database_url: str
) -> None:
    source = await sandbox(two_workflows())
    source.faults.on(lambda each: each.parts[-1] == "workflows" and int(each.query["take"]) > 40, Status(400))
    summary = await sync(source, database_url)
    assert (summary.status, summary.error) == ("succeeded", "")
    source.faults.on(lambda each: each.parts[-1] == "workflows", Status(400))
    summary = await sync(source, database_url)
    assert (summary.status, summary.exit_code) == ("failed", 1)
