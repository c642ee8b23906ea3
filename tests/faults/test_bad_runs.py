"""Promise 8: an invalid run is quarantined with its bytes, and resolved when it is valid again."""

import json
from datetime import datetime
from typing import Any

import pytest
from sync_trials import WORKFLOW, one_stream, trial

from etl.app import list_rejects, retry_rejects
from etl.events import PageRead
from etl.report import write_report
from etl.sandbox.faults import Status
from etl.sandbox.odd_runs import KINDS
from etl.sandbox.responses import encode

ACCEPTED = (
    "nul", "lone_surrogate", "huge_version", "huge_retention", "deep", "megabytes", "duplicate_keys",
    "unknown_enums", "unknown_fields", "white_space",
)  # fmt: skip
OTHER_KINDS = ("cut", "day_only", "no_zone", "no_times")  # damages the whole page, or the order of the listing
ITEMS_WITHOUT_ID = (
    "number",
    "null",
    "string",
    "list",
    "empty_object",
    "missing_id",
    "null_id",
    "number_id",
    "empty_id",
)


async def held(t):
    return await t.connection.fetch("SELECT * FROM etl_rejects WHERE resolved_at IS NULL ORDER BY id")


async def test_damaged_runs_do_not_affect_good_runs(database_url):
    world = one_stream(len(KINDS) + 30)
    runs = list(world.runs[WORKFLOW])
    spoilt = dict(zip([kind for kind in KINDS if kind not in OTHER_KINDS], runs, strict=False))
    for kind, run_id in spoilt.items():
        world.corrupt(run_id, kind)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 9}
        summary = await t.agrees()
        rejects = await held(t)
        payloads = {bytes(row["payload"]) for row in rejects}
        assert all(row["reason"] and row["error"] and row["url"] and row["page"] for row in rejects)
        for kind, run_id in spoilt.items():
            here = await t.connection.fetchval("SELECT count(*) FROM runs WHERE id = $1", run_id)
            assert here == (kind in ACCEPTED or world.raw[run_id] not in payloads), kind
            assert not (here and kind in ITEMS_WITHOUT_ID), kind
        assert summary.rejects == len(rejects)
        # Known invalid runs cost no requests and change nothing.
        assert await t.requests_of() == 1
        assert [row["id"] for row in await held(t)] == [row["id"] for row in rejects]
        await t.agrees("reconcile")
        assert [row["id"] for row in await held(t)] == [row["id"] for row in rejects]


@pytest.mark.parametrize("kind", ["nan", "bad_utf8", "status_number", "output_text"])
async def test_run_that_becomes_invalid_and_valid_again(database_url, kind):
    world = one_stream(12)
    run_id = list(world.runs[WORKFLOW])[-2]
    async with trial(database_url, world) as t:
        await t.agrees()
        good = dict(await t.connection.fetchrow("SELECT * FROM runs WHERE id = $1", run_id))
        raw = world.corrupt(run_id, kind)
        await t.agrees("reconcile")
        assert [bytes(row["payload"]) for row in await held(t)] == [raw]
        assert dict(await t.connection.fetchrow("SELECT * FROM runs WHERE id = $1", run_id)) == good
        del world.raw[run_id]  # the same bytes as before
        await t.agrees("sync")
        assert await held(t) == []
        world.corrupt(run_id, kind)
        await t.agrees("reconcile")
        del world.raw[run_id]
        world.replay_run(run_id)  # a newer version
        await t.agrees("reconcile")
        assert await held(t) == []


async def test_removed_invalid_run_is_resolved(database_url):
    world = one_stream(20)
    some = list(world.runs[WORKFLOW])[3:6]
    for run_id, kind in zip(some, ("nan", "null", "missing_id"), strict=True):
        world.corrupt(run_id, kind)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5}
        await t.agrees()
        assert len(await held(t)) == 3
        for run_id in some:
            world.delete_run(run_id)
        await t.agrees()
        assert await held(t) == []


async def test_gone_run_that_returns_invalid_and_then_valid(database_url):
    world = one_stream(15)
    run_id = list(world.runs[WORKFLOW])[7]
    async with trial(database_url, world) as t:
        await t.agrees()
        document = world.runs[WORKFLOW].pop(run_id)
        await t.agrees()
        assert await t.connection.fetchval("SELECT gone_at FROM runs WHERE id = $1", run_id)
        world.runs[WORKFLOW][run_id] = document
        world.corrupt(run_id, "nan")
        await t.agrees("reconcile")
        assert len(await held(t)) == 1
        await t.agrees("reconcile")
        assert len(await held(t)) == 1
        del world.raw[run_id]
        await t.agrees("reconcile")
        assert await held(t) == []


@pytest.mark.parametrize("place", [6, 4], ids=["above", "below"])
async def test_older_copy_on_the_same_page_is_ignored(database_url, place):
    world = one_stream(12)
    first, second = (list(world.runs[WORKFLOW])[each] for each in (5, place))
    async with trial(database_url, world) as t:
        t.api = {"page_size": 6}
        older = encode(world.runs[WORKFLOW][first])
        world.replay_run(first)
        world.raw[second] = older
        summary = await t.run("backfill")
        # The API counts twelve items but returns eleven runs: it must neither succeed nor loop.
        assert summary.status == "partial"
        looked_up = [each for each in t.sandbox.requests if each.path.endswith(first)]
        assert len(looked_up) <= 2, "one look-up for each time that the older copy is read"
        assert summary.requests <= 16
        assert await t.connection.fetchval("SELECT count(*) FROM runs") == 11
        stored = await t.connection.fetchval("SELECT updated_at FROM runs WHERE id = $1", first)
        assert stored == datetime.fromisoformat(world.find(first)["updated_at"])


@pytest.mark.parametrize("run_id", ["a\ufffdb", "ab"], ids=["cleaned", "not found"])
async def test_newer_copy_on_the_same_page_is_stored_if_the_run_cannot_be_looked_up(database_url, run_id):
    world = one_stream(8)
    first, second = world.listing(WORKFLOW)[2:4]
    newer = first | {"id": run_id.replace("\ufffd", "\0"), "updated_at": "2026-10-31T12:00:00Z", "status": "CANCELLED"}
    older = second | {"id": run_id, "updated_at": "2026-10-31T11:00:00Z", "status": "FAILED"}
    world.raw[first["id"]], world.raw[second["id"]] = encode(newer), encode(older)
    async with trial(database_url, world) as t:
        t.sandbox.faults.on(lambda request: request.path.endswith("/ab"), Status(404))
        for mode in ("sync", "reconcile"):
            summary = await t.run(mode)
            assert (summary.status, summary.rejects) == ("partial", 0)
            assert await t.connection.fetchval("SELECT status FROM runs WHERE id = $1", run_id) == "CANCELLED"
            assert await t.connection.fetchval("SELECT count(*) FROM runs") == 7


@pytest.mark.parametrize("page_size", [20, 6], ids=["one page", "overlapping pages"])
@pytest.mark.parametrize("updated_at", ["2026-10-31T12:00:00Z", None], ids=["equal", "unknown"])
async def test_last_of_two_copies_with_equal_times_wins(database_url, updated_at, page_size):
    world = one_stream(12)
    first, second = world.listing(WORKFLOW)[4:6]
    for run, status in ((first, "FAILED"), (second, "CANCELLED")):
        world.raw[run["id"]] = encode(run | {"id": first["id"], "updated_at": updated_at, "status": status})
    async with trial(database_url, world) as t:
        t.api = {"page_size": page_size, "concurrency": 1}
        await t.run()
        for mode in ("sync", "reconcile", "reconcile"):
            assert (await t.run(mode)).runs_updated == 0
            assert await t.connection.fetchval("SELECT status FROM runs WHERE id = $1", first["id"]) == "CANCELLED"


@pytest.mark.parametrize("run_id", ["a/b?c#d", "..", "weiß ☃", "x\x00y", "y" * 3000, "'; DROP TABLE runs; --", " "])
async def test_unusual_ids(database_url, run_id):
    world = one_stream(6)
    world.create_run(WORKFLOW, id=run_id, status="RUNNING")
    for _ in range(6):
        world.create_run(WORKFLOW)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 3}
        for mode in ("sync", "sync", "reconcile"):
            summary = await t.run(mode)
            assert summary.status == "succeeded", summary
        assert await t.connection.fetchval("SELECT count(*) FROM runs") + len(await held(t)) == 13


async def test_run_refused_by_postgresql_is_isolated(database_url):
    world = one_stream(40)
    bad = list(world.runs[WORKFLOW])[7::11]
    for run_id in bad:
        world.raw[run_id] = encode(world.runs[WORKFLOW][run_id] | {"record_id": "".join(map(str, range(9000)))})
    async with trial(database_url, world) as t:
        await t.agrees()
        rejects = await held(t)
        assert {row["run_id"] for row in rejects} == set(bad)
        assert {row["reason"] for row in rejects} == {"refused_by_database"}
        (error,) = {row["error"] for row in rejects}
        assert error.startswith("PostgreSQL refused it: index row requires ")
        assert error.endswith(" (SQLSTATE 54000)")
        assert await t.requests_of() == 1
        world.raw.clear()
        await t.agrees("reconcile")
        assert await held(t) == []


async def test_numbers_that_jsonb_cannot_hold_are_stored_as_text(database_url):
    world = one_stream(40)
    huge = list(world.runs[WORKFLOW])[7::11]
    for run_id in huge:
        world.runs[WORKFLOW][run_id] |= {"input": {"n": 1}, "usage": {"total": 2}}
        raw = encode(world.runs[WORKFLOW][run_id])
        world.raw[run_id] = raw.replace(b'"n":1}', b'"n":1e400000}').replace(b'"total":2}', b'"total":9e131071}')
    async with trial(database_url, world) as t:
        summary = await t.run()
        assert (summary.status, summary.rejects) == ("succeeded", 0)
        rows = await t.connection.fetch("SELECT input, extra, credits FROM runs WHERE id = ANY ($1)", huge)
        assert {row["input"] for row in rows} == {'{"n": "1e400000"}'}
        assert {row["credits"] for row in rows} == {None}
        assert {len(row["extra"]) > 131_000 for row in rows} == {True}  # PostgreSQL writes the digits out
        assert await t.connection.fetchval("SELECT sum(credits) FROM runs") > 0
        assert await t.requests_of() == 1
        assert (await t.run("reconcile")).runs_unchanged == 40


EXTREMES: tuple[Any, ...] = (
    {"usage": {"total": 999_999_999_999_999.9, "steps": {"a": {"total": 999_999_999_999_999.9}}}},
    {"usage": {"total": -999_999_999_999_999}},
    {"usage": {"total": 1e-300, "calls": [{"total": 1e-300}]}},
    {"usage": {"total": 77.77}},  # becomes 9e131071, the largest that PostgreSQL can store
    {"created_at": "0001-01-01T00:00:00Z", "started_at": "0001-01-01T00:00:00Z", "ended_at": "9999-12-31T23:59:59Z"},
    {"created_at": "9999-12-31T23:59:59.999Z", "updated_at": "9999-12-31"},
    {"retention": {"max_age_in_seconds": 2**63 - 1}, "version": -(2**31)},
    {"output": {"a": {"start": -62135596800000, "end": 253402300799999, "status": "FAILED", "error": "\0" * 70_000}}},
    {"output": {"a": {"type": "http_request", "output": {"status": 2**31 - 1}}}},
    {
        "output": {
            key: {
                "type": "model",
                "output": {"model": "m", "raw": {"usage": {"input_tokens": 2**63 - 1, "output_tokens": 2**63 - 1}}},
            }
            for key in "ab"
        }
    },
)


async def test_extreme_values_break_no_view_and_no_report(database_url, tmp_path):
    world = one_stream(20)
    for run_id, fields in zip(list(world.runs[WORKFLOW]), EXTREMES * 2, strict=False):
        world.runs[WORKFLOW][run_id] |= fields
        world.raw[run_id] = encode(world.runs[WORKFLOW][run_id]).replace(b"77.77", b"9e131071")
    async with trial(database_url, world) as t:
        assert (await t.run()).status == "succeeded"
        assert await held(t) == []
        await t.connection.execute("SET search_path = cortex")
        for view in await t.connection.fetch("SELECT viewname AS name FROM pg_views WHERE schemaname = 'cortex'"):
            await t.connection.fetch(f"SELECT * FROM {view['name']}")
        await write_report(database_url, "cortex", tmp_path / "report.html")
        assert (await t.run("reconcile")).status == "succeeded"


async def test_retry_loads_fixed_runs(database_url):
    world = one_stream(10)
    fixed, still_bad, left = list(world.runs[WORKFLOW])[2:5]
    for run_id in (fixed, still_bad, left):
        world.corrupt(run_id, "nan")
    async with trial(database_url, world) as t:
        await t.agrees()
        del world.raw[fixed]
        world.delete_run(left)
        report = await retry_rejects(t.settings)
        assert (report.loaded, report.gone, len(report.still_bad)) == (1, 1, 1)
        assert [row["run_id"] for row in await list_rejects(t.settings)] == [still_bad]
        await t.agrees()


async def test_retry_updates_the_reason(database_url):
    world = one_stream(5)
    run_id = list(world.runs[WORKFLOW])[2]
    world.corrupt(run_id, "nan")
    async with trial(database_url, world) as t:
        await t.agrees()
        world.corrupt(run_id, "status_number")
        report = await retry_rejects(t.settings)
        (reject,) = await held(t)
        assert [(number, reason) for number, reason, _ in report.still_bad] == [(reject["id"], "invalid_field")]
        assert bytes(reject["payload"]) == world.raw[run_id]


async def test_run_with_a_cleaned_id_is_not_marked_gone(database_url):
    world = one_stream(5)
    run_id = list(world.runs[WORKFLOW])[2]
    world.raw[run_id] = world.corrupt(run_id, "status_number").replace(run_id.encode(), run_id.encode() + b"\\u0000", 1)
    async with trial(database_url, world) as t:
        await t.agrees()
        report = await retry_rejects(t.settings)
        assert (report.gone, len(report.still_bad)) == (0, 1)
        assert [row["run_id"] for row in await held(t)] == [run_id + "\ufffd"]


@pytest.mark.parametrize("spoilt", [False, True])
async def test_run_with_a_duplicate_id_key_is_not_confused_with_another(database_url, spoilt):
    """JSON allows duplicate keys; the last one counts."""
    world = one_stream(12)
    mine, other = list(world.runs[WORKFLOW])[3:5]
    body = encode(world.runs[WORKFLOW][mine] | ({"status": 7} if spoilt else {}))
    events = []
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5}
        await t.agrees()
        world.raw[mine] = b'{"id":"%b",%b' % (other.encode(), body[1:])
        for mode in ("reconcile", "sync", "backfill"):
            events.clear()
            summary = await t.run(mode, listener=events.append)
            assert await t.differences() == []
            items: list[int] = [event.items for event in events if isinstance(event, PageRead)]
            assert summary.runs_seen == sum(items)
            assert [row["run_id"] for row in await held(t)] == ([mine] if spoilt else [])


async def test_items_that_are_not_runs_do_not_prevent_redaction(database_url):
    world = one_stream(9)
    for run_id, kind in zip(world.runs[WORKFLOW], ("string", "null", "number", "list", "nan"), strict=False):
        world.corrupt(run_id, kind)
    async with trial(database_url, world) as t:
        t.payloads = {"redact": ["$..mail"]}
        await t.agrees()
        assert len(await held(t)) == 5
        assert len((await retry_rejects(t.settings)).still_bad) == 5


SECRET = "hunter2"
LEAKY: tuple[Any, ...] = (
    {"status": 5, "input": {"mail": SECRET}},
    {"created_at": [], "input": SECRET, "output": {"a": {"output": SECRET, "logs": [SECRET]}}},
    {"output": SECRET},
    {"output": [SECRET]},
    {"output": {SECRET: SECRET}},
    {"output": {"a": SECRET}},
    {"output": {"a": [SECRET]}},
    {"output": {"a": {"calls": SECRET}}},
    {"output": {"a": {"calls": [SECRET]}}},
    {"output": {"a": {"calls": [{"output": SECRET, "logs": SECRET, "index": "x"}]}}},
    {"output": [{"key": "a", "output": SECRET, "logs": SECRET, "start": "x"}]},
    {"output": [{"output": SECRET}]},
    {"usage": 5, "input": [[SECRET]]},
    {"record_id": "".join(map(str, range(9000))), "input": SECRET, "output": {"a": {"output": SECRET}}},
)


@pytest.mark.parametrize(
    "payloads", [{"store": "none"}, {"redact": ["$.input", "$.output", "$.output.*.calls[*].output"]}], ids=str
)
async def test_quarantine_errors_and_logs_have_no_payloads(database_url, payloads):
    """Whatever the structure of a run."""
    world = one_stream(len(LEAKY) + 4)
    ids = list(world.runs[WORKFLOW])
    for run_id, fields in zip(ids, LEAKY, strict=False):
        world.raw[run_id] = encode(world.runs[WORKFLOW][run_id] | {"workflow_version": None} | fields)
    whole = encode(world.runs[WORKFLOW][ids[-1]] | {"input": {"mail": SECRET}})
    world.raw[ids[-2]], world.raw[ids[-1]] = b'{"input":"%b",}' % SECRET.encode(), whole[:-1] + b",}"
    events = []
    async with trial(database_url, world) as t:
        t.payloads = payloads
        summary = await t.run(listener=events.append)
        assert (summary.status, summary.rejects) == ("succeeded", len(LEAKY) + 2), summary.error
        report = await retry_rejects(t.settings, listener=events.append)
        assert len(report.still_bad) == len(LEAKY) + 2
        dump = [summary, report, events, await list_rejects(t.settings)]
        for table in await t.connection.fetch("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'cortex'"):
            dump += [dict(row) for row in await t.connection.fetch(f"SELECT * FROM cortex.{table['name']}")]
        assert SECRET not in repr(dump)
        rejects = await held(t)
        for row in rejects:
            kept = json.loads(bytes(row["payload"]) or b"null")
            assert (row["run_id"] is None) or kept is None or kept["id"] == row["run_id"]
            assert row["bytes"] > len(row["payload"])
        world.raw.clear()
        assert (await retry_rejects(t.settings)).loaded == len(LEAKY) + 1  # the id of the other run is unknown
        await t.agrees("reconcile")


@pytest.mark.parametrize("kind", ["number", "null", "list", "missing_id"])
async def test_run_that_loses_its_id_is_replaced_by_its_reject(database_url, kind):
    """Two apps list the run: it is gone from both listings, and the items in its place are quarantined."""
    world = one_stream(12)
    run_id = list(world.runs[WORKFLOW])[4]
    async with trial(database_url, world) as t:
        t.apps = ("app_1", "c")
        await t.agrees()
        world.corrupt(run_id, kind)
        await t.agrees("reconcile")
        assert await t.connection.fetchval("SELECT gone_at IS NOT NULL FROM runs WHERE id = $1", run_id)
        del world.raw[run_id]
        await t.agrees("reconcile")
        assert await t.connection.fetchval("SELECT gone_at IS NULL FROM runs WHERE id = $1", run_id)
