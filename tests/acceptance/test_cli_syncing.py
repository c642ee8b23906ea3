"""Output and exit codes of `sync`, `backfill`, `reconcile`, `status`, `plan` and `rejects`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from datetime import datetime
from urllib.parse import urlsplit

import asyncpg
import pytest
from command_fixtures import ended as end_of

from etl.app import SyncSummary
from etl.app.summary import StreamSummary
from etl.cli.syncing import _failures
from etl.db.statements import statements
from etl.sandbox.faults import Status, lists_runs, page


async def count(command, query: str) -> int:
    return int((await command("sql", query)).out.split()[1])


def listed(world) -> int:
    return sum(len(runs) for runs in world.runs.values())


async def test_sync_loads_everything_then_only_new_runs(at_work) -> None:
    command, running = at_work
    first = await command("sync", "--json", "--log-format", "json")
    assert first.code == 0, first.err
    assert first.json["status"] == "succeeded"
    assert first.json["runs_inserted"] == listed(running.world) == await count(command, "SELECT count(*) FROM runs")
    lines = [json.loads(line) for line in first.err.splitlines()]
    assert lines[-1]["event"] == "sync.finished"
    assert lines[-1]["runs_inserted"] == listed(running.world)
    assert {"sync.started", "stream.finished"} <= {line["event"] for line in lines}
    assert running.key not in first.err + first.out
    running.world.create_run(next(iter(running.world.workflows)))
    second = await command("sync", "--json")
    assert (second.json["runs_inserted"], second.json["runs_updated"]) == (1, 0)


async def test_summary_table_on_a_terminal(at_work) -> None:
    command, running = at_work
    ended = await command("sync")
    for workflow_id in running.world.workflows:
        assert workflow_id in ended.out
    runs, pages = listed(running.world), sum(lists_runs_of(each.path) for each in running.requests)
    line = (
        f"sync succeeded: {runs} new, 0 changed; {len(running.requests)} requests for {pages} pages of {runs} runs in "
    )
    assert ended.out.splitlines()[-1].startswith(line)


async def test_nouns_are_singular_for_one(at_work) -> None:
    command, running = at_work
    workflow_id, runs = next(iter(running.world.runs.items()))
    app_id = running.world.workflows[workflow_id]["app"]["id"]
    path = command.folder / "config.yaml"
    path.write_text(path.read_text().partition("apps:")[0] + f"apps: [{{id: {app_id}, workflows: [{workflow_id}]}}]\n")
    for run_id in list(runs)[1:]:
        running.world.delete_run(run_id)
    planned = await command("plan")
    assert "about 1 request for 1 run (" in planned.out
    ended = await command("sync")
    assert "; 1 request for 1 page of 1 run in " in ended.out
    assert (await command("status")).out.splitlines()[-1].endswith(", 1 request")


async def test_quiet_sync_is_silent(at_work) -> None:
    command, _ = at_work
    for arguments in (("sync",), ("sync",), ("reconcile",), ("migrate",)):
        ended = await command(*arguments, "--quiet")
        assert (ended.code, ended.out, ended.err) == (0, "", ""), arguments


async def test_quiet_sync_reports_problems(at_work) -> None:
    command, running = at_work
    workflow_id = next(iter(running.world.workflows))
    running.faults.on(
        lambda request: workflow_id in request.path and lists_runs(request), Status(403, message="not yours")
    )
    ended = await command("sync", "--quiet")
    assert ended.code == 1
    assert workflow_id in ended.err
    assert "not yours" in ended.err
    ended = await command("sync", "--quiet", "--json")
    assert (ended.code, ended.json["exit_code"]) == (1, 1)
    assert workflow_id in ended.err


async def test_dry_run_writes_only_its_requests_in_the_budget(at_work, warehouse) -> None:
    command, running = at_work
    ended = await command("sync", "--dry-run", "--json")
    assert (ended.code, ended.json["id"], ended.json["started_at"]) == (0, None, None)
    assert ended.json["runs_seen"] == listed(running.world)
    for table in ("runs", "workflows", "etl_syncs", "etl_streams"):
        assert await warehouse.fetchval(f"SELECT count(*) FROM {table}") == 0
    assert await warehouse.fetchval("SELECT count(*) FROM etl_rate_budgets") == 1


DRY_RUNS = [["sync"], ["reconcile"], ["backfill"], ["backfill", "--since", "2026-10-10", "--until", "2026-10-20"]]


async def test_dry_run_creates_no_schema(at_work, empty_database_url) -> None:
    command, running = at_work
    command.environment["CORTEX_ETL__DATABASE__URL"] = empty_database_url
    for words in DRY_RUNS:
        ended = await command(*words, "--dry-run", "--json")
        assert ended.code == 0, ended.err
        if len(words) == 1:
            assert ended.json["runs_seen"] == ended.json["runs_inserted"] == listed(running.world)
        assert ended.json["runs_inserted"] > 0
    assert (await command("plan", "--json")).json["runs"] == listed(running.world)
    connection = await asyncpg.connect(empty_database_url)
    try:
        assert await connection.fetchval("SELECT to_regnamespace('cortex')") is None
    finally:
        await connection.close()


async def test_dry_run_creates_no_embedded_server(at_work) -> None:
    command, running = at_work
    command.environment["CORTEX_ETL__DATABASE__URL"] = "null"
    for words in DRY_RUNS:
        ended = await command(*words, "--dry-run", "--json")
        assert ended.code == 0, ended.err
        assert ended.json["runs_inserted"] > 0
    assert (await command("plan", "--json")).json["runs"] == listed(running.world)
    assert not (command.folder / ".cortex-etl").exists()


async def test_dry_run_applies_no_migrations(at_work, warehouse) -> None:
    command, _ = at_work
    last = await warehouse.fetchval("DELETE FROM etl_migrations WHERE name ~ 'views' RETURNING name")
    for words in (*DRY_RUNS, ["plan"]):
        ended = await command(*words, *(["--dry-run"] if words != ["plan"] else []))
        assert (ended.code, f"migrations are pending: {last}" in ended.err) == (4, True)
    assert await warehouse.fetchval("SELECT count(*) FROM etl_migrations WHERE name = $1", last) == 0


async def test_dry_run_waits_for_another_that_migrates(at_work, warehouse) -> None:
    command, _ = at_work
    await warehouse.execute(statements("migrate")["lock_migrations"], "cortex")
    await warehouse.execute(
        "CREATE TEMPORARY TABLE later AS TABLE etl_migrations; DELETE FROM etl_migrations WHERE name ~ 'views'"
    )
    asking = asyncio.create_task(command("plan"))
    while not await warehouse.fetchval(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
    ):
        await asyncio.sleep(0.02)
    await warehouse.execute("INSERT INTO etl_migrations TABLE later ON CONFLICT DO NOTHING")
    await warehouse.execute(statements("migrate")["unlock_migrations"], "cortex")
    assert (await asking).code == 0


async def test_sync_of_one_app_or_workflow(at_work) -> None:
    command, running = at_work
    workflow_id = next(iter(running.world.workflows))
    assert (await command("sync", "--workflow", workflow_id, "--quiet")).code == 0
    assert await count(command, "SELECT count(*) FROM runs") == len(running.world.runs[workflow_id])
    wrong = await command("sync", "--app", "nobody")
    assert (wrong.code, wrong.out) == (2, "")
    assert "nobody" in wrong.err


async def test_backfill_between_two_dates(at_work) -> None:
    command, running = at_work
    ended = await command("backfill", "--since", "2026-10-10", "--until", "2026-10-20T00:00:00Z", "--json")
    assert ended.code == 0, ended.err
    inside = [
        run
        for runs in running.world.runs.values()
        for run in runs.values()
        if "2026-10-10" <= run["created_at"] < "2026-10-20"
    ]
    assert ended.json["runs_inserted"] == len(inside) > 0


@pytest.mark.parametrize("arguments", [("--since", "yesterday"), ("--since", "2026-11-02", "--until", "2026-11-01")])
async def test_invalid_dates_are_refused(at_work, arguments) -> None:
    command, running = at_work
    ended = await command("backfill", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert not running.requests


async def test_refused_key_exits_with_3(at_work) -> None:
    command, _ = at_work
    command.environment["CORTEX_API_KEY"] = "sk-expired"
    ended = await command("sync")
    assert (ended.code, ended.out) == (3, "")
    assert ended.err.count("error:") == 1
    assert "sk-expired" not in ended.err


async def test_json_prints_one_object_if_nothing_could_be_done(at_work) -> None:
    command, _ = at_work
    command.environment["CORTEX_API_KEY"] = "sk-expired"
    ended = await command("sync", "--json", "--log-format", "json")
    assert (ended.code, ended.json["exit_code"], ended.json["status"]) == (3, 3, "failed")
    assert ended.json["error"]
    lines = [json.loads(line) for line in ended.err.splitlines()]
    assert [line["exit_code"] for line in lines if line["event"] == "sync.finished"] == [3]
    path = command.folder / "config.yaml"
    path.write_text(path.read_text().replace("apps:", "  url: twice\napps:"))
    ended = await command("reconcile", "--json")
    assert (ended.code, ended.json["exit_code"], ended.json["mode"]) == (2, 2, "reconcile")


@pytest.mark.parametrize(
    "arguments",
    [
        ("backfill", "--since", "2026-13-01"),
        ("backfill", "--since", "2026-11-02", "--until", "2026-11-01"),
        ("sync", "--every", "soon"),
        ("sync", "--join", "nightly", "--dry-run"),
        ("reconcile", "--workflows", "wf_1"),
    ],
)
async def test_json_prints_one_object_if_the_command_line_is_invalid(at_work, arguments) -> None:
    command, running = at_work
    ended = await command(*arguments, "--json", "--log-format", "json")
    assert (ended.code, ended.json["exit_code"], ended.json["status"]) == (2, 2, "failed")
    (failed,) = (json.loads(line) for line in ended.err.splitlines())
    assert (ended.json["mode"], ended.json["error"]) == (arguments[0], failed["error"])
    assert not running.requests


async def test_json_reports_the_work_done_before_the_key_was_refused(at_work, warehouse) -> None:
    command, running = at_work
    command.read_in_small_steps()
    running.faults.on(page(4), Status(401, message="expired"))
    ended = await command("sync", "--json")
    assert (ended.code, ended.json["exit_code"], ended.json["status"]) == (3, 3, "failed")
    assert "expired" in ended.json["error"]
    assert ended.json["hint"]
    assert ended.json["streams"]
    assert 0 < ended.json["pages"] < ended.json["requests"]
    assert ended.json["requests"] == len(running.requests)
    await is_in_the_ledger(ended.json, warehouse)


async def is_in_the_ledger(summary, warehouse) -> None:
    """Check that the counts of the summary equal those in `etl_syncs`, and are not all 0."""
    row = dict(await warehouse.fetchrow("SELECT * FROM etl_syncs ORDER BY id DESC LIMIT 1"))
    assert summary["id"] == row["id"]
    names = ("requests", "retries", "pages", "runs_seen", "runs_inserted", "runs_updated", "runs_unchanged", "rejects")
    assert {name: summary[name] for name in names} == {name: row[name] for name in names}
    assert summary["runs_seen"] > 0


@pytest.mark.parametrize("mode", ["sync", "backfill", "reconcile"])
async def test_json_prints_one_object_if_the_database_is_read_only(at_work, warehouse, mode) -> None:
    command, _ = at_work
    await take_no_writes(warehouse)
    ended = await command(mode, "--json")
    assert (ended.code, ended.json["exit_code"], ended.json["status"]) == (4, 4, "failed")
    assert ended.json["mode"] == mode
    assert "read-only" in ended.json["error"]
    assert "default_transaction_read_only" in ended.json["hint"]


async def test_json_prints_one_object_if_the_database_becomes_read_only(at_work, warehouse) -> None:
    command, running = at_work
    command.read_in_small_steps()

    async def cease(path: str, query: dict[str, str], number: int) -> None:
        if lists_runs_of(path) and query.get("page") == "4":
            await take_no_writes(warehouse)

    running.faults.before_response = cease
    ended = await command("sync", "--json")
    assert (ended.code, ended.json["exit_code"], ended.json["status"]) == (4, 4, "failed")
    assert "read-only" in ended.json["error"]
    assert ended.json["id"] == await warehouse.fetchval("SELECT max(id) FROM etl_syncs")
    assert ended.json["pages"] >= 3


async def test_refused_key_is_reported_even_if_the_summary_cannot_be_stored(at_work, warehouse) -> None:
    command, running = at_work
    blocking, asked = warehouse.transaction(), []

    async def refuse(path: str, query: dict[str, str], number: int) -> None:
        if lists_runs_of(path):
            asked.append(number)
            if len(asked) == 1:
                await blocking.start()
                await warehouse.execute("LOCK TABLE etl_syncs")
                running.key = "sk-another"  # the last statement, because the refusal closes this connection

    running.faults.before_response = refuse
    ended = await command("sync", "--json")
    await blocking.rollback()
    assert (ended.code, ended.json["exit_code"], ended.json["status"]) == (3, 3, "failed")


async def take_no_writes(warehouse) -> None:
    """Make the database read-only for new connections, and terminate all others."""
    name = await warehouse.fetchval("SELECT current_database()")
    await warehouse.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await warehouse.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()", name
    )


async def test_problems_are_json_log_lines(at_work) -> None:
    command, running = at_work
    running.faults.on(lists_runs, Status(403, message="not yours"))
    ended = await command("sync", "--quiet", "--log-format", "json")
    assert ended.code == 1
    assert "not yours" in [json.loads(line) for line in ended.err.splitlines()][-1]["error"]


async def test_key_in_stored_runs_is_masked_in_all_output(at_work, warehouse) -> None:
    command, running = at_work
    assert (await command("sync", "--quiet")).code == 0
    await warehouse.execute("UPDATE workflows SET name = name || $1", running.key)
    await warehouse.execute("UPDATE runs SET error = $1 WHERE status = 'FAILED'", f"refused: Bearer {running.key}")
    for arguments in (("status", "--explain"), ("status", "--json"), ("report", "--output", "page.html")):
        ended = await command(*arguments)
        assert ended.code == 0
        assert running.key not in ended.out + ended.err
    page = (command.folder / "page.html").read_text()
    assert "refused: Bearer ***" in page
    assert running.key not in page


async def test_apps_of_several_accounts(command, sandbox, database_url) -> None:
    """Each app is requested with its own key; with another key, the API answers 404."""
    running = await sandbox(app_keys={"app_001": "sk-one", "app_002": "sk-two"})
    (command.folder / "two").write_text("sk-two\n")
    command.configure(
        f"api: {{base_url: '{running.url}'}}\ndatabase: {{url: '{database_url}'}}\n"
        "apps:\n- {id: app_001, key: '${ONE}'}\n- {id: app_002, key_file: two}\n"
    )
    command.environment["ONE"] = "sk-one"
    assert (await command("sync", "--quiet")).code == 0
    assert await count(command, "SELECT count(*) FROM runs") == listed(running.world)
    budgets = await command("sql", "SELECT host FROM etl_rate_budgets")  # the rate limit is per address, not per key
    assert budgets.out == f"host\n{urlsplit(running.url).netloc}\n"


async def test_unreachable_api_exits_with_1(at_work) -> None:
    command, _ = at_work
    path = command.folder / "config.yaml"
    database = path.read_text().partition("database:")[2].partition("apps:")[0]
    path.write_text(f"api:\n  base_url: http://127.0.0.1:9\ndatabase:{database}apps: [{{id: a}}]\n")
    ended = await command("sync", "--quiet")
    assert ended.code == 1
    assert "127.0.0.1:9" in ended.err


@pytest.mark.parametrize(
    ("sign", "ctrl_c"),
    [
        (signal.SIGTERM, signal.default_int_handler),
        (signal.SIGINT, signal.default_int_handler),
        pytest.param(signal.SIGTERM, signal.SIG_IGN, id="SIGTERM to what a script started in the background"),
    ],
)
async def test_signal_ends_the_sync_gracefully(at_work, sign, ctrl_c) -> None:
    command, running = at_work
    running.faults.latency_s = 0.3
    command.read_in_small_steps()
    before = signal.signal(signal.SIGINT, ctrl_c)  # inherited
    process = await command.start("backfill", "--json")
    signal.signal(signal.SIGINT, before)
    while not any(lists_runs_of(each.path) for each in running.requests):
        await asyncio.sleep(0.02)
    await asyncio.sleep(1)
    process.send_signal(sign)
    ended = await asyncio.wait_for(end_of(process), 10)
    assert (ended.code, ended.json["exit_code"], ended.json["status"]) == (130, 130, "interrupted")
    assert {each["workflow_id"] for each in ended.json["streams"]} == set(running.world.workflows)
    assert {each["status"] for each in ended.json["streams"]} <= {"interrupted", "succeeded"}
    statuses = await command("sql", "SELECT status FROM etl_syncs")
    assert statuses.out == "status\ninterrupted\n"
    running.faults.clear()
    assert (await command("sync", "--quiet")).code == 0
    assert await count(command, "SELECT count(*) FROM runs") == listed(running.world)


@pytest.mark.parametrize("name", ["sync", "plan"])
async def test_signal_ends_a_pause_of_an_hour(at_work, warehouse, name) -> None:
    command, running = at_work
    running.faults.on(lists_runs, Status(429, retry_after=3600))
    process = await command.start(name)
    paused = "SELECT paused_until FROM etl_rate_budgets WHERE paused_until > now() + interval '50 minutes'"
    async with asyncio.timeout(30):
        while await warehouse.fetchval(paused) is None:
            await asyncio.sleep(0.05)
    process.send_signal(signal.SIGINT)
    ended = await asyncio.wait_for(end_of(process), 10)
    assert (ended.code, "committed data is kept" in ended.err) == (130, name == "sync"), ended


async def test_summary_is_printed_after_a_signal_before_the_work(command) -> None:
    os.mkfifo(command.folder / "key")  # a file that takes long to read
    command.configure("api: {key_file: key}\napps: [{id: a}]\n")
    process = await command.start("sync", "--json")
    writer = None
    while writer is None:
        await asyncio.sleep(0.02)
        with suppress(OSError):
            writer = os.open(command.folder / "key", os.O_WRONLY | os.O_NONBLOCK)
    await asyncio.sleep(0.3)  # Python handles a signal that comes just before it blocks only afterwards
    process.terminate()
    ended = await asyncio.wait_for(end_of(process), 10)
    os.close(writer)
    assert (ended.code, ended.json["exit_code"], ended.json["status"]) == (130, 130, "interrupted")


def lists_runs_of(path: str) -> bool:
    return path.endswith("/runs")


async def test_plan_names_the_requests_of_a_backfill(at_work) -> None:
    command, running = at_work
    for _ in range(700):
        running.world.create_run(next(iter(running.world.workflows)))
    command.environment["CORTEX_ETL__API__PAGE_SIZE"] = "100"
    planned, ended = await command("plan", "backfill", "--json"), await command("backfill", "--json")
    assert planned.json["requests"] == ended.json["requests"]


async def test_status_and_plan(at_work) -> None:
    command, running = at_work
    before = await command("status")
    assert (before.code, before.out) == (1, "no stream has been read yet; run: cortex-etl sync\n")
    planned = await command("plan", "--json")
    assert planned.json["runs"] == listed(running.world)
    requests = planned.json["requests"]
    assert planned.json["minutes"] == round(requests / 500, 2)
    assert "), less than a minute at 500 requests per minute" in (await command("plan", "backfill")).out
    await command("sync", "--quiet")
    tables = ("runs", "run_steps", "run_step_calls", "run_usage_calls")
    rows = await count(command, "SELECT " + " + ".join(f"(SELECT count(*) FROM {each})" for each in tables))
    assert 0.7 * rows < planned.json["rows"] < 1.4 * rows
    after = (await command("status", "--json")).json
    assert {each["workflow_id"] for each in after["streams"]} == set(running.world.workflows)
    assert all(each["state"] == "complete" for each in after["streams"])
    shown = await command("status", "--explain")
    assert shown.out.count("complete") == len(running.world.workflows)
    assert "last: sync succeeded" in shown.out


async def test_json_of_sync_and_status(at_work, warehouse) -> None:
    command, _ = at_work
    synced = (await command("sync", "--json")).json
    (row,) = await warehouse.fetch("SELECT * FROM sync_history")
    assert list(await warehouse.fetchrow("TABLE etl_syncs")) == list(row), "the same columns"
    assert list(synced) == [*row.keys(), "exit_code", "seconds", "hint", "streams"]
    for name in ("started_at", "ended_at"):
        synced[name] = datetime.fromisoformat(synced[name])
    assert {name: synced[name] for name in row.keys()} == dict(row)  # noqa: SIM118 - a record
    assert (synced["status"], synced["error"], synced["hint"]) == ("succeeded", None, None)
    keys = ["app_id", "workflow_id", "status", "api_count", "warehouse_count", "error", "hint"]
    assert all(list(each) == keys for each in synced["streams"])
    status = (await command("status", "--json")).json
    assert list(status) == ["streams", "last_sync"]
    columns = await warehouse.fetchrow("SELECT * FROM sync_health LIMIT 1")
    assert all(list(each) == list(columns.keys()) for each in status["streams"])
    assert status["last_sync"]["id"] == synced["id"]
    assert list(status["last_sync"]) == list(row.keys())


async def test_status_exits_with_1_unless_every_stream_is_healthy(at_work, warehouse) -> None:
    command, _ = at_work
    await command("sync", "--quiet")
    assert (await command("status")).code == 0
    workflow_id = await warehouse.fetchval("UPDATE etl_streams SET requested = false RETURNING workflow_id")
    assert (await command("status")).code == 0
    await warehouse.execute(
        "UPDATE etl_streams SET requested = true, backfill_done = false WHERE workflow_id = $1", workflow_id
    )
    assert (await command("status")).code == 1
    app_id = await warehouse.fetchval("SELECT app_id FROM etl_streams WHERE workflow_id = $1", workflow_id)
    name = f"cortex\nstream\n{app_id}\n{workflow_id}"
    await warehouse.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", name)
    ended = await command("status")
    assert (ended.code, "held by another command" in ended.out) == (0, True)


async def test_row_of_a_dead_process_is_shown_as_interrupted(at_work, warehouse) -> None:
    command, _ = at_work
    await command("sync", "--quiet")
    await warehouse.execute("INSERT INTO etl_syncs (mode, host, pid) VALUES ('backfill', 'elsewhere', 4711)")
    assert (await command("status", "--json")).json["last_sync"]["status"] == "interrupted"
    assert "last: backfill interrupted" in (await command("status")).out


async def test_rejects_commands(at_work, warehouse) -> None:
    command, running = at_work
    workflow_id, runs = next((key, runs) for key, runs in running.world.runs.items() if runs)
    run_id = next(iter(runs))
    running.world.raw[run_id] = b'{"id": "' + run_id.encode() + b'", "status": 7}'
    synced = await command("sync", "--json")
    assert (synced.code, synced.json["rejects"]) == (0, 1)
    (item,) = (await command("rejects", "list", "--json")).json
    assert (item["workflow_id"], item["run_id"]) == (workflow_id, run_id)
    shown = (await command("rejects", "list")).out
    assert run_id in shown
    assert "In quarantine: 1 invalid_field\n" in shown
    unknown = await command("rejects", "retry", "999")
    assert (unknown.code, "not in quarantine: 999" in unknown.err) == (2, True)
    still = await command("rejects", "retry")
    assert (still.code, "1 still rejected" in still.out) == (1, True)
    name = "\n".join(("cortex", "stream", item["app_id"], workflow_id))
    await warehouse.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", name)
    held = await command("rejects", "retry")
    assert (held.code, "1 held by another invocation" in held.out) == (75, True)
    await warehouse.execute("SELECT pg_advisory_unlock_all()")
    del running.world.raw[run_id]
    retried = await command("rejects", "retry", "--json")
    assert (retried.code, retried.json["loaded"]) == (0, 1)
    assert "empty" in (await command("rejects", "list")).out
    assert "In quarantine: 0\n" in (await command("rejects", "list", "--all")).out
    assert await count(command, f"SELECT count(*) FROM runs WHERE id = '{run_id}'") == 1


def test_stream_without_an_error_has_no_colon_at_the_end() -> None:
    summary = SyncSummary("sync", error="interrupted; committed data is kept")
    summary.streams.append(StreamSummary("app", "wf_x", "interrupted", None, None, "", ""))
    assert _failures(summary) == ["app/wf_x: interrupted"]
