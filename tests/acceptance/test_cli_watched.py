"""Prometheus metrics, the alert webhook and the dead man's switch."""

from __future__ import annotations

import json
import stat
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families
from webhook_fixtures import receiving

from etl.db.refusals import DAMAGED
from etl.sandbox.faults import Status, any_request, lists_runs, page


def samples(path) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return the samples of a metrics file by name and label values, in the order of the label names."""
    text = path.read_text()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_match_the_warehouse(at_work, warehouse) -> None:
    command, running = at_work
    path = command.folder / "cortex.prom"
    workflow_id = next(iter(running.world.workflows))
    run_id = next(iter(running.world.runs[workflow_id]))
    running.world.raw[run_id] = b'{"id": "' + run_id.encode() + b'", "status": 7}'
    before = time.time()
    assert (await command("sync", "--quiet", "--metrics-file", "cortex.prom")).code == 0
    found = samples(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    rows = await warehouse.fetch("SELECT * FROM sync_health")
    assert len(rows) == len(running.world.workflows)
    for row in rows:
        stream = (row["app_id"], row["workflow_id"])
        assert found["cortex_etl_stream_api_runs", stream] == len(running.world.runs[row["workflow_id"]])
        assert found["cortex_etl_stream_warehouse_runs", stream] == row["warehouse_count"]
        assert found["cortex_etl_stream_quarantined_runs", stream] == row["quarantined"]
        assert found["cortex_etl_stream_last_success_timestamp_seconds", stream] == pytest.approx(
            row["last_succeeded_at"].timestamp()
        )
        assert found["cortex_etl_stream_failing", stream] == 0
        assert found["cortex_etl_stream_sync_runs", stream] == row["warehouse_count"]
        assert found["cortex_etl_stream_sync_requests", stream] >= 1
        assert found["cortex_etl_stream_lag_seconds", stream] > 0
    (spoilt_stream,) = [tuple(row)[:2] for row in rows if row["workflow_id"] == workflow_id]
    assert found["cortex_etl_stream_quarantined_runs", spoilt_stream] == 1
    assert found["cortex_etl_stream_sync_rejects", spoilt_stream] == 1
    assert found["cortex_etl_sync_exit_code", ("sync",)] == 0
    assert found["cortex_etl_last_success_timestamp_seconds", ()] >= before - 1
    ledger = await warehouse.fetchrow("SELECT requests, runs_inserted FROM etl_syncs")
    assert found["cortex_etl_sync_requests", ("sync",)] == ledger["requests"]
    assert found["cortex_etl_sync_runs", ("inserted", "sync")] == ledger["runs_inserted"]
    loaded = sum(found["cortex_etl_stream_sync_rows", tuple(row)[:2]] for row in rows)
    written = 0
    for table in ("runs", "run_steps", "run_step_calls", "run_usage_calls"):
        written += await warehouse.fetchval(f"SELECT count(*) FROM {table}")
    assert loaded >= written
    open_runs = sum(found["cortex_etl_stream_open_runs", tuple(row)[:2]] for row in rows)
    assert open_runs == await warehouse.fetchval("SELECT count(*) FROM open_runs")


async def test_stream_metrics_are_kept_while_the_database_is_unreachable(at_work) -> None:
    command, _ = at_work
    path = command.folder / "cortex.prom"
    with (command.folder / "config.yaml").open("a") as file:
        file.write("metrics: {file: cortex.prom}\n")
    assert (await command("sync", "--quiet")).code == 0
    before = samples(path)
    command.environment["CORTEX_ETL__DATABASE__URL"] = "postgresql://nobody@127.0.0.1:9/none"
    assert (await command("sync", "--quiet")).code == 4
    after = samples(path)
    assert after["cortex_etl_sync_exit_code", ("sync",)] == 4
    kept = {key for key in before if key[0].startswith("cortex_etl_stream_") or "last_success" in key[0]}
    assert kept
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}


async def test_metrics_count_the_work_done_before_the_key_was_refused(at_work, warehouse) -> None:
    command, running = at_work
    command.read_in_small_steps()
    running.faults.on(page(4), Status(401))
    assert (await command("sync", "--quiet", "--metrics-file", "cortex.prom")).code == 3
    found = samples(command.folder / "cortex.prom")
    ledger = await warehouse.fetchrow("SELECT requests, pages FROM etl_syncs")
    assert found["cortex_etl_sync_requests", ("sync",)] == ledger["requests"]
    assert found["cortex_etl_sync_pages", ("sync",)] == ledger["pages"] > 0


async def test_unwritable_metrics_file_does_not_fail_the_sync(at_work) -> None:
    command, _ = at_work
    ended = await command("sync", "--log-format", "json", "--metrics-file", "no/such/folder/cortex.prom")
    assert ended.code == 0
    (line,) = [json.loads(each) for each in ended.err.splitlines() if "metrics.failed" in each]
    assert line["error"] == "No such file or directory"
    assert [each.name for each in command.folder.iterdir() if "prom" in each.name] == []


async def test_damaged_schema_is_an_error_although_the_data_is_committed(at_work, warehouse) -> None:
    command, _ = at_work
    words = ("sync", "--log-format", "json", "--metrics-file", "cortex.prom")
    assert (await command(*words)).code == 0
    await warehouse.execute("DROP VIEW sync_health CASCADE")
    ended = await command(*words)
    assert ended.code == 0
    (line,) = [json.loads(each) for each in ended.err.splitlines() if "telemetry.failed" in each]
    damage = 'the schema of the warehouse is damaged: relation "sync_health" does not exist'
    assert line["error"] == f"not all metrics, alerts and pings of this sync could be made: {damage}"
    assert (line["level"], line["hint"]) == ("error", DAMAGED)


async def test_webhook_is_called_only_when_the_state_changes(at_work, receiver) -> None:
    command, running = at_work
    with (command.folder / "config.yaml").open("a") as file:
        file.write(f"alerts: {{on_state_change: '{receiver.url}/hook/T0-secret'}}\n")
    assert (await command("sync", "--quiet")).code == 0
    assert receiver.taken() == []  # it never failed
    workflow_id = next(iter(running.world.workflows))
    running.faults.on(
        lambda request: workflow_id in request.path and lists_runs(request), Status(403, message="not yours")
    )
    assert (await command("sync", "--quiet")).code == 1
    ((path, body),) = receiver.taken()
    sent = json.loads(body)
    assert path == "/hook/T0-secret"
    assert (sent["state"], sent["was"], sent["exit_code"], sent["unhealthy_streams"]) == ("bad", "good", 1, 1)
    assert sent["streams"][0]["workflow_id"] == workflow_id
    assert "not yours" in sent["text"]
    assert running.key not in body
    assert (await command("sync", "--quiet")).code == 1
    assert receiver.taken() == []  # still failing
    running.faults.clear()
    assert (await command("sync", "--quiet", "--workflow", workflow_id)).code == 0
    assert receiver.taken() == []  # another scope
    assert (await command("sync", "--quiet")).code == 0
    ((_, body),) = receiver.taken()
    assert (json.loads(body)["event"], json.loads(body)["was"]) == ("sync.good", "bad")
    assert (await command("sync", "--quiet")).code == 0
    assert receiver.taken() == []


async def test_failed_alert_is_sent_again_and_does_not_fail_the_sync(at_work, receiver) -> None:
    command, running = at_work
    with (command.folder / "config.yaml").open("a") as file:
        file.write(
            f"alerts: {{on_state_change: '{receiver.url}/T0-secret', ping_url: 'http://127.0.0.1:9/T1-secret'}}\n"
        )
    running.faults.on(any_request, Status(401, message="no such key"))
    receiver.status = 500
    ended = await command("sync")
    assert ended.code == 3
    assert len(receiver.taken()) == 2  # tried twice
    assert "alert.failed" in ended.err
    assert "-secret" not in ended.err + ended.out
    receiver.status = 200
    assert (await command("sync")).code == 3
    assert len(receiver.taken()) == 1
    assert (await command("sync")).code == 3
    assert receiver.taken() == []


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
async def test_redirect_is_a_failed_call_and_is_not_followed(at_work, receiver, status) -> None:
    """A moved webhook would answer the redirected GET with 200, and the alert would be lost."""
    command, running = at_work
    async with receiving() as other:
        receiver.status, receiver.location = status, f"{other.url}/elsewhere"
        with (command.folder / "config.yaml").open("a") as file:
            file.write(f"alerts: {{on_state_change: '{receiver.url}/hook', ping_url: '{receiver.url}/ping'}}\n")
        running.faults.on(any_request, Status(401, message="no such key"))
        ended = await command("sync", "--log-format", "json")
        lines = [json.loads(line) for line in ended.err.splitlines()]
        assert [line["error"].partition(",")[0] for line in lines if line["event"] == "alert.failed"] == [
            f"status {status}"
        ] * 2
        assert [path for path, _ in receiver.taken()] == ["/ping/fail", "/hook"]  # once each
        receiver.status = 200
        await command("sync")
        assert [path for path, _ in receiver.taken()] == ["/ping/fail", "/hook"]
        assert other.taken() == []


async def test_unreachable_database_is_alerted_once(at_work, receiver) -> None:
    command, _ = at_work
    with (command.folder / "config.yaml").open("a") as file:
        file.write(f"alerts: {{on_state_change: '{receiver.url}/'}}\n")
    assert (await command("sync", "--quiet")).code == 0
    command.environment["CORTEX_ETL__DATABASE__URL"] = "postgresql://nobody@127.0.0.1:9/none"
    for times in (1, 0):
        assert (await command("sync", "--quiet")).code == 4
        assert len(receiver.taken()) == times
    del command.environment["CORTEX_ETL__DATABASE__URL"]
    for times in (1, 0):
        assert (await command("sync", "--quiet")).code == 0
        assert len(receiver.taken()) == times


async def test_dead_mans_switch_is_pinged(at_work, receiver, database_url) -> None:
    command, running = at_work
    with (command.folder / "config.yaml").open("a") as file:
        file.write(f"alerts: {{ping_url: '{receiver.url}/ping/uuid?x=1'}}\n")
    assert (await command("sync", "--quiet")).code == 0
    assert [path for path, _ in receiver.taken()] == ["/ping/uuid/start", "/ping/uuid"]
    assert (await command("sync", "--quiet", "--dry-run")).code == 0
    assert receiver.taken() == []
    running.faults.on(any_request, Status(401, message="no such key"))
    assert (await command("sync", "--quiet")).code == 3
    ((path, body),) = receiver.taken()
    assert path == "/ping/uuid/fail"
    assert "no such key" in body


async def test_sync_that_finds_every_stream_locked_sends_no_alert(at_work, receiver, warehouse) -> None:
    command, _ = at_work
    with (command.folder / "config.yaml").open("a") as file:
        file.write(f"alerts: {{ping_url: '{receiver.url}/ping', on_state_change: '{receiver.url}/hook'}}\n")
        file.write("metrics: {file: cortex.prom}\n")
    assert (await command("sync", "--quiet")).code == 0
    written = (command.folder / "cortex.prom").read_text()
    receiver.taken()
    for row in await warehouse.fetch("SELECT app_id, workflow_id FROM etl_streams"):
        name = "\n".join(("cortex", "stream", *row))
        await warehouse.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", name)
    ended = await command("sync", "--quiet")
    held = "sync skipped: other invocations hold 4 of 4 streams\n"
    assert (ended.code, ended.out, ended.err) == (75, "", held)
    assert receiver.taken() == []
    assert (command.folder / "cortex.prom").read_text() == written
    assert await warehouse.fetchval("SELECT status FROM etl_syncs ORDER BY id DESC LIMIT 1") == "skipped"


async def test_held_streams_are_an_alert_once_one_is_late(at_work, receiver, warehouse) -> None:
    command, _ = at_work
    with (command.folder / "config.yaml").open("a") as file:
        file.write(f"alerts: {{on_state_change: '{receiver.url}/hook'}}\n")
    assert (await command("sync", "--quiet")).code == 0
    for row in await warehouse.fetch("SELECT app_id, workflow_id FROM etl_streams"):
        name = "\n".join(("cortex", "stream", *row))
        await warehouse.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", name)
    assert (await command("sync", "--quiet")).code == 75
    assert receiver.taken() == []
    await warehouse.execute("UPDATE etl_streams SET last_succeeded_at = now() - interval '49 hours'")
    assert (await command("sync", "--quiet")).code == 75
    ((_, body),) = receiver.taken()
    told = json.loads(body)
    assert (told["state"], told["exit_code"]) == ("bad", 75)
    assert "4 streams are late" in told["text"]


async def test_held_stream_does_not_change_the_time_of_success(at_work, receiver, warehouse) -> None:
    """One of four streams is held: the others are synced, exit code 75, one line even with --quiet."""
    command, running = at_work
    with (command.folder / "config.yaml").open("a") as file:
        file.write(f"alerts: {{ping_url: '{receiver.url}/ping', on_state_change: '{receiver.url}/hook'}}\n")
        file.write("metrics: {file: cortex.prom}\n")
    assert (await command("sync", "--quiet")).code == 0
    before = samples(command.folder / "cortex.prom")
    receiver.taken()
    for workflow_id in running.world.workflows:
        running.world.create_run(workflow_id)
    held = tuple(await warehouse.fetchrow("SELECT app_id, workflow_id FROM etl_streams ORDER BY 1, 2 LIMIT 1"))
    name = "\n".join(("cortex", "stream", *held))
    await warehouse.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", name)
    ended = await command("sync", "--quiet")
    line = "sync partial: other invocations hold 1 of 4 streams\n"
    assert (ended.code, ended.out, ended.err) == (75, "", line)
    assert [path for path, _ in receiver.taken()] == ["/ping/start"], "neither a success nor a failure"
    after = samples(command.folder / "cortex.prom")
    assert after["cortex_etl_sync_exit_code", ("sync",)] == 75
    moved = {key for key in before if "last_success" in key[0] and after[key] != before[key]}
    streams = await warehouse.fetch("SELECT app_id, workflow_id FROM etl_streams")
    others = {tuple(row) for row in streams} - {held}
    assert moved == {("cortex_etl_stream_last_success_timestamp_seconds", stream) for stream in others}
    row = await warehouse.fetchrow("SELECT status, runs_inserted, error FROM etl_syncs ORDER BY id DESC LIMIT 1")
    assert tuple(row) == ("partial", 3, "other invocations hold 1 of 4 streams")
