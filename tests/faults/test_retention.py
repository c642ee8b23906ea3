"""Promise 16: runs that expire soonest are fetched first; expired payloads are kept or removed."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from sync_trials import WORKFLOW, one_stream, trial

from etl.app import retry_rejects
from etl.sandbox.faults import Status, lists_runs

DUE = {"retention": {"max_age_in_seconds": 60}, "retention_due_at": "2026-10-30T00:00:00Z"}
NOT_DUE = DUE | {"retention_due_at": "2100-01-01T00:00:00Z"}


async def payload_of(t, run_id):
    row = await t.connection.fetchrow("SELECT input, result FROM runs WHERE id = $1", run_id)
    rest = "SELECT {} FROM run_steps WHERE run_id = $1 ORDER BY ordinal"
    outputs = await t.connection.fetch(rest.format("step_key, type, output, logs"), run_id)
    calls = await t.connection.fetch(rest.format("ordinal, output").replace("run_steps", "run_step_calls"), run_id)
    return row["input"], row["result"], [tuple(each) for each in outputs], [tuple(each) for each in calls]


def emptied(world, run_id, **fields):
    empty = {"input": None, "result": None, "output": None, "updated_at": "2026-11-02T00:00:00Z"}
    world.runs[WORKFLOW][run_id] |= empty | fields
    world.runs[WORKFLOW][run_id].pop("result")


@pytest.mark.parametrize("due", [True, False])
async def test_emptied_payloads_of_due_runs_are_kept(database_url, due):
    world = one_stream(6)
    run_id = list(world.runs[WORKFLOW])[2]
    fields = DUE if due else DUE | {"retention_due_at": "2100-01-01T00:00:00Z"}
    world.runs[WORKFLOW][run_id] |= fields | {"input": {"a": 1}, "result": {"b": 2}}
    async with trial(database_url, world) as t:
        await t.agrees()
        before = await payload_of(t, run_id)
        assert before[2]
        emptied(world, run_id, status="CANCELLED")
        for mode in ("reconcile", "reconcile", "sync"):
            await t.run(mode)
            assert await t.connection.fetchval("SELECT status FROM runs WHERE id = $1", run_id) == "CANCELLED"
            after = await payload_of(t, run_id)
            if due:
                assert after == before
            else:
                assert after[:2] == (None, None)
        if due:  # payloads that the API has deleted stay deleted, although the retention of the runs was extended
            world.runs[WORKFLOW][run_id]["retention_due_at"] = "2100-01-01T00:00:00Z"
            await t.run("reconcile")
            assert await payload_of(t, run_id) == before
        world.replay_run(run_id, updated_at="2026-11-03T00:00:00Z")
        await t.agrees("reconcile")


def expiring():
    """A stream whose oldest runs are about to be removed."""
    world = one_stream(40)
    for place, run in enumerate(world.runs[WORKFLOW].values()):
        due = datetime.now(UTC) + timedelta(hours=1 + 12 * place)
        run |= {"retention": {"max_age_in_seconds": 86_400}, "retention_due_at": due.isoformat()}
    return world


def ends_of(t):
    """Return the place of the last run of each page, in the order of the requests."""
    asked = [each.query for each in t.sandbox.requests if each.path.endswith("/runs")]
    return [int(query["page"]) * int(query["take"]) for query in asked]


async def test_copies_of_a_command_fetch_runs_that_expire_first(database_url):
    async with trial(database_url, expiring()) as t:
        t.api = {"page_size": 5, "concurrency": 2}
        await t.agrees("backfill", join="copies")
        assert max(ends_of(t)[:4]) >= 40


async def test_runs_that_expire_soonest_are_fetched_first(database_url):
    async with trial(database_url, expiring()) as t:
        t.api = {"page_size": 5, "concurrency": 1}
        await t.agrees("backfill")
        ends = ends_of(t)
        assert ends[0] == 5
        assert ends[1] >= 40 > ends[2] > 30, "the oldest runs come before the rest"
        rest = ends[3:-1]
        assert rest == sorted(rest)
        assert max(rest) < ends[1], "runs fetched ahead are not fetched twice"


async def test_due_payloads_are_removed_if_retention_is_honoured(database_url):
    world = one_stream(6)
    due, kept, gone, failed = list(world.runs[WORKFLOW])[1:5]
    for run_id in (due, gone, failed):
        world.runs[WORKFLOW][run_id] |= DUE | {"status": "COMPLETED", "input": {"a": 1}, "result": {"b": 2}}
    preserved = {"max_age_in_seconds": 60, "preserve_on_failure": True}
    world.runs[WORKFLOW][failed] |= {"status": "FAILED", "retention": preserved}
    world.runs[WORKFLOW][kept]["input"] = {"a": 1}
    async with trial(database_url, world) as t:
        t.payloads = {"retention": "keep"}
        await t.agrees()
        world.delete_run(gone)
        t.payloads = {"retention": "honour"}
        for mode in ("sync", "sync", "reconcile"):
            await t.run(mode)
            for run_id in (due, gone):
                given, result, steps, calls = await payload_of(t, run_id)
                assert (given, result) == (None, None)
                assert all(each[2:] == (None, None) for each in steps)
                assert all(each[1] is None for each in calls)
            assert (await payload_of(t, kept))[0] is not None
            assert (await payload_of(t, failed))[0] is not None


async def test_due_fields_without_a_column_are_removed_like_payloads(database_url):
    world = one_stream(3)
    due, kept = list(world.runs[WORKFLOW])[:2]
    call = {"id": "c1", "index": 1e30, "note": "a name", "output": "x"}
    step = {"type": "CODE", "status": "COMPLETED", "start": 1e30, "note": "a name", "output": "x", "calls": [call]}
    for run_id in (due, kept):
        world.runs[WORKFLOW][run_id] |= {"status": "COMPLETED", "output": {"s": step}, "note": "of the run"}
    world.runs[WORKFLOW][due] |= DUE
    query = "SELECT extra FROM {} WHERE run_id = $1 AND step_key = 's'"
    async with trial(database_url, world) as t:
        t.payloads = {"retention": "honour"}
        await t.run()
        for table, number in (("run_steps", "start"), ("run_step_calls", "index")):
            removed, stays = [await t.connection.fetchval(query.format(table), run_id) for run_id in (due, kept)]
            assert set(json.loads(removed)) == {number}, "too large for its column, but no payload"
            assert set(json.loads(stays)) == {number, "note"}
        assert await t.connection.fetchval("SELECT extra ? 'note' FROM runs WHERE id = $1", due)


@pytest.mark.parametrize("read", ["in part", "no more", "in vain"])
async def test_due_payloads_of_other_streams_are_removed(database_url, read):
    world = one_stream(6)
    for run in world.runs[WORKFLOW].values():
        run.update(DUE, status="COMPLETED", input={"a": 1})
    async with trial(database_url, world) as t:
        if read == "in part":
            t.payloads = {"retention": "honour"}
            await t.run("backfill", since=datetime(2000, 1, 1, tzinfo=UTC))
        else:
            await t.agrees()
            t.payloads = {"retention": "honour"}
            if read == "no more":
                world.add_workflow("app_1", "wf_other")
                del world.workflows[WORKFLOW]
            else:
                t.sandbox.faults.on(lists_runs, Status(500))
            await t.run("sync")
        here, removed = await t.connection.fetchrow("SELECT count(*), count(payload_removed_at) FROM runs")
        assert (here, removed) == (6, 6)
        assert await t.connection.fetchval("SELECT count(*) FROM runs WHERE input IS NOT NULL") == 0


async def payloads_in_quarantine(t):
    rows = await t.connection.fetch("SELECT run_id, payload FROM etl_rejects WHERE resolved_at IS NULL")
    return {row["run_id"]: row["payload"] for row in rows}


async def test_due_payloads_are_removed_from_the_quarantine(database_url):
    world = one_stream(8)
    due, spared, later, cut = ids = list(world.runs[WORKFLOW])[:4]
    for run_id in ids:
        world.runs[WORKFLOW][run_id] |= DUE | {"status": "COMPLETED", "input": "Zoe"}
    preserved = {"max_age_in_seconds": 60, "preserve_on_failure": True}
    world.runs[WORKFLOW][spared] |= {"status": "FAILED", "retention": preserved}
    world.runs[WORKFLOW][later] |= NOT_DUE
    broken = {run_id: json.dumps(world.runs[WORKFLOW][run_id] | {"output": 7}).encode() for run_id in ids}
    broken[cut] = broken[cut][:-1] + b', "oops": NaN}'
    async with trial(database_url, world) as t:
        t.payloads = {"retention": "honour"}
        await t.run()  # as valid runs, whose payloads are removed immediately
        world.raw |= broken
        await t.run("reconcile")
        assert {each: bool(payload) for each, payload in (await payloads_in_quarantine(t)).items()} == {
            due: False, spared: True, later: True, cut: False
        }  # fmt: skip


async def test_due_run_only_in_quarantine_is_removed(database_url):
    world = one_stream(4)
    due, later, nameless = list(world.runs[WORKFLOW])[:3]
    for run_id, more in ((due, DUE), (later, NOT_DUE), (nameless, DUE)):
        world.raw[run_id] = json.dumps({"id": run_id, "output": 7, "input": "Zoe"} | more).encode()
    world.raw[nameless] = world.raw[nameless].replace(b'"id"', b'"no"')
    async with trial(database_url, world) as t:
        t.payloads = {"retention": "keep"}
        await t.run()
        assert all((await payloads_in_quarantine(t)).values())
        t.payloads = {"retention": "honour"}
        for mode in ("sync", "reconcile"):
            await t.run(mode)
            assert {each: bool(payload) for each, payload in (await payloads_in_quarantine(t)).items()} == {
                due: False, later: True, None: False
            }  # fmt: skip
        await retry_rejects(t.settings)
        assert not (await payloads_in_quarantine(t))[due]
