"""Erasing for good: what goes, what keeps it away, and that the counts still agree."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from etl.app import forget, list_rejects, reader_grants, run_sync, status_report
from etl.app.warehouse import open_warehouse
from etl.config import ApiSettings, AppSettings, DatabaseSettings, Settings, SyncSettings
from etl.db import erasing
from etl.db.batch import Batch
from etl.db.connect import connect
from etl.db.load import Loader
from etl.decode import digest
from etl.errors import DatabaseError, SettingsError
from etl.events import StreamId, ignore
from etl.normalize import Normalizer

CHILDREN = ("run_steps", "run_step_calls", "run_usage_calls")


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

    async def sync(self, mode: str = "sync") -> Any:
        summary = await run_sync(self.settings, mode)
        assert summary.exit_code == 0, summary
        return summary

    async def holds(self, run_id: str) -> int:
        """Rows of a run, over all tables."""
        rows = await self.warehouse.fetchval("SELECT count(*) FROM runs WHERE id = $1", run_id)
        for table in CHILDREN:
            rows += await self.warehouse.fetchval(f"SELECT count(*) FROM {table} WHERE run_id = $1", run_id)
        return rows

    def some(self) -> tuple[str, dict[str, Any]]:
        """A workflow and one of its finished runs."""
        return next(
            (workflow_id, run)
            for workflow_id, runs in self.world.runs.items()
            for run in runs.values()
            if run["status"] == "COMPLETED"
        )


@pytest.fixture
async def trial(sandbox, database_url, warehouse) -> Trial:
    return Trial(await sandbox(), database_url, warehouse)


async def agrees(trial: Trial) -> bool:
    """Whether status finds each stream complete, with every run of the API accounted for."""
    report = await status_report(trial.settings)
    rows = await trial.warehouse.fetch("SELECT * FROM sync_health")
    counted = all(row["api_count"] == row["warehouse_count"] + row["quarantined"] + row["forgotten"] for row in rows)
    return counted and {each["state"] for each in report.streams} == {"complete"}


async def test_a_run_is_gone_with_all_that_is_its_own_and_stays_away(trial: Trial) -> None:
    await trial.sync()
    workflow_id, run = trial.some()
    assert await trial.holds(run["id"]) > 2
    others = await trial.warehouse.fetchval("SELECT count(*) FROM runs")
    done = await forget(trial.settings, runs=[run["id"]])
    assert (done.runs, done.rejects) == (1, 0)
    assert await trial.holds(run["id"]) == 0
    assert await trial.warehouse.fetchval("SELECT count(*) FROM runs") == others - 1
    assert await agrees(trial)
    for mode in ("sync", "reconcile", "backfill"):
        await trial.sync(mode)
        assert await trial.holds(run["id"]) == 0
        assert await agrees(trial)
    trial.world.replay_run(run["id"])
    await trial.sync()
    await trial.sync("reconcile")
    assert await trial.holds(run["id"]) == 0
    assert await agrees(trial)
    again = await forget(trial.settings, runs=[run["id"]])
    assert again.runs == 0
    trial.world.delete_run(run["id"])
    await trial.sync()
    assert await agrees(trial)
    row = await trial.warehouse.fetchrow("SELECT * FROM etl_tombstones")
    assert (row["kind"], row["id"], row["workflow_id"]) == ("run", run["id"], workflow_id)
    assert row["gone_at"] is not None


async def test_a_sync_that_finds_nothing_new_stays_cheap(trial: Trial) -> None:
    await trial.sync()
    await trial.sync()
    before = (await trial.sync()).requests
    _, run = trial.some()
    await forget(trial.settings, runs=[run["id"]])
    assert (await trial.sync()).requests <= before + 2


async def test_all_of_a_record_goes_and_what_comes_later_is_not_loaded(trial: Trial) -> None:
    record = 'rec "ü" 1'
    workflow_id, _ = trial.some()
    mine = list(trial.world.runs[workflow_id])[:3]
    for run_id in mine:
        trial.world.runs[workflow_id][run_id] |= {"record_id": record, "input": "Zoë"}
    await trial.sync()
    assert await trial.warehouse.fetchval("SELECT count(*) FROM runs WHERE record_id = $1", record) == 3
    assert (await forget(trial.settings, records=[record])).runs == 3
    assert [await trial.holds(run_id) for run_id in mine] == [0, 0, 0]
    assert await agrees(trial)
    fresh = trial.world.create_run(workflow_id, record_id=record, input="Zoë")
    other = trial.world.create_run(workflow_id)
    summary = await trial.sync()
    assert summary.runs_inserted == 1
    assert await trial.holds(fresh["id"]) == 0
    assert await trial.holds(other["id"]) > 0
    assert await agrees(trial)
    kept = await trial.warehouse.fetch("SELECT kind, count(*) FROM etl_tombstones GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in kept] == [("record", 1), ("run", 4)]
    text = await trial.warehouse.fetchval("SELECT string_agg(t::text, '') FROM etl_tombstones AS t")
    assert "Zoë" not in text


@pytest.mark.parametrize("before", [None, "rec_other"])
async def test_a_run_that_comes_under_an_erased_record_later_goes_with_it(trial: Trial, before: str | None) -> None:
    workflow_id, run = trial.some()
    run["record_id"] = before
    trial.world.raw[run["id"]] = b'{"id": "%b", "status": 7}' % run["id"].encode()
    await trial.sync()  # as a reject, and then as a run
    del trial.world.raw[run["id"]]
    await trial.sync("reconcile")
    assert await trial.holds(run["id"]) > 0
    assert (await forget(trial.settings, records=["rec_z"])).runs == 0
    trial.world.runs[workflow_id][run["id"]] |= {"record_id": "rec_z", "updated_at": "2027-11-01T12:30:00.000Z"}
    await trial.sync("reconcile")
    assert await trial.holds(run["id"]) == 0
    assert await list_rejects(trial.settings, resolved=True) == []
    assert await agrees(trial)
    await trial.sync()
    assert await agrees(trial)


async def test_a_run_that_seems_to_have_an_erased_one_s_id_stays(trial: Trial) -> None:
    """JSON allows a key twice; the last one counts."""
    await trial.sync()
    workflow_id, erased = trial.some()
    mine = next(run_id for run_id in trial.world.runs[workflow_id] if run_id != erased["id"])
    await forget(trial.settings, runs=[erased["id"]])
    body = json.dumps(trial.world.runs[workflow_id][mine])
    trial.world.raw[mine] = f'{{"id":"{erased["id"]}",{body[1:]}'.encode()
    for mode in ("reconcile", "sync"):
        await trial.sync(mode)
        assert await trial.holds(mine) > 0
        assert await trial.holds(erased["id"]) == 0
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
async def test_the_quarantine_forgets_a_record_however_it_is_spelled(trial: Trial, record: str, spelled: bytes) -> None:
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
    assert {row["run_id"]: row["emptied"] for row in kept} == {second: True, third: False}


async def test_the_quarantine_forgets_as_well(trial: Trial) -> None:
    workflow_id, _ = trial.some()
    named, quoting = list(trial.world.runs[workflow_id])[:2]
    trial.world.raw[named] = json.dumps({"id": named, "status": 7, "input": "Zoë"}).encode()
    trial.world.raw[quoting] = b'{"status": 7, "record_id": "rec_z", "input": "Zoe"}'
    await trial.sync()
    assert len(await list_rejects(trial.settings)) == 2
    done = await forget(trial.settings, runs=[named], records=["rec_z"])
    assert done.rejects == 2
    assert await list_rejects(trial.settings, resolved=True) == []
    await trial.sync("reconcile")
    assert await agrees(trial)
    kept = await trial.warehouse.fetch("SELECT run_id, payload FROM etl_rejects")
    assert [tuple(row) for row in kept] == [(None, b'"[forgotten]"')]


async def test_counts_agree_behind_a_filter(sandbox, database_url, warehouse) -> None:
    trial = Trial(await sandbox(), database_url, warehouse, status="COMPLETED")
    workflow_id, run = trial.some()
    await trial.sync()
    await forget(trial.settings, runs=[run["id"], "run_never_met"])
    await trial.sync()
    assert await agrees(trial)
    trial.world.runs[workflow_id][run["id"]] |= {"status": "FAILED", "updated_at": "2026-11-01T12:30:00.000Z"}
    await trial.sync()  # now the filter leaves it out
    assert await agrees(trial)


async def test_a_run_that_was_never_met_is_kept_out_from_the_start(trial: Trial) -> None:
    _, run = trial.some()
    assert (await forget(trial.settings, runs=[run["id"]])).runs == 0
    await trial.sync()
    assert await trial.holds(run["id"]) == 0
    assert await agrees(trial)


async def test_what_a_process_has_in_hand_cannot_bring_it_back(trial: Trial) -> None:
    await trial.sync()
    workflow_id, run = trial.some()
    (app_id,) = {
        row["app_id"]
        for row in await trial.warehouse.fetch("SELECT app_id FROM etl_streams WHERE workflow_id = $1", workflow_id)
    }
    stream = StreamId(app_id, workflow_id)
    raw = json.dumps(run).encode()
    rows = Normalizer(*stream).normalize(raw, digest(raw))
    async with open_warehouse(trial.settings, ignore) as warehouse:
        state = await warehouse.session.lock(stream)
        loader = Loader(stream, fence=state.fence, sync_id=None)
        await forget(trial.settings, runs=[run["id"]])
        async with warehouse.pool.acquire() as connection:
            await loader.load(connection, Batch(new=[rows]))
        assert await trial.holds(run["id"]) == 0
        # A commit that holds its stream's row already is waited for.
        other = Normalizer(*stream).normalize(raw.replace(run["id"].encode(), b"run_other"), b"x" * 16)
        async with warehouse.pool.acquire() as connection, connection.transaction():
            await loader.load(connection, Batch(new=[other]))
            waiting = asyncio.create_task(forget(trial.settings, runs=["run_other"]))
            await asyncio.sleep(0.2)
            assert not waiting.done()
        assert (await waiting).runs == 1
        assert await trial.holds("run_other") == 0


async def test_an_interrupted_forget_goes_on(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    await trial.sync()
    _, run = trial.some()
    with monkeypatch.context() as broken:
        broken.setitem(erasing._SQL, "erase_run", "SELECT 1/0 WHERE $1::text IS NOT NULL")
        with pytest.raises(Exception, match="division by zero"):
            await forget(trial.settings, runs=[run["id"]])
    assert await trial.holds(run["id"]) > 0
    await forget(trial.settings, runs=[run["id"]])
    assert await trial.holds(run["id"]) == 0
    assert await agrees(trial)


async def test_naming_nothing_is_refused(trial: Trial) -> None:
    for wrong in ({}, {"runs": [" "]}, {"records": [""]}):
        with pytest.raises(SettingsError):
            await forget(trial.settings, **wrong)


async def test_old_ledger_rows_and_settled_rejects_are_let_go(trial: Trial) -> None:
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


async def test_a_reader_reads_and_does_nothing_else(trial: Trial, database_url) -> None:
    await trial.sync()
    role = f"reader {datetime.now(UTC).timestamp()}"
    with pytest.raises(DatabaseError) as refused:
        await reader_grants(trial.settings, role, apply=True)
    assert f'CREATE ROLE "{role}"' in refused.value.hint
    await trial.warehouse.execute(f'CREATE ROLE "{role}"')
    try:
        grants = await reader_grants(trial.settings, role, apply=True)
        assert all(f'TO "{role}"' in each for each in grants)
        await trial.warehouse.execute("CREATE VIEW added_by_an_upgrade AS SELECT 1 AS one")
        reader = await connect(database_url, "cortex")
        await reader.execute(f'SET ROLE "{role}"')
        for name in ("runs", "run_steps", "sync_health", "workflow_health_daily", "etl_syncs", "added_by_an_upgrade"):
            await reader.fetch(f"SELECT * FROM {name} LIMIT 1")
        await reader.fetch("SELECT id, reason, error FROM etl_rejects")
        for wrong in (
            "SELECT payload FROM etl_rejects", "SELECT * FROM etl_tombstones", "SELECT * FROM etl_settings",
            "DELETE FROM runs", "INSERT INTO workflows (id) VALUES ('x')", "CREATE TABLE cortex.mine (a int)",
        ):  # fmt: skip
            with pytest.raises(Exception, match="permission denied"):
                await reader.fetch(wrong)
        await reader.close()
    finally:
        await trial.warehouse.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


async def test_what_cannot_be_granted_is_not_called_granted(empty_database, empty_database_url) -> None:
    """PostgreSQL only warns where a role grants what it may not pass on."""
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
        await reader_grants(settings, reader, apply=True)
        assert await empty_database.fetchval("SELECT has_table_privilege($1, 'cortex.runs', 'SELECT')", reader)
    finally:
        await empty_database.execute(
            f"DROP OWNED BY {reader}; DROP OWNED BY {owner} CASCADE; DROP ROLE {reader}, {owner}"
        )
