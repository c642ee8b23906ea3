"""Promises 1, 3, 4 and 14 for runs listed by several apps: an app under its own id, and as `c`."""

import asyncio

import pytest
from sync_trials import APP, WORKFLOW, one_stream, start, trial

from etl.app.summary import StreamSummary
from etl.db.erasing import forget
from etl.sandbox.faults import Headers, Status, lists_runs

BOTH = (APP, "c")


class Partly:
    """Hides some runs from the listing of one app."""

    def __init__(self, world, app):
        self.world, self.app = world, app
        self.all = dict(world.runs[WORKFLOW])
        self.hidden = set()

    def __call__(self, path, query, number):
        shown = self.all
        if path.startswith(f"/apps/{self.app}/"):
            shown = {run_id: run for run_id, run in self.all.items() if run_id not in self.hidden}
        self.world.runs[WORKFLOW] = dict(shown)


async def standing(t):
    """The API's count and `accounted_for` of each stream."""
    rows = await t.connection.fetch("SELECT * FROM sync_health")
    assert all(row["warehouse_count"] == row["accounted_for"] for row in rows)
    return {row["app_id"]: (row["api_count"], row["accounted_for"]) for row in rows}


async def gone(t):
    return {row["id"] for row in await t.connection.fetch("SELECT id FROM runs WHERE gone_at IS NOT NULL")}


async def first_lister(t, run_id):
    return await t.connection.fetchval("SELECT stream_app_id FROM runs WHERE id = $1", run_id)


@pytest.mark.parametrize("hidden", [0, 25])
async def test_runs_listed_by_two_apps_are_stored_once_at_no_extra_cost(database_url, hidden):
    world = one_stream(40)
    partly = Partly(world, "c")
    partly.hidden = set(list(world.runs[WORKFLOW])[:hidden])
    async with trial(database_url, world) as t:
        t.api, t.apps = {"page_size": 5}, BOTH
        t.sandbox.faults.before_response = partly
        summary = await t.run("backfill")
        assert (summary.status, summary.runs_inserted, summary.runs_updated) == ("succeeded", 40, 0)
        for mode in ("sync", "reconcile", "sync"):
            before = await t.connection.fetch("SELECT id, xmin FROM runs ORDER BY id")
            summary = await t.run(mode)
            assert (summary.status, summary.runs_updated, summary.runs_gone) == ("succeeded", 0, 0)
            assert mode == "reconcile" or summary.requests == 2, "one per stream"
            assert await t.connection.fetch("SELECT id, xmin FROM runs ORDER BY id") == before
            assert await standing(t) == {APP: (40, 40), "c": (40 - hidden, 40 - hidden)}
        world.runs[WORKFLOW] = partly.all
        assert await t.differences() == []


async def test_new_changed_and_gone_runs_count_for_both_apps(database_url):
    world = one_stream(20)
    opened = world.create_run(WORKFLOW, status="RUNNING")["id"]
    async with trial(database_url, world) as t:
        t.api, t.apps = {"page_size": 5}, BOTH
        await t.agrees()
        for _ in range(3):
            for _ in range(7):
                world.create_run(WORKFLOW)
            world.replay_run(world.listing(WORKFLOW)[9]["id"])
            world.delete_run(world.listing(WORKFLOW)[15]["id"])
            assert (await t.agrees("reconcile")).runs_gone == 1
            assert await t.requests_of() <= 2 + 2, "one per stream, and one for the open run"
        world.finish_run(opened)
        await t.agrees()
        assert await standing(t) == {APP: (39, 39), "c": (39, 39)}


async def test_syncs_of_two_apps_find_changes_with_equal_counts(database_url):
    world = one_stream(32)
    async with trial(database_url, world) as t:
        t.api, t.apps = {"page_size": 10}, BOTH
        for mode in ("sync", "sync", "reconcile"):
            summary = await t.agrees(mode)
            assert [each.status for each in summary.streams] == ["succeeded", "succeeded"], summary
            world.create_run(WORKFLOW)
            world.delete_run(world.listing(WORKFLOW)[5]["id"])


@pytest.mark.parametrize("own", [True, False], ids=["found there first", "found elsewhere first"])
async def test_run_still_listed_by_another_app_is_not_gone(database_url, own):
    world = one_stream(30)
    async with trial(database_url, world) as t:
        t.api, t.apps = {"page_size": 5}, BOTH
        await t.agrees("backfill")
        run_id = list(world.runs[WORKFLOW])[11]
        first = await first_lister(t, run_id)
        t.sandbox.faults.before_response = partly = Partly(world, first if own else ({*BOTH} - {first}).pop())
        partly.hidden = {run_id}
        summary = await t.run("reconcile")
        assert (summary.status, summary.runs_gone) == ("succeeded", 0)
        assert await gone(t) == set()
        assert sorted((await standing(t)).values()) == [(29, 29), (30, 30)]
        assert await t.requests_of() == 2
        del partly.all[run_id]
        summary = await t.run("reconcile")
        assert (summary.status, summary.runs_gone) == ("succeeded", 1)
        assert await gone(t) == {run_id}
        partly.all[run_id] = world.create_run(WORKFLOW, id=run_id)  # back in both listings
        partly.hidden = set()
        summary = await t.run("reconcile")
        assert summary.status == "succeeded"
        assert await gone(t) == set()
        assert set((await standing(t)).values()) == {(30, 30)}
        assert await t.requests_of() == 2


async def test_removed_app_does_not_keep_runs(database_url):
    world = one_stream(30)
    async with trial(database_url, world) as t:
        t.api, t.apps = {"page_size": 5}, (APP,)
        await t.agrees("backfill")
        t.apps = ("c",)
        summary = await t.run()
        assert (summary.status, summary.runs_inserted, summary.runs_updated) == ("succeeded", 0, 0)
        assert await t.requests_of() == 1
        world.delete_run(world.listing(WORKFLOW)[3]["id"])
        assert (await t.agrees("sync")).runs_gone == 1


async def test_run_that_only_a_removed_app_listed_is_gone_if_no_app_has_it(database_url):
    world = one_stream(100)
    async with trial(database_url, world) as t:
        t.apps = (APP,)
        await t.agrees("backfill")
        runs = list(world.runs[WORKFLOW])
        t.sandbox.faults.before_response = partly = Partly(world, "c")
        removed, partly.hidden = set(runs[5:70]), set(runs[:5])  # the API still lists the latter for the other app
        for run_id in removed:
            del partly.all[run_id]
        t.apps, t.app_key = ("c",), t.sandbox.key
        summary = await t.run()
        assert (summary.status, (await standing(t))["c"]) == ("succeeded", (30, 30))
        assert summary.runs_gone == 0, "to a key of another account, the API may say that it has no such app"
        t.app_key = None
        former = f"/apps/{APP}/"
        t.sandbox.faults.on(lambda request: request.path.startswith(former), Status(500))
        summary = await t.run("reconcile")
        assert (summary.status, summary.runs_gone) == ("succeeded", 0)
        asked = {
            request.path
            for request in t.sandbox.requests
            if request.path.startswith(f"{former}workflows/{WORKFLOW}/runs/")
        }
        assert 0 < len(asked) <= t.settings.api.concurrency, "it stops at the first that are not answered"
        t.sandbox.faults.clear()
        t.sandbox.faults.before_response = partly
        summary = await t.run("reconcile")
        assert 40 <= summary.runs_gone <= 50, "as many are looked up after each pass"
        while await gone(t) != removed:
            assert (await t.run("reconcile")).status == "succeeded"
        partly.all.clear()
        t.sandbox.faults.on(lambda request: request.path.startswith(f"/apps/{APP}/"), Status(403))
        assert (await t.run("reconcile")).status == "succeeded"
        assert await gone(t) == set(runs) - set(runs[:5]), "a refusal is no proof"


async def test_app_that_was_not_synced_for_long_does_not_keep_runs(database_url):
    world = one_stream(30)
    async with trial(database_url, world) as t:
        t.api, t.apps = {"page_size": 5}, BOTH
        await t.agrees("backfill")
        runs = list(world.runs[WORKFLOW])
        first = await first_lister(t, runs[3])
        t.sandbox.faults.on(lambda request: request.path.startswith(f"/apps/{first}/"), Status(404))
        world.delete_run(runs[3])
        assert (await t.run("reconcile")).status == "partial"
        assert await gone(t) == set(), "the other app was synced a moment ago, and may list the run"
        await t.connection.execute(
            "UPDATE etl_streams SET last_synced_at = now() - interval '26 hours' WHERE app_id = $1", first
        )
        world.delete_run(runs[4])
        assert (await t.run("reconcile")).status == "partial"
        assert await gone(t) == {runs[3], runs[4]}


async def test_app_that_loses_the_workflow_does_not_remove_runs(database_url):
    world = one_stream(12)
    async with trial(database_url, world) as t:
        t.api, t.apps = {"page_size": 5}, BOTH
        await t.agrees("backfill")
        t.sandbox.faults.on(lambda request: request.path.startswith("/apps/c/"), Status(404))
        summary = await t.run("reconcile")
        assert (summary.status, summary.exit_code) == ("partial", 1)
        assert await gone(t) == set()
        assert (await standing(t))[APP] == (12, 12)


async def test_status_shows_each_stream_of_a_workflow(database_url, tmp_path):
    async with trial(database_url, one_stream(3)) as t:
        t.apps = BOTH
        await t.agrees("backfill")
        process = await start(t, tmp_path, "status")
        assert await process.end() == 0
        names = [line.split()[0] for line in process.out.splitlines() if " complete " in line]
        assert [name.partition("/")[0] for name in names] == sorted(BOTH)


async def test_erased_run_counts_for_each_app_that_lists_it(database_url):
    world = one_stream(4)
    of_record = [world.create_run(WORKFLOW, record_id="rec_1")["id"] for _ in range(2)]
    for _ in range(24):
        world.create_run(WORKFLOW)
    async with trial(database_url, world) as t:
        t.api, t.apps = {"page_size": 5}, BOTH
        await t.agrees("backfill")
        run_id = list(world.runs[WORKFLOW])[3]
        await forget(t.connection, [run_id], ["rec_1"])
        for _ in range(2):
            assert await t.requests_of() == 2
            assert await standing(t) == {APP: (30, 30), "c": (30, 30)}
            await t.requests_of("reconcile")
        late = world.create_run(WORKFLOW, record_id="rec_1")["id"]
        for _ in range(5):
            world.create_run(WORKFLOW)
        await t.requests_of()
        assert await standing(t) == {APP: (36, 36), "c": (36, 36)}
        world.delete_run(of_record[0])
        t.sandbox.faults.before_response = partly = Partly(world, "c")
        partly.hidden = {run_id, late}
        await t.requests_of("reconcile")
        assert await standing(t) == {APP: (35, 35), "c": (33, 33)}
        assert await t.requests_of() == 2
        partly.hidden = set()
        await t.requests_of("reconcile")
        assert await standing(t) == {APP: (35, 35), "c": (35, 35)}
        assert await t.requests_of() == 2
        assert await t.connection.fetchval("SELECT count(*) FROM runs") == 36
        assert await t.connection.fetchval("SELECT count(*) FROM runs WHERE erased_at IS NOT NULL") == 4


def two_workflows():
    world = one_stream(6)
    world.add_workflow(APP, "wf_2")
    world.create_run("wf_2")
    return world


async def after_the_other(t, statement):
    """Run a statement after the stream of the first workflow has ended, while the second one is being read."""

    async def hook(path, query, number):
        if "wf_2" in path:
            done = "SELECT last_synced_at > now() - interval '1 minute' FROM etl_streams WHERE workflow_id = 'wf_1'"
            while not await t.connection.fetchval(done):
                await asyncio.sleep(0.01)
            await t.connection.execute(statement)

    t.sandbox.faults.before_response = hook


@pytest.mark.parametrize("earlier", [False, True], ids=["first sync", "later sync"])
async def test_counts_are_compared_again_after_all_streams_have_ended(database_url, tmp_path, earlier):
    async with trial(database_url, two_workflows()) as t:
        before = (None, None)
        times = "SELECT last_succeeded_at, watermark FROM etl_streams WHERE workflow_id = 'wf_1'"
        if earlier:
            await t.agrees()
            await t.connection.execute("UPDATE etl_streams SET last_synced_at = now() - interval '1 hour'")
            before = tuple(await t.connection.fetchrow(times))
            t.world.create_run(WORKFLOW)
        await after_the_other(t, "DELETE FROM runs WHERE id = (SELECT min(id) FROM runs WHERE workflow_id = 'wf_1')")
        summary = await t.run()
        runs = 6 + earlier
        error, hint = (
            f"the API counts {runs} runs, the warehouse {runs - 1}",
            "Run: cortex-etl reconcile --workflow wf_1",
        )
        assert (summary.status, summary.exit_code) == ("partial", 1)
        assert (summary.error, summary.hint) == (f"app_1/wf_1: {error}", hint)
        ends = {each.workflow_id: each for each in summary.streams}
        assert ends["wf_1"] == StreamSummary(APP, "wf_1", "partial", runs, runs - 1, error, hint)
        assert ends["wf_2"].status == "succeeded"
        assert tuple(await t.connection.fetchrow(times)) == before, "it is not recorded as succeeded"
        process = await start(t, tmp_path, "status")
        assert await process.end() == 1
        assert f"app_1/wf_1\n  incomplete: the API counts {runs} runs, the warehouse has {runs - 1}\n" in process.out
        assert f"  hint: {hint}\n" in process.out
        t.sandbox.faults.clear()
        await t.agrees()


async def test_stream_that_another_invocation_took_since_is_not_compared_again(database_url):
    async with trial(database_url, two_workflows()) as t:
        await after_the_other(
            t,
            "WITH taken AS (UPDATE etl_streams SET fence = fence + 1 WHERE workflow_id = 'wf_1')"
            " DELETE FROM runs WHERE id = (SELECT min(id) FROM runs WHERE workflow_id = 'wf_1')",
        )
        assert (await t.run()).status == "succeeded"


async def test_counts_are_not_compared_with_those_of_an_earlier_sync(database_url):
    """The API stops sending the count."""
    async with trial(database_url, two_workflows()) as t:
        await t.agrees()
        t.sandbox.faults.on(lists_runs, Headers({"pagination-count": None}))
        t.world.create_run(WORKFLOW)
        for mode in ("sync", "reconcile"):
            await t.agrees(mode)
            states = await t.connection.fetch("SELECT state FROM sync_health")
            assert {row["state"] for row in states} == {"complete"}
