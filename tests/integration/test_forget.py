"""Erasing runs and records: they are never loaded again, and the counts still agree."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from etl.app import forget, list_rejects, reader_grants, run_sync, status_report
from etl.app.warehouse import open_warehouse
from etl.config import ApiSettings, AppSettings, DatabaseSettings, Settings, SyncSettings
from etl.db import erasing
from etl.db.batch import Batch
from etl.db.connect import connect
from etl.db.erasing import FORGOTTEN
from etl.db.rollups import roll_up
from etl.db.store import Store
from etl.decode.items import digest
from etl.errors import DatabaseError
from etl.events import StreamId, ignore
from etl.normalize.normalizer import Normalizer
from etl.normalize.rows import RunRows

CHILDREN = ("run_steps", "run_step_calls", "run_usage_calls")
MAY_STAY = {
    "id", "app_id", "workflow_app_id", "workflow_id", "stream_app_id", "also_listed_by", "workflow_version_id", "version",
    "status", "origin", "started_at", "ended_at", "duration_s", "created_at", "updated_at", "updated_on_day", "credits",
    "own_credits", "listed_under_app_id", "listed_under_workflow_id", "first_synced_at", "last_synced_at", "gone_at", "erased_at",
}  # fmt: skip
"""The columns of an erased run that need not be null. `updated_on_day` is null, or true for a bare day."""
MESSAGES = "SELECT count(*) FROM rollup_failures WHERE message LIKE '%Zoë%'"


class Trial:
    """A sandbox, a warehouse, and the syncs between them."""

    def __init__(self, running: Any, url: str, warehouse: Any, **api: Any) -> None:
        self.running, self.world, self.warehouse = running, running.world, warehouse
        self.settings = Settings(
            api=ApiSettings(base_url=running.url, key=running.key, requests_per_minute=100_000, page_size=50, **api),
            database=DatabaseSettings(url=url),
            apps=[AppSettings(id=app_id) for app_id in self.world.apps],
            sync=SyncSettings(reconcile_every=timedelta(0)),
        )

    async def sync(self, mode: Any = "sync", **options: Any) -> Any:
        summary = await run_sync(self.settings, mode, **options)
        assert summary.exit_code == 0, summary
        return summary

    async def holds(self, run_id: str) -> int:
        """Rows of a run, over all tables."""
        rows = await self.warehouse.fetchval("SELECT count(*) FROM runs WHERE id = $1", run_id)
        for table in CHILDREN:
            rows += await self.warehouse.fetchval(f"SELECT count(*) FROM {table} WHERE run_id = $1", run_id)
        return rows

    @asynccontextmanager
    async def loading(self, workflow_id: str) -> AsyncIterator[tuple[Store, Callable[[Any], RunRows], Any]]:
        """Lock a stream; yield its store, the normalizer of its runs, and the connections."""
        app_id = await self.warehouse.fetchval("SELECT app_id FROM etl_streams WHERE workflow_id = $1", workflow_id)
        stream = StreamId(app_id, workflow_id)
        normalizer = Normalizer(*stream)

        def rows_of(run: dict[str, Any]) -> RunRows:
            raw = json.dumps(run).encode()
            return normalizer.normalize(raw, digest(raw))

        async with open_warehouse(self.settings, ignore) as warehouse:
            state = await warehouse.session.lock(stream)
            yield Store(warehouse.pool, warehouse.session, stream, state, sync_id=None), rows_of, warehouse.pool

    async def load(self, workflow_id: str, *, changed: list[dict[str, Any]]) -> None:
        """Load runs, as a sync does that has read them before."""
        async with self.loading(workflow_id) as (store, rows_of, pool), pool.acquire() as connection:
            await store.commit(connection, Batch(changed=[rows_of(run) for run in changed]))

    def some(self) -> tuple[str, dict[str, Any]]:
        """A workflow and one of its finished runs."""
        return next(
            (workflow_id, run)
            for workflow_id, runs in self.world.runs.items()
            for run in runs.values()
            if run["status"] == "COMPLETED"
        )


def failed(run: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a later copy of a run, which has failed."""
    return {
        **run,
        "status": "FAILED",
        "error": "Zoë did not answer",
        "updated_at": "2026-11-20T12:30:00.000Z",
        **changes,
    }


@pytest.fixture
async def trial(sandbox, database_url, warehouse) -> Trial:
    return Trial(await sandbox(), database_url, warehouse)


async def agrees(trial: Trial) -> bool:
    """Return whether each stream is complete, with every run of the API accounted for."""
    report = await status_report(trial.settings)
    rows = await trial.warehouse.fetch("SELECT * FROM sync_health")
    counted = all(row["api_count"] == row["accounted_for"] for row in rows)
    return counted and {each["state"] for each in report.streams} == {"complete"}


async def assert_blank(trial: Trial, run: dict[str, Any]) -> None:
    """Check that the stored row of a run is current and has only the columns that an erased run keeps."""
    row = dict(await trial.warehouse.fetchrow("SELECT * FROM runs WHERE id = $1", run["id"]))
    assert row["erased_at"] is not None
    assert {name for name, value in row.items() if value is not None} - MAY_STAY == set()
    assert row["status"] == run["status"]
    assert row["updated_at"] == datetime.fromisoformat(run["updated_at"])
    assert row["workflow_id"] is not None
    for table in CHILDREN:
        assert await trial.warehouse.fetchval(f"SELECT count(*) FROM {table} WHERE run_id = $1", run["id"]) == 0


async def test_erased_run_is_blanked_and_stays_blank(trial: Trial) -> None:
    await trial.sync()
    _, run = trial.some()
    assert await trial.holds(run["id"]) > 2
    await trial.warehouse.execute("UPDATE runs SET own_credits = 0.25 WHERE id = $1", run["id"])
    before = dict(await trial.warehouse.fetchrow("SELECT * FROM runs WHERE id = $1", run["id"]))
    totals = "SELECT sum(runs), sum(completed), sum(credits) FROM workflow_health_daily"
    counted = await trial.warehouse.fetchrow(totals)
    done = await forget(trial.settings, runs=[run["id"]])
    assert (done.runs, done.rejects) == (1, 0)
    await assert_blank(trial, run)
    after = dict(await trial.warehouse.fetchrow("SELECT * FROM runs WHERE id = $1", run["id"]))
    kept = MAY_STAY - {"last_synced_at", "erased_at", "updated_on_day"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert await trial.warehouse.fetchrow(totals) == counted
    assert await agrees(trial)
    for mode in ("sync", "reconcile", "backfill"):
        written = await trial.warehouse.fetchval("SELECT xmin::text FROM runs WHERE id = $1", run["id"])
        summary = await trial.sync(mode)
        assert summary.runs_updated == 0
        assert await trial.warehouse.fetchval("SELECT xmin::text FROM runs WHERE id = $1", run["id"]) == written
        await assert_blank(trial, run)
        assert await agrees(trial)
    trial.world.replay_run(run["id"])
    await trial.sync()
    await trial.sync("reconcile")
    await assert_blank(trial, run)
    assert await agrees(trial)
    assert (await forget(trial.settings, runs=[run["id"]])).runs == 0
    trial.world.delete_run(run["id"])
    await trial.sync("reconcile")
    assert await agrees(trial)
    assert await trial.warehouse.fetchval("SELECT gone_at IS NOT NULL FROM runs WHERE id = $1", run["id"])


async def test_erased_ids_are_stored_only_as_salted_hashes(trial: Trial) -> None:
    await trial.sync()
    _, run = trial.some()
    await forget(trial.settings, runs=[run["id"]], records=["rec_1"])
    kept = await trial.warehouse.fetch("SELECT kind, hash FROM etl_erased ORDER BY kind DESC")
    assert [row["kind"] for row in kept] == ["run", "record"]
    for row in kept:
        assert len(row["hash"]) == 32
        assert row["hash"] not in {hashlib.sha256(each.encode()).digest() for each in (run["id"], "rec_1")}
    (salt,) = [
        row["value"] for row in await trial.warehouse.fetch("SELECT value FROM etl_settings WHERE name = 'erased_salt'")
    ]
    await forget(trial.settings, runs=["another"])
    assert await trial.warehouse.fetchval("SELECT value FROM etl_settings WHERE name = 'erased_salt'") == salt


async def test_draft_is_deleted_with_the_last_run_that_used_it(trial: Trial) -> None:
    workflow_id, _ = trial.some()
    first, second, third = list(trial.world.runs[workflow_id].values())[:3]
    version, note = {"id": "v7", "version": 7, "steps": []}, {"key": "n", "type": "note", "note": "Zoë"}
    for run in (first, second, third):
        run |= {"workflow_version": None, "version": 7, "workflow_version_draft": {"steps": [note]}}
    third["workflow_version"] = version
    await trial.sync()
    draft = "SELECT count(*) FROM workflow_steps WHERE note = 'Zoë'"
    used = "SELECT workflow_version_id, workflow_draft_id, version FROM runs WHERE id = $1"
    await forget(trial.settings, runs=[first["id"]])
    assert tuple(await trial.warehouse.fetchrow(used, first["id"])) == (None, None, None)
    await forget(trial.settings, runs=[third["id"]])
    assert tuple(await trial.warehouse.fetchrow(used, third["id"])) == ("v7", None, 7)
    assert await trial.warehouse.fetchval(draft) == 1
    await forget(trial.settings, runs=[second["id"]])
    assert await trial.warehouse.fetchval(draft) == 0
    for run in (first, second, third):
        trial.world.replay_run(run["id"])
    await trial.sync("reconcile")
    assert await trial.warehouse.fetchval(draft) == 0
    assert tuple(await trial.warehouse.fetchrow(used, first["id"])) == (None, None, None)
    assert tuple(await trial.warehouse.fetchrow(used, third["id"])) == ("v7", None, 7)


async def test_erased_runs_are_not_listed_as_failures_or_open_runs(trial: Trial) -> None:
    workflow_id, _ = trial.some()
    failed, open_ = list(trial.world.runs[workflow_id].values())[:2]
    failed["status"], open_["status"], open_["ended_at"] = "FAILED", "RUNNING", None
    failed["error"] = "Zoë did not answer"
    await trial.sync()
    kept = "SELECT count(*) FROM rollup_failures WHERE message = 'Zoë did not answer'"
    assert await trial.warehouse.fetchval(kept) == 1
    for view, run in (("recent_failures", failed), ("open_runs", open_)):
        question = f"SELECT count(*) FROM {view} WHERE run_id = $1"
        assert await trial.warehouse.fetchval(question, run["id"]) == 1
        await forget(trial.settings, runs=[run["id"]])
        assert await trial.warehouse.fetchval(question, run["id"]) == 0
    assert await trial.warehouse.fetchval(kept) == 0
    open_ |= {"status": "COMPLETED", "updated_at": "2026-11-20T12:30:00.000Z", "result": "Zoë"}
    await trial.sync()  # open runs are read again, erased ones too
    await assert_blank(trial, open_)


async def test_idle_sync_stays_cheap_after_forget(trial: Trial) -> None:
    await trial.sync()
    await trial.sync()
    before = (await trial.sync()).requests
    newest = [max(runs.values(), key=lambda run: run["created_at"])["id"] for runs in trial.world.runs.values()]
    await forget(trial.settings, runs=newest)
    assert (await trial.sync("reconcile", dry_run=True)).runs_updated == 0
    assert (await trial.sync()).requests <= before


async def test_forget_record_blanks_its_runs_and_later_ones(trial: Trial) -> None:
    record = 'rec "ü" 1'
    workflow_id, _ = trial.some()
    mine = list(trial.world.runs[workflow_id].values())[:3]
    for run in mine:
        run |= {"record_id": record, "input": "Zoë"}
    await trial.sync()
    assert await trial.warehouse.fetchval("SELECT count(*) FROM runs WHERE record_id = $1", record) == 3
    assert (await forget(trial.settings, records=[record])).runs == 3
    for run in mine:
        await assert_blank(trial, run)
    assert await agrees(trial)
    fresh = trial.world.create_run(workflow_id, record_id=record, input="Zoë")
    other = trial.world.create_run(workflow_id)
    assert (await trial.sync()).runs_inserted == 2
    await assert_blank(trial, fresh)
    assert await trial.holds(other["id"]) > 0
    assert await agrees(trial)
    # From now on, the run itself is recorded as erased, whatever its record.
    fresh |= {"record_id": "rec_other", "updated_at": "2026-11-20T12:30:00.000Z"}
    await trial.sync("reconcile")
    await assert_blank(trial, fresh)
    for table in ("runs", *CHILDREN, "workflow_versions", "etl_erased", "etl_rejects", "etl_settings"):
        text = await trial.warehouse.fetchval(f"SELECT string_agg(t::text, '') FROM {table} AS t")
        assert "Zoë" not in (text or ""), table
        assert '"ü" 1' not in (text or "").replace("\\", ""), table


@pytest.mark.parametrize("before", [None, "rec_other"])
async def test_run_that_joins_an_erased_record_is_blanked(trial: Trial, before: str | None) -> None:
    workflow_id, run = trial.some()
    run["record_id"] = before
    trial.world.raw[run["id"]] = b'{"id": "%b", "status": 7}' % run["id"].encode()
    await trial.sync()  # first as a reject, then as a run
    del trial.world.raw[run["id"]]
    await trial.sync("reconcile")
    assert await trial.holds(run["id"]) > 1
    assert (await forget(trial.settings, records=["rec_z"])).runs == 0
    trial.world.runs[workflow_id][run["id"]] |= {"record_id": "rec_z", "updated_at": "2026-11-20T12:30:00.000Z"}
    await trial.sync("reconcile")
    await assert_blank(trial, trial.world.runs[workflow_id][run["id"]])
    assert await agrees(trial)
    await trial.sync()
    assert await agrees(trial)


async def test_older_copy_with_an_erased_record_blanks_the_run(trial: Trial) -> None:
    await trial.sync()
    workflow_id, run = trial.some()
    await forget(trial.settings, records=["rec_z"])
    stale = {**run, "record_id": "rec_z", "updated_at": "2001-01-01T00:00:00.000Z", "status": "RUNNING"}
    await trial.load(workflow_id, changed=[stale])
    await assert_blank(trial, run)


async def test_run_with_a_duplicate_id_key_is_not_erased(trial: Trial) -> None:
    """JSON allows duplicate keys; the last one counts."""
    await trial.sync()
    workflow_id, erased = trial.some()
    mine = next(run_id for run_id in trial.world.runs[workflow_id] if run_id != erased["id"])
    await forget(trial.settings, runs=[erased["id"]])
    body = json.dumps(trial.world.runs[workflow_id][mine])
    trial.world.raw[mine] = f'{{"id":"{erased["id"]}",{body[1:]}'.encode()
    for mode in ("reconcile", "sync"):
        await trial.sync(mode)
        assert await trial.holds(mine) > 1
        await assert_blank(trial, erased)
        assert await agrees(trial)


SPELLED = [
    ("a/b", rb"a\/b"),
    ("\u00e9", rb"\u00E9"),
    ("a&b", rb"a\u0026b"),
    ("it's", rb"it\u0027s"),
    ('say "x"', rb"say \u0022x\u0022"),
    ("a\\b", rb"a\u005cb"),
    ("a\ufffdb", rb"a\u0000b"),
    ("a\ufffdb", rb"a\uD83Db"),
    ("\U0001f600", rb"\uD83D\ude00"),
    ("tab\there", rb"tab\u0009here"),
]


@pytest.mark.parametrize(("record", "spelled"), SPELLED, ids=[repr(spelled) for _, spelled in SPELLED])
async def test_forget_record_finds_escaped_ids_in_the_quarantine(trial: Trial, record: str, spelled: bytes) -> None:
    workflow_id, _ = trial.some()
    first, second, third = list(trial.world.runs[workflow_id])[:3]
    bad = b'{"id": "%%b", "status": 7, "record_id": "%b", "input": "Zoe"}' % spelled
    trial.world.raw[first] = bad % first.encode()
    trial.world.raw[third] = b'{"id": "%b", "status": 7, "record_id": "x%b"}' % (third.encode(), spelled)
    await trial.sync()
    assert (await forget(trial.settings, records=[record])).rejects == 1
    trial.world.raw[second] = bad % second.encode()
    await trial.sync("reconcile")
    kept = await trial.warehouse.fetch("SELECT run_id, payload = $1 AS emptied FROM etl_rejects", b'"[forgotten]"')
    assert {row["run_id"]: row["emptied"] for row in kept} == {first: True, second: True, third: False}


async def test_forget_erases_from_the_quarantine(trial: Trial) -> None:
    workflow_id, _ = trial.some()
    named, quoting = list(trial.world.runs[workflow_id])[:2]
    trial.world.raw[named] = json.dumps({"id": named, "status": 7, "input": "Zoë"}).encode()
    trial.world.raw[quoting] = b'{"status": 7, "record_id": "rec_z", "input": "Zoe"}'
    await trial.sync()
    assert len(await list_rejects(trial.settings)) == 2
    done = await forget(trial.settings, runs=[named], records=["rec_z"])
    assert done.rejects == 2
    emptied = [(None, FORGOTTEN, "erased"), (named, FORGOTTEN, "erased")]
    kept = "SELECT run_id, payload, error FROM etl_rejects WHERE resolved_at IS NULL ORDER BY run_id NULLS FIRST"
    assert [tuple(row) for row in await trial.warehouse.fetch(kept)] == emptied
    assert (await forget(trial.settings, runs=[named], records=["rec_z"])).rejects == 0
    for mode in ("sync", "reconcile"):
        await trial.sync(mode)
        assert await agrees(trial)
        assert [tuple(row) for row in await trial.warehouse.fetch(kept)] == emptied
    trial.world.raw[named] = json.dumps({"id": named, "status": 8, "input": "Zoë"}).encode()
    await trial.sync("reconcile")
    assert [tuple(row) for row in await trial.warehouse.fetch(kept)] == emptied
    del trial.world.raw[named]
    await trial.sync("reconcile")
    await assert_blank(trial, trial.world.runs[workflow_id][named])
    assert await agrees(trial)


async def test_counts_agree_with_a_filter(sandbox, database_url, warehouse) -> None:
    trial = Trial(await sandbox(), database_url, warehouse, status="COMPLETED")
    workflow_id, run = trial.some()
    await trial.sync()
    await forget(trial.settings, runs=[run["id"], "run_never_met"])
    await trial.sync()
    assert await agrees(trial)
    trial.world.runs[workflow_id][run["id"]] |= {"status": "FAILED", "updated_at": "2026-11-01T12:30:00.000Z"}
    await trial.sync("reconcile")  # now the filter excludes it
    assert await agrees(trial)


async def test_unknown_erased_run_is_stored_blank(trial: Trial) -> None:
    _, run = trial.some()
    assert (await forget(trial.settings, runs=[run["id"]])).runs == 0
    await trial.sync()
    await assert_blank(trial, run)
    assert await agrees(trial)


async def test_erased_run_with_a_day_without_a_time_stays_comparable(trial: Trial) -> None:
    workflow_id, run = trial.some()
    run["updated_at"] = "2025-11-01"
    await trial.sync()
    await forget(trial.settings, runs=[run["id"]])
    assert await trial.warehouse.fetchval("SELECT updated_on_day FROM runs WHERE id = $1", run["id"])
    await trial.load(workflow_id, changed=[{**run, "updated_at": "2025-11-01T23:00:00.000Z", "status": "RUNNING"}])
    assert await trial.warehouse.fetchval("SELECT status FROM runs WHERE id = $1", run["id"]) == "COMPLETED"


async def test_concurrent_sync_cannot_restore_an_erased_run(trial: Trial) -> None:
    await trial.sync()
    workflow_id, run = trial.some()
    async with trial.loading(workflow_id) as (store, rows_of, pool):
        await forget(trial.settings, runs=[run["id"]])
        async with pool.acquire() as connection:
            await store.commit(connection, Batch(new=[rows_of(run)]))
            await store.commit(connection, Batch(changed=[rows_of({**run, "input": "Zoë"})]))
        await assert_blank(trial, run)
        # forget waits for a running load.
        other = {**run, "id": "run_other", "record_id": "rec_z"}
        async with pool.acquire() as connection, connection.transaction():
            await store.commit(connection, Batch(new=[rows_of(other)]))
            waiting = asyncio.create_task(forget(trial.settings, records=["rec_z"]))
            await asyncio.sleep(0.2)
            assert not waiting.done()
        assert (await waiting).runs == 1
        await assert_blank(trial, other)


async def test_stored_and_loaded_runs_are_blanked_alike(trial: Trial) -> None:
    for number, run in enumerate(run for runs in trial.world.runs.values() for run in runs.values()):
        if number % 3 == 0:
            run["workflow_version"] = None
            run["workflow_version_draft"] = {"steps": [{"key": "n", "type": "note", "note": f"note {number % 7}"}]}
        if number % 5 == 0:
            run["updated_at"] = run["updated_at"][:10]
    await trial.sync()
    everything = [run_id for runs in trial.world.runs.values() for run_id in runs]
    assert (await forget(trial.settings, runs=everything)).runs == len(everything)
    # The own credits of a stored parent are kept; a run that is blanked before it is loaded has no children.
    columns = ", ".join(MAY_STAY - {"own_credits", "first_synced_at", "last_synced_at", "erased_at"})
    rows = f"SELECT {columns} FROM runs ORDER BY id"
    stored = [tuple(row) for row in await trial.warehouse.fetch(rows)]
    assert len(stored) == len(everything)
    assert await trial.warehouse.fetchval("SELECT count(*) FROM workflow_versions WHERE is_draft") == 0
    await trial.warehouse.execute("TRUNCATE runs CASCADE; UPDATE etl_streams SET backfill_done = false")
    await trial.sync("backfill")
    assert [tuple(row) for row in await trial.warehouse.fetch(rows)] == stored
    assert await trial.warehouse.fetchval("SELECT count(*) FROM workflow_versions WHERE is_draft") == 0
    assert await trial.warehouse.fetchval("SELECT count(*) FROM run_steps") == 0


async def test_runs_erased_during_a_backfill_stay_blank(trial: Trial) -> None:
    runs = [run for runs in trial.world.runs.values() for run in runs.values()]
    chosen = random.Random(17).sample(runs, 20)
    loading = asyncio.create_task(trial.sync("backfill"))
    for run in chosen:
        await forget(trial.settings, runs=[run["id"]])
    await loading
    for run in chosen:
        await assert_blank(trial, run)
    assert await trial.warehouse.fetchval("SELECT count(*) FROM runs WHERE erased_at IS NULL") == len(runs) - 20
    assert await agrees(trial)


async def test_load_that_does_not_end_is_named(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    await trial.sync()
    workflow_id, run = trial.some()
    monkeypatch.setattr(erasing, "LOADS_TIMEOUT_S", 0.2)
    async with trial.loading(workflow_id) as (store, _, pool), pool.acquire() as connection, connection.transaction():
        await store.begin(connection)
        with pytest.raises(DatabaseError, match="has been loading runs") as stuck:
            await forget(trial.settings, runs=[run["id"]])
        assert str(connection.get_server_pid()) in stuck.value.hint
    assert (await forget(trial.settings, runs=[run["id"]])).runs == 1


async def test_content_never_replaces_an_erased_row(trial: Trial) -> None:
    """As if two loads had read the same run with two records, one of which is erased."""
    await trial.sync()
    workflow_id, run = trial.some()
    await forget(trial.settings, runs=[run["id"]])
    await trial.warehouse.execute("DELETE FROM etl_erased")
    await trial.load(workflow_id, changed=[{**run, "input": "Zoë", "updated_at": "2026-11-20T12:30:00.000Z"}])
    await assert_blank(trial, run)


@pytest.mark.parametrize("broken", ["_ERASE_RUN", "empty_reject"])
async def test_interrupted_forget_can_be_repeated(trial: Trial, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    workflow_id, run = trial.some()
    bad = next(run_id for run_id in trial.world.runs[workflow_id] if run_id != run["id"])
    trial.world.raw[bad] = b'{"id": "%b", "status": 7, "input": "rec_z"}' % bad.encode()
    await trial.sync()
    with monkeypatch.context() as patch:
        if broken == "_ERASE_RUN":
            patch.setattr(erasing, broken, "SELECT 1/0 WHERE $1::text IS NOT NULL")
        else:
            patch.setitem(
                erasing._SQL,
                broken,
                "SELECT 1/0 WHERE $1::bigint IS NOT NULL AND $2::bytea IS NOT NULL AND $3::text IS NOT NULL",
            )
        with pytest.raises(Exception, match="division by zero"):
            await forget(trial.settings, runs=[run["id"]], records=["rec_z"])
    await forget(trial.settings, runs=[run["id"]], records=["rec_z"])
    await assert_blank(trial, run)
    assert await trial.warehouse.fetchval("SELECT payload FROM etl_rejects") == FORGOTTEN
    assert await agrees(trial)


async def test_rollup_under_way_keeps_no_message_of_an_erased_run(trial: Trial, database_url: str) -> None:
    await trial.sync()
    workflow_id, run = trial.some()
    await trial.load(workflow_id, changed=[failed(run, created_at="2026-11-20T12:00:00.000Z")])
    rolling, blocking = await connect(database_url, "cortex"), await connect(database_url, "cortex")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with blocking.transaction():
        await blocking.execute("SELECT FROM etl_changed_days FOR UPDATE")
        rollup = asyncio.create_task(roll_up(rolling, seconds=60))
        while not await trial.warehouse.fetchval(waiting):
            await asyncio.sleep(0.02)
        forgetting = asyncio.create_task(forget(trial.settings, runs=[run["id"]]))
        while not forgetting.done() and await trial.warehouse.fetchval(waiting) < 2:
            await asyncio.sleep(0.02)
    assert await rollup == 2  # with the day of the former copy
    await forgetting
    assert await trial.warehouse.fetchval(MESSAGES) == 0
    await rolling.close()
    await blocking.close()


async def test_load_completes_an_interrupted_forget(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow_id, run = trial.some()
    run |= {
        "workflow_version": None,
        "workflow_version_draft": {"steps": [{"key": "n", "type": "note", "note": "Zoë"}]},
    }
    run |= failed(run)
    await trial.sync()
    await trial.warehouse.execute("UPDATE runs SET own_credits = 0.25 WHERE id = $1", run["id"])
    with monkeypatch.context() as patch:
        patch.setattr(erasing, "_ERASE_RUN", "SELECT 1/0 WHERE $1::text IS NOT NULL")
        with pytest.raises(Exception, match="division by zero"):
            await forget(trial.settings, runs=[run["id"]])
    await trial.load(workflow_id, changed=[run])
    await assert_blank(trial, run)
    left = [
        await trial.warehouse.fetchval(MESSAGES),
        await trial.warehouse.fetchval("SELECT count(*) FROM workflow_steps WHERE note = 'Zoë'"),
        await trial.warehouse.fetchval("SELECT own_credits FROM runs WHERE id = $1", run["id"]),
    ]
    assert left == [0, 0, Decimal("0.25")]


async def test_message_is_erased_from_the_day_on_which_it_was_rolled_up(trial: Trial) -> None:
    workflow_id, run = trial.some()
    run |= failed(run)
    await trial.sync()
    assert await trial.warehouse.fetchval(MESSAGES) == 1
    await trial.load(workflow_id, changed=[{**run, "created_at": "2026-11-20T12:00:00.000Z"}])
    await forget(trial.settings, runs=[run["id"]])
    assert await trial.warehouse.fetchval(MESSAGES) == 0


async def test_old_syncs_and_resolved_rejects_are_deleted(trial: Trial) -> None:
    await trial.warehouse.execute(
        """
        INSERT INTO etl_syncs (mode, status, started_at, ended_at)
        SELECT 'sync', 'succeeded', now() - interval '200 days' + n * interval '1 hour', now() FROM generate_series(1, 1500) AS n
        """
    )
    first = await trial.warehouse.fetchval("SELECT min(id) FROM etl_syncs")
    await trial.warehouse.execute(
        """
        INSERT INTO etl_rejects (sync_id, app_id, workflow_id, reason, error, payload, digest, created_at, resolved_at)
        VALUES ($1, 'a', 'w', 'r', 'e', 'x', 'settled long ago', now(), now() - interval '91 days'),
               ($1, 'a', 'w', 'r', 'e', 'x', 'settled lately', now(), now() - interval '89 days'),
               ($1, 'a', 'w', 'r', 'e', 'x', 'open', now() - interval '400 days', NULL)
        """,
        first,
    )
    await trial.sync()
    assert await trial.warehouse.fetchval("SELECT count(*) FROM etl_syncs") == 1000
    left = await trial.warehouse.fetch(
        "SELECT convert_from(digest, 'UTF8') AS digest, sync_id FROM etl_rejects ORDER BY 1"
    )
    assert [tuple(row) for row in left] == [("open", None), ("settled lately", None)]
    await trial.warehouse.execute("UPDATE etl_syncs SET started_at = now() - interval '80 days'")
    await trial.warehouse.execute(
        "INSERT INTO etl_syncs (mode, status) SELECT 'sync', 'succeeded' FROM generate_series(1, 200)"
    )
    await trial.sync()
    assert await trial.warehouse.fetchval("SELECT count(*) FROM etl_syncs") == 1201  # younger than 90 days: kept


async def test_reader_role_can_only_read(trial: Trial, database_url) -> None:
    await trial.sync()
    role = f"reader {datetime.now(UTC).timestamp()}"
    with pytest.raises(DatabaseError) as refused:
        await reader_grants(trial.settings, role, apply=True)
    assert f'CREATE ROLE "{role}"' in refused.value.hint
    await trial.warehouse.execute(f'CREATE ROLE "{role}"')
    try:
        assert await reader_grants(trial.settings, role, apply=True) == []
        reader = await connect(database_url, "cortex")
        await reader.execute(f'SET ROLE "{role}"')
        for name in ("runs", "run_steps", "sync_health", "workflow_health_daily", "etl_syncs", "etl_streams"):
            await reader.fetch(f"SELECT * FROM {name} LIMIT 1")
        for wrong in (
            "SELECT id FROM etl_rejects", "SELECT * FROM etl_erased", "SELECT * FROM etl_settings",
            "DELETE FROM runs", "INSERT INTO workflows (id) VALUES ('x')", "CREATE TABLE cortex.mine (a int)",
        ):  # fmt: skip
            with pytest.raises(Exception, match="permission denied"):
                await reader.fetch(wrong)
        await reader.close()
    finally:
        await trial.warehouse.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


async def test_missing_grant_option_is_reported(empty_database, empty_database_url) -> None:
    """PostgreSQL only warns if a role grants a privilege without grant option."""
    owner, reader = f"owner_{empty_database.get_server_pid()}", f"reader_{empty_database.get_server_pid()}"
    database = await empty_database.fetchval("SELECT current_database()")
    await empty_database.execute(
        f"CREATE ROLE {owner} LOGIN; CREATE ROLE {reader}; CREATE SCHEMA cortex AUTHORIZATION {owner}; "
        f"REVOKE ALL ON DATABASE {database} FROM PUBLIC; GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {owner}"
    )
    settings = Settings(database=DatabaseSettings(url=empty_database_url.replace("postgres@", f"{owner}@")))
    try:
        with pytest.raises(DatabaseError, match="no privileges were granted") as refused:
            await reader_grants(settings, reader, apply=True)
        assert f'GRANT CONNECT ON DATABASE "{database}" TO "{reader}"' in refused.value.hint
        assert not await empty_database.fetchval("SELECT has_schema_privilege($1, 'cortex', 'USAGE')", reader)
        await empty_database.execute(f"GRANT CONNECT ON DATABASE {database} TO {reader}")
        (left,) = await reader_grants(settings, reader, apply=True)
        assert left == f'ALTER ROLE "{reader}" IN DATABASE "{database}" SET search_path TO "cortex"'
        assert await empty_database.fetchval("SELECT has_table_privilege($1, 'cortex.runs', 'SELECT')", reader)
    finally:
        await empty_database.execute(
            f"DROP OWNED BY {reader}; DROP OWNED BY {owner} CASCADE; DROP ROLE {reader}, {owner}"
        )
