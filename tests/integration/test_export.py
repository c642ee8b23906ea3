"""Parquet export: contents as DuckDB reads them, and incremental updates."""

from __future__ import annotations

import asyncio
import fcntl
import json
from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from etl.app import run_sync
from etl.config import ApiSettings, AppSettings, DatabaseSettings, Settings
from etl.db.connect import connect
from etl.errors import DatabaseError, SettingsError
from etl.export import export_parquet, manifest
from etl.sandbox import World
from etl.tables import ENTITIES, RUN_CHILDREN, RUNS

MONTHLY = [RUNS.name, *(each.name for each in RUN_CHILDREN)]


@pytest.fixture
async def synced(sandbox, database_url) -> str:
    """A synced warehouse with runs of three months, some without created_at."""
    source = await sandbox(World.generate(runs=300, workflows_per_app=2, days=60))
    settings = Settings(
        api=ApiSettings(base_url=source.url, key=source.key, requests_per_minute=100_000),
        database=DatabaseSettings(url=database_url, schema="cortex"),
        apps=[AppSettings(id=app_id) for app_id in source.world.apps],
    )
    await run_sync(settings, "sync")
    return database_url


async def add_run(warehouse, run_id: str, created_at: datetime | None, **values: object) -> None:
    await warehouse.execute(
        "INSERT INTO runs (id, created_at, credits, input) VALUES ($1, $2, $3, $4)",
        run_id, created_at, values.get("credits"), values.get("input"),
    )  # fmt: skip


def names(written: Iterable[Path]) -> set[str]:
    return {f"{each.parent.name}/{each.stem}" for each in written}


def ask(query: str) -> list[tuple[object, ...]]:
    with duckdb.connect(config={"autoinstall_known_extensions": False}) as database:
        return database.sql(query).fetchall()


async def test_duckdb_reads_the_rows_of_the_warehouse(synced, warehouse, tmp_path) -> None:
    await export_parquet(synced, "cortex", tmp_path)
    for table in ENTITIES:
        files = f"'{tmp_path}/{table.name}/*.parquet'"
        assert ask(f"SELECT count(*) FROM {files}") == [
            (await warehouse.fetchval(f"SELECT count(*) FROM {table.name}"),)
        ]
    for query in (
        "SELECT status, count(*), round(sum(credits), 15), max(duration_s) FROM {runs} GROUP BY 1 ORDER BY 1",
        "SELECT provider, model, count(*), round(sum(credits), 15) FROM {run_steps} GROUP BY 1, 2 ORDER BY 1 NULLS LAST, 2 NULLS LAST",
        "SELECT round(sum(credits), 15), max(depth), count(DISTINCT path) FROM {run_usage_calls}",
        "SELECT r.workflow_id, s.step_key, round(sum(s.duration_s))::bigint FROM {runs} r JOIN {run_steps} s ON s.run_id = r.id GROUP BY 1, 2 ORDER BY 1, 2",
        "SELECT w.tags, count(*) FROM {runs} r JOIN {workflows} w ON w.id = r.workflow_id GROUP BY 1 ORDER BY 1",
    ):
        ours = await warehouse.fetch(query.format(**{each.name: each.name for each in ENTITIES}))
        theirs = ask(query.format(**{each.name: f"'{tmp_path}/{each.name}/*.parquet'" for each in ENTITIES}))
        assert theirs == [tuple(row) for row in ours], query


async def test_values_and_types_are_preserved(database_url, warehouse, tmp_path) -> None:
    document = '{"text": "NUL \\u2400 and emoji 🙂", "number": 12345678901234567890.000000000000000000001}'
    moment = datetime(2026, 3, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    await add_run(warehouse, "r", moment, credits=Decimal("1234567890123456.1234567890123456789012"), input=document)
    await export_parquet(database_url, "cortex", tmp_path)
    table = pq.read_table(tmp_path / "runs" / "2026-03.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    wanted = {"id": "string", "created_at": "timestamp[us, tz=UTC]", "credits": "decimal128(38, 22)", "input": "string",
              "version": "int32", "retention_max_age_s": "int64", "duration_s": "double", "updated_on_day": "bool"}  # fmt: skip
    assert {name: types[name] for name in wanted} == wanted
    (row,) = table.to_pylist()
    assert row["created_at"] == moment
    assert row["credits"] == Decimal("1234567890123456.1234567890123456789012")
    assert row["input"] == await warehouse.fetchval("SELECT input::text FROM runs")
    assert row["status"] is None
    assert ask(f"SELECT tags FROM '{tmp_path}/workflows/all.parquet'") == []


async def test_decimals_that_do_not_fit_are_rounded_or_null_and_counted(database_url, warehouse, tmp_path) -> None:
    values = ["0.12345678901234567890125", "-1e-30", "1e16", "9999999999999999.99999999999999999999999", "7"]
    for place, value in enumerate(values):
        await add_run(warehouse, str(place), datetime(2026, 3, 1, tzinfo=UTC), credits=Decimal(value))
    assert (await export_parquet(database_url, "cortex", tmp_path))[tmp_path / "runs" / "2026-03.parquet"] == 4
    found = ask(f"SELECT credits FROM '{tmp_path}/runs/2026-03.parquet' ORDER BY id")
    assert found == [(Decimal("0.1234567890123456789012"),), (Decimal(0),), (None,), (None,), (Decimal(7),)]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["parts"]["2026-03"]["files"]["runs/2026-03.parquet"]["decimals_not_exact"] == 4


async def test_only_changed_months_are_rewritten(synced, warehouse, tmp_path) -> None:
    months = {"2026-09", "2026-10", "2026-11", "undated"}
    await add_run(warehouse, "undated", None)
    first = await export_parquet(synced, "cortex", tmp_path)
    assert {name for name in names(first) if name.startswith("runs/")} == {f"runs/{month}" for month in months}
    assert await export_parquet(synced, "cortex", tmp_path) == {}

    def files_of(month: str) -> set[str]:
        return {f"{table}/{month}" for table in MONTHLY}

    for statement, touched in [
        ("UPDATE runs SET last_synced_at = now() WHERE id = (SELECT min(id) FROM runs WHERE created_at < '2026-10-01Z')", ["2026-09"]),
        ("UPDATE runs SET gone_at = now() WHERE id = (SELECT min(id) FROM runs WHERE created_at > '2026-11-01Z')", ["2026-11"]),
        ("UPDATE runs SET gone_at = NULL WHERE gone_at IS NOT NULL AND created_at > '2026-11-01Z'", ["2026-11"]),
        ("DELETE FROM runs WHERE id = (SELECT min(id) FROM runs WHERE created_at >= '2026-10-01Z' AND created_at < '2026-11-01Z')", ["2026-10"]),
        ("UPDATE runs SET created_at = '2026-10-05Z' WHERE id = (SELECT min(id) FROM runs WHERE created_at < '2026-10-01Z')", ["2026-09", "2026-10"]),
        ("UPDATE runs SET created_at = NULL WHERE created_at >= '2026-11-01Z'", ["undated"]),
    ]:  # fmt: skip
        await warehouse.execute(statement)
        assert names(await export_parquet(synced, "cortex", tmp_path)) == set().union(*map(files_of, touched)), (
            statement
        )
    # The last statement left November without runs.
    assert not list(tmp_path.glob("*/2026-11.parquet"))
    assert ask(f"SELECT count(*) FROM '{tmp_path}/runs/*.parquet'") == [
        (await warehouse.fetchval("SELECT count(*) FROM runs"),)
    ]

    await warehouse.execute("UPDATE workflows SET name = 'another'")
    definitions = {"apps", "workflows", "workflow_versions", "workflow_steps", "workflow_step_links"}
    assert names(await export_parquet(synced, "cortex", tmp_path)) == {f"{table}/all" for table in definitions}


async def test_missing_and_truncated_files_are_rewritten(database_url, warehouse, tmp_path) -> None:
    await add_run(warehouse, "r", datetime(2026, 3, 1, tzinfo=UTC))
    await export_parquet(database_url, "cortex", tmp_path)
    (tmp_path / "run_steps" / "2026-03.parquet").unlink()
    assert len(await export_parquet(database_url, "cortex", tmp_path)) == len(MONTHLY)
    file = tmp_path / "runs" / "2026-03.parquet"
    file.write_bytes(file.read_bytes()[:-10])
    assert len(await export_parquet(database_url, "cortex", tmp_path)) == len(MONTHLY)
    assert await export_parquet(database_url, "cortex", tmp_path) == {}


async def test_new_column_rewrites_all_files(database_url, warehouse, tmp_path) -> None:
    await add_run(warehouse, "r", datetime(2026, 3, 1, tzinfo=UTC))
    everything = await export_parquet(database_url, "cortex", tmp_path)
    await warehouse.execute("ALTER TABLE runs ADD COLUMN mood interval")
    await warehouse.execute("UPDATE runs SET mood = '3 hours'")
    assert names(await export_parquet(database_url, "cortex", tmp_path)) == names(everything)
    assert ask(f"SELECT mood FROM '{tmp_path}/runs/*.parquet'") == [("03:00:00",)]


async def test_since_skips_older_months(database_url, warehouse, tmp_path) -> None:
    for month in (1, 2, 3):
        await add_run(warehouse, str(month), datetime(2026, month, 15, tzinfo=UTC))
    await export_parquet(database_url, "cortex", tmp_path, since=date(2026, 2, 20))
    assert sorted(each.stem for each in (tmp_path / "runs").iterdir()) == ["2026-02", "2026-03"]


async def test_december_9999(database_url, warehouse, tmp_path) -> None:
    await add_run(warehouse, "r", datetime(9999, 12, 31, tzinfo=UTC))
    await export_parquet(database_url, "cortex", tmp_path)
    assert ask(f"SELECT count(*) FROM '{tmp_path}/runs/9999-12.parquet'") == [(1,)]


async def test_many_rows_are_split_into_row_groups(database_url, warehouse, tmp_path) -> None:
    await warehouse.execute(
        "INSERT INTO runs (id, created_at) SELECT n::text, '2026-03-01Z' FROM generate_series(1, 60000) AS n"
    )
    await export_parquet(database_url, "cortex", tmp_path)
    file = pq.ParquetFile(tmp_path / "runs" / "2026-03.parquet")
    assert [file.metadata.row_group(place).num_rows for place in range(file.num_row_groups)] == [50_000, 10_000]


async def test_empty_warehouse(database_url, tmp_path) -> None:
    await export_parquet(database_url, "cortex", tmp_path / "new" / "folder")
    assert sorted(each.name for each in (tmp_path / "new" / "folder").iterdir() if each.is_dir()) == [
        "apps", "workflow_step_links", "workflow_steps", "workflow_versions", "workflows",
    ]  # fmt: skip


async def test_directory_is_locked_during_an_export(database_url, tmp_path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SettingsError, match="another export is writing to"):
            await export_parquet(database_url, "cortex", tmp_path)
    await export_parquet(database_url, "cortex", tmp_path)


async def test_failed_export_keeps_the_old_files_and_leaves_no_temporary_ones(
    database_url, warehouse, tmp_path
) -> None:
    await add_run(warehouse, "r", datetime(2026, 3, 1, tzinfo=UTC))
    await export_parquet(database_url, "cortex", tmp_path)
    before = (tmp_path / "runs" / "2026-03.parquet").read_bytes()
    await warehouse.execute("UPDATE runs SET last_synced_at = now()")
    # Put a directory in the place of the steps' file.
    (tmp_path / "run_steps" / "2026-03.parquet").unlink()
    (tmp_path / "run_steps" / "2026-03.parquet" / "in the way").mkdir(parents=True)
    with pytest.raises(SettingsError, match="cannot write"):
        await export_parquet(database_url, "cortex", tmp_path)
    assert not list(tmp_path.glob("*/.*"))
    assert pq.read_table(tmp_path / "runs" / "2026-03.parquet").num_rows == 1
    assert before
    (tmp_path / "run_steps" / "2026-03.parquet" / "in the way").rmdir()
    (tmp_path / "run_steps" / "2026-03.parquet").rmdir()
    assert len(await export_parquet(database_url, "cortex", tmp_path)) == len(MONTHLY)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}', '{"format": 1, "layout": {}, "parts": {"x": {}}}'])
async def test_foreign_manifest_is_refused(database_url, tmp_path, text) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(SettingsError, match=r"manifest\.json is not a manifest of an export"):
        await export_parquet(database_url, "cortex", tmp_path)


async def test_without_a_warehouse(empty_database_url, tmp_path) -> None:
    with pytest.raises(DatabaseError) as failure:
        await export_parquet(empty_database_url, "cortex", tmp_path)
    assert "cortex-etl migrate" in failure.value.hint


async def test_lost_connection_is_a_database_error(database_url, warehouse, tmp_path) -> None:
    # Take the lock on another connection: inside a transaction, pg_stat_activity is a cached snapshot.
    holder = await connect(database_url, "cortex")
    await holder.execute("BEGIN; LOCK TABLE runs")
    exporting = asyncio.create_task(export_parquet(database_url, "cortex", tmp_path))
    victim = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'cortex-etl export' AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(30):
        while not await warehouse.fetchval(victim):
            await asyncio.sleep(0.02)
        with pytest.raises(DatabaseError, match="lost the connection to the database during the export"):
            await exporting
    await holder.close()


async def test_export_command(command, database_url, warehouse) -> None:
    await add_run(warehouse, "r", datetime(2026, 3, 1, tzinfo=UTC))
    command.configure(f"database: {{url: '{database_url}'}}\n")
    ended = await command("export", "--format", "parquet", "out")
    assert (ended.code, ended.err) == (0, "Wrote 10 files.\n")
    assert "out/runs/2026-03.parquet" in ended.out.splitlines()
    again = await command("export", "out", "--since", "2026-01")
    assert (again.code, again.out, again.err) == (0, "", "Nothing has changed since the last export.\n")
    wrong = await command("export", "out", "--since", "2026-99")
    assert (wrong.code, "expected a date such as 2026-11-01 or 2026-11, got '2026-99'" in wrong.err) == (2, True)
    (command.folder / "file").touch()
    refused = await command("export", "file")
    assert refused.code == 2
    assert "cannot write" in refused.err


@pytest.mark.parametrize("path", ["../victim.parquet", "/etc/passwd", "runs/../../victim.parquet", "victim"])
def test_manifest_names_no_file_outside(tmp_path, path) -> None:
    """An export removes the files of months that have become empty."""
    part = {"fingerprint": "", "files": {path: {"rows": 1, "bytes": 1, "decimals_not_exact": 0}}}
    document = {"format": 1, "layout": {}, "parts": {"2026-01": part}}
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(SettingsError, match="is not a manifest of an export"):
        manifest.read(tmp_path, {})


def test_lock_of_an_export_is_no_link(tmp_path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".lock").symlink_to("victim")
    with pytest.raises(OSError, match="is a symbolic link"), manifest.locked(tmp_path):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_manifest_is_not_written_through_a_link(tmp_path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".manifest.json").symlink_to("victim")
    manifest.Manifest(tmp_path, {}).record("2026-01", manifest.Part("", {}))
    assert (tmp_path / "victim").read_text() == "precious"
