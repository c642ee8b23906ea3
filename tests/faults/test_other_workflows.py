"""Runs in the listing of another workflow, and ids in the listings of two workflows."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from api_clients import QUICK
from sync_trials import APP, Trial, trial

from etl.app import run_sync, status_report
from etl.config import AppSettings
from etl.db.batch import Batch
from etl.db.erasing import ERASED, FORGOTTEN, forget
from etl.db.store import Store
from etl.events import StreamId
from etl.sandbox import World

ONE, TWO = "wf_1", "wf_2"


def two_workflows(*, second_app: str = APP) -> World:
    world = World(1)
    for app, each in ((APP, ONE), (second_app, TWO)):
        world.add_workflow(app, each)
        for _ in range(8):
            world.create_run(each)
    return world


def copy_to(world: World, lister: str, run: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Add a run to the listing of another workflow."""
    world.runs[lister][run["id"]] = run | changes
    return world.runs[lister][run["id"]]


async def sync(t: Trial, *workflows: str, mode: Any = "sync") -> None:
    """Sync these workflows, as if the settings named no others, and check that it succeeds."""
    settings = t.settings.model_copy(update={"apps": [AppSettings(id=APP, workflows=list(workflows))]})
    summary = await run_sync(settings, mode, policy=QUICK)
    assert summary.status == "succeeded", summary
    streams = (await status_report(settings)).streams
    assert {row["workflow_id"]: row["state"] for row in streams if row["workflow_id"] in workflows} == dict.fromkeys(
        workflows, "complete"
    )


async def stored(t: Trial, run_id: str) -> tuple[Any, ...]:
    """Return the stored state of a run, and its listings."""
    columns = "workflow_id, status, stream_app_id, listed_under_app_id, listed_under_workflow_id"
    return tuple(await t.connection.fetchrow(f"SELECT {columns} FROM runs WHERE id = $1", run_id))


async def rejects(t: Trial) -> list[tuple[str, str]]:
    rows = await t.connection.fetch("SELECT workflow_id, reason FROM etl_rejects WHERE resolved_at IS NULL ORDER BY id")
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("order", [(ONE, TWO), (TWO, ONE)], ids=["listed first", "named first"])
async def test_run_belongs_to_its_own_workflow_if_that_is_synced(database_url: str, order: Any) -> None:
    world = two_workflows()
    run = next(iter(world.runs[TWO].values()))
    copy_to(world, ONE, run)
    async with trial(database_url, world) as t:
        if order[0] == ONE:
            await sync(t, ONE)
            assert await stored(t, run["id"]) == (TWO, run["status"], None, APP, ONE), (
                "only this workflow lists the run"
            )
            assert await rejects(t) == []
        for mode in ("sync", "reconcile", "sync", "sync"):
            await sync(t, *order, mode=mode)
            assert await stored(t, run["id"]) == (TWO, run["status"], APP, None, None)
            assert await rejects(t) == [(ONE, "other_workflow")]
        before = len(t.sandbox.requests)
        await sync(t, *order)
        assert len(t.sandbox.requests) - before == 2, "a known reject costs no request"
        del world.runs[ONE][run["id"]]
        await sync(t, *order)
        assert await rejects(t) == []
        assert await stored(t, run["id"]) == (TWO, run["status"], APP, None, None)


async def test_run_of_a_workflow_that_is_not_synced_is_stored_under_its_listing(database_url: str) -> None:
    world = two_workflows()
    run = world.create_run(ONE, status="RUNNING")
    run["workflow_id"] = "wf_unknown"
    async with trial(database_url, world) as t:
        await sync(t, ONE)
        assert await stored(t, run["id"]) == ("wf_unknown", "RUNNING", None, APP, ONE)
        assert await t.connection.fetchval("SELECT name FROM workflows WHERE id = 'wf_unknown'") is None
        before = len(t.sandbox.requests)
        await sync(t, ONE)
        assert len(t.sandbox.requests) - before == 1
        world.runs[ONE][run["id"]] |= {"status": "COMPLETED", "updated_at": "2026-11-03T00:00:00Z"}
        await sync(t, ONE)
        assert await stored(t, run["id"]) == ("wf_unknown", "COMPLETED", None, APP, ONE)
        document = world.runs[ONE].pop(run["id"])
        await sync(t, ONE)
        assert await t.connection.fetchval("SELECT gone_at FROM runs WHERE id = $1", run["id"]) is not None
        world.runs[ONE][run["id"]] = document
        await sync(t, ONE)
        assert await t.connection.fetchval("SELECT gone_at FROM runs WHERE id = $1", run["id"]) is None
        assert await rejects(t) == []


@pytest.mark.parametrize("names", [True, False], ids=["each names itself", "none is named"])
async def test_id_that_two_workflows_list_stays_with_the_first(database_url: str, names: bool) -> None:
    world = two_workflows()
    run = world.create_run(ONE)
    run["workflow_id"] = ONE if names else None
    other = copy_to(world, TWO, run, workflow_id=TWO if names else None, error="told by the second")
    async with trial(database_url, world) as t:
        await sync(t, ONE)
        for mode in ("sync", "reconcile", "sync"):
            await sync(t, TWO, ONE, mode=mode)
            assert await stored(t, run["id"]) == (ONE, run["status"], APP, None, None)
            assert await rejects(t) == [(TWO, "id_taken")]
        del world.runs[ONE][run["id"]]
        await sync(t, TWO, ONE, mode="reconcile")
        assert await stored(t, run["id"]) == (TWO, other["status"], APP, None, None)
        assert await rejects(t) == []


@pytest.mark.parametrize("mode", ["sync", "reconcile", "backfill"])
@pytest.mark.parametrize("order", [(ONE, TWO), (TWO, ONE)], ids=["left first", "joined first"])
async def test_run_that_moves_to_another_workflow_is_not_gone(database_url: str, order: Any, mode: str) -> None:
    world = two_workflows()
    async with trial(database_url, world) as t:
        await sync(t, *order)
        run = next(iter(world.runs[ONE].values()))
        copy_to(world, TWO, run, workflow_id=TWO, error="moved")
        del world.runs[ONE][run["id"]]
        await sync(t, *order, mode=mode)
        assert await stored(t, run["id"]) == (TWO, run["status"], APP, None, None)
        row = await t.connection.fetchrow("SELECT gone_at, error FROM runs WHERE id = $1", run["id"])
        assert tuple(row) == (None, "moved")
        assert await rejects(t) == []


async def test_old_run_that_moves_to_another_workflow_is_looked_up_by_its_next_sync(database_url: str) -> None:
    world = two_workflows()
    for _ in range(150):
        world.create_run(TWO)
    async with trial(database_url, world) as t:
        await sync(t, ONE, TWO)
        run = next(iter(world.runs[ONE].values()))  # the oldest, far below the head of a listing
        copy_to(world, TWO, run, workflow_id=TWO, error="moved")
        await sync(t, ONE, TWO, mode="reconcile")
        assert await rejects(t) == [(TWO, "id_taken")]
        del world.runs[ONE][run["id"]]
        settings = t.settings.model_copy(update={"apps": [AppSettings(id=APP, workflows=[ONE, TWO])]})
        assert (await run_sync(settings, "sync", workflows=[ONE], policy=QUICK)).runs_gone == 1
        before = len(t.sandbox.requests)
        await sync(t, ONE, TWO)
        assert len(t.sandbox.requests) - before == 3
        assert await stored(t, run["id"]) == (TWO, run["status"], APP, None, None)
        assert await rejects(t) == []


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two streams commit their first pages only after both have classified theirs."""
    barrier, load, met = asyncio.Barrier(2), Store.load, set[StreamId]()

    async def wait_and_load(store: Store, batch: Batch) -> Any:
        if store.stream not in met:
            met.add(store.stream)
            await asyncio.wait_for(barrier.wait(), 10)
        return await load(store, batch)

    monkeypatch.setattr(Store, "load", wait_and_load)


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize("app", [APP, "app_2"], ids=["one app", "two apps"])
@pytest.mark.parametrize("names", [True, False], ids=["each names itself", "none is named"])
@pytest.mark.parametrize("how", ["counts", "no counts", "since"])
async def test_id_that_two_streams_find_at_the_same_time_is_quarantined_once(
    database_url: str, how: str, names: bool, app: str
) -> None:
    world = two_workflows(second_app=app)
    for run in list(world.runs[ONE].values()):
        run["workflow_id"] = ONE if names else None  # if none is named, the copies are identical
        copy_to(world, TWO, run, workflow_id=TWO if names else None)
    async with trial(database_url, world) as t:
        t.sandbox.faults.no_paging_headers = how == "no counts"
        since = {"since": world.now - timedelta(days=1000)} if how == "since" else {}
        for inserted in (16, 0):
            summary = await t.run("backfill" if since else "sync", **since)
            assert summary.status == "succeeded", summary
            counts = (summary.runs_inserted, summary.runs_updated, summary.runs_unchanged, summary.rejects)
            assert counts == (inserted, 0, 16 - inserted, 8)
            found = await rejects(t)
            assert len(found) == 8
            loser = found[0][0]
            assert set(found) == {(loser, "id_taken")}
        listings = await t.connection.fetch(
            "SELECT DISTINCT coalesce(listed_under_workflow_id, workflow_id) AS id FROM runs"
            " WHERE id IN (SELECT run_id FROM etl_rejects)"
        )
        assert {row["id"] for row in listings} == {ONE, TWO} - {loser}


@pytest.mark.usefixtures("together")
async def test_bytes_of_an_erased_run_that_two_streams_find_at_the_same_time_are_not_kept(database_url: str) -> None:
    world = two_workflows()
    run = next(iter(world.runs[ONE].values()))
    copy_to(world, TWO, run, workflow_id=TWO)
    async with trial(database_url, world) as t:
        await forget(t.connection, [run["id"]], [])
        assert (await t.run()).status == "succeeded"
        (row,) = await t.connection.fetch("SELECT reason, error, payload FROM etl_rejects")
        assert tuple(row) == ("id_taken", ERASED, FORGOTTEN)


async def test_run_moves_to_the_listing_that_is_still_synced(database_url: str) -> None:
    world = two_workflows()
    run = next(iter(world.runs[TWO].values()))
    copy_to(world, ONE, run)
    async with trial(database_url, world) as t:
        await sync(t, ONE, TWO)
        await sync(t, ONE)
        assert await stored(t, run["id"]) == (TWO, run["status"], None, APP, ONE)
        assert await rejects(t) == []


async def test_two_apps_list_a_run_of_another_workflow(database_url: str) -> None:
    """The run changes from its own workflow to another one that is not synced, and back."""
    world = two_workflows()
    del world.workflows[TWO]
    run = next(iter(world.runs[ONE].values()))
    async with trial(database_url, world) as t:
        t.apps = (APP, "c")
        assert (await t.run("reconcile")).status == "succeeded"
        for hour, names in enumerate(("wf_unknown", "wf_unknown", ONE, "wf_unknown")):
            run |= {"workflow_id": names, "updated_at": f"2026-11-03T{hour:02}:00:00Z"}
            for mode in ("reconcile", "sync"):
                assert (await t.run(mode)).status == "succeeded"
                counts = await t.connection.fetch("SELECT accounted_for FROM sync_health")
                assert [row["accounted_for"] for row in counts] == [8, 8]
            assert (await stored(t, run["id"]))[0] == names
        assert len(await t.connection.fetch("SELECT id FROM listed_runs WHERE id = $1", run["id"])) == 2
        del world.runs[ONE][run["id"]]
        assert (await t.run("reconcile")).runs_gone == 1
        assert await rejects(t) == []
