"""`doctor`: leftovers of earlier syncs, and unsuitable databases."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from time import monotonic
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from postgres_fixtures import with_database
from postgres_proxies import far_away, gated

from etl.config import DatabaseSettings, Settings
from etl.db.budget import Budget
from etl.doctor import examine
from etl.doctor.database import _locks
from etl.sandbox.faults import Headers, Status, any_request, lists_runs


async def findings(command) -> dict[str, list[dict[str, str]]]:
    by_name: dict[str, list[dict[str, str]]] = {}
    for each in (await command("doctor", "--json")).json:
        by_name.setdefault(each["name"], []).append(each)
    return by_name


@pytest.fixture
async def role(warehouse):
    """A role that may create a schema."""
    name = f"odd_{uuid4().hex[:8]}"
    await warehouse.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'hunter2'")
    database = await warehouse.fetchval("SELECT current_database()")
    await warehouse.execute(f"GRANT CREATE ON DATABASE {database} TO {name}")
    yield name
    await warehouse.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


async def test_streams_that_need_attention(at_work, warehouse) -> None:
    command, _ = at_work
    assert (await command("sync", "--quiet")).code == 0
    assert (await findings(command))["streams"][0]["state"] == "ok"
    ids = [row["workflow_id"] for row in await warehouse.fetch("SELECT workflow_id FROM etl_streams ORDER BY 1")]
    late, short, failing, _ = ids
    await warehouse.execute(
        "UPDATE etl_streams SET last_succeeded_at = now() - interval '50 h' WHERE workflow_id = $1", late
    )
    await warehouse.execute("UPDATE etl_streams SET api_count = api_count + 1 WHERE workflow_id = $1", short)
    await warehouse.execute(
        "UPDATE etl_streams SET last_error = 'no answer', last_error_at = now() WHERE workflow_id = $1", failing
    )
    status = await command("status")
    assert status.code == 1
    assert f"{late}\n  late: no complete sync since 20" in status.out
    found = {each["found"].split("/")[1].split()[0]: each for each in (await findings(command))["streams"]}
    assert {each["state"] for each in found.values()} == {"warning"}
    assert all("its watermark is 20" in each["found"] for each in found.values())
    assert "is late: no complete sync since 20" in found[late]["found"]
    assert "schedule cron" in found[late]["hint"]
    assert found[short]["hint"] == f"Run: cortex-etl reconcile --workflow {short}"
    assert "is failing: no answer" in found[failing]["found"]
    assert (await command("reconcile", "--quiet")).code == 0
    now = await findings(command)
    assert [each["state"] for each in now["streams"]] == ["ok"]
    (capacity,) = now["capacity"]
    assert capacity["state"] == "ok"
    assert " runs in less than an hour; up to " in capacity["found"]
    assert capacity["found"].endswith(" connections are opened")
    assert (await command("status")).code == 0
    await warehouse.execute("UPDATE etl_streams SET api_count = 100000000, run_bytes = 8000")
    near = (await findings(command))["capacity"]
    assert [each["state"] for each in near] == ["warning", "warning"]
    assert [each["found"] for each in near] == [
        "one address reads everything in 5.6 days, and sync.reconcile_every is 24.0 hours",
        "400,000,000 runs (3,040 GB) may be too many for one PostgreSQL",
    ]
    assert [each["hint"].split()[:2] for each in near] == [["Set", "it"], ["See", "docs/big-warehouses.md."]]


async def test_doctor_shows_why_a_stream_could_not_be_read(at_work, warehouse) -> None:
    command, running = at_work
    workflow_id = next(iter(running.world.workflows))
    running.faults.on(
        lambda request: workflow_id in request.path and lists_runs(request), Status(403, message="not yours")
    )
    await command("sync", "--quiet")
    error = await warehouse.fetchval("SELECT last_error FROM etl_streams WHERE workflow_id = $1", workflow_id)
    for state, blocker in (("new", "no sync has read it yet"), ("loading", "its history is not loaded yet")):
        (found,) = [each["found"] for each in (await findings(command))["streams"]]
        assert f"{workflow_id} is {state}: {blocker}" in found
        assert found.endswith(f"; last error: {error}")
        await warehouse.execute("UPDATE etl_streams SET backfill_cursor = '{}' WHERE NOT backfill_done")


async def test_a_key_that_several_apps_lack_is_reported_once(at_work) -> None:
    command, _ = at_work
    command.environment.pop("CORTEX_API_KEY")
    assert (command.folder / "config.yaml").read_text().count("id: app_") == 2
    ended = await command("doctor")
    assert (ended.code, ended.out.count("no API key")) == (2, 1), ended.out
    assert "-> Add CORTEX_API_KEY=... to " in ended.out
    assert len((await findings(command))["key"]) == 1


async def test_doctor_uses_the_shared_request_budget(at_work, warehouse, database_url) -> None:
    command, running = at_work
    async with asyncpg.create_pool(
        database_url, min_size=1, max_size=1, server_settings={"search_path": "cortex"}
    ) as pool:
        budget = Budget(pool, urlsplit(running.url).netloc, 500)
        await budget.pause(3)
        paused_at = monotonic()
        assert (await command("doctor")).code == 0
        assert running.requests
        assert all(request.time_monotonic - paused_at > 2.9 for request in running.requests)
        counted = await warehouse.fetchval("SELECT sum(n) FROM etl_rate_budgets, unnest(granted) AS n")
        assert counted == len(running.requests) == 2  # one per app


async def test_doctor_retries_and_obeys_retry_after(at_work) -> None:
    command, running = at_work
    running.faults.queue(Status(503), Status(429, retry_after=1))
    ended = await command("doctor")
    assert ended.code == 0, ended.out
    assert [request.status for request in running.requests[:3]] == [503, 429, 200]
    _, limited, retried, *_ = (request.time_monotonic for request in running.requests)
    assert retried - limited > 0.9
    assert ended.err == "(the API asked for a pause of 1 s)\n"


async def test_doctor_does_not_wait_for_a_long_pause(at_work, warehouse) -> None:
    command, running = at_work
    await command("sync", "--quiet")
    running.faults.queue(Status(429, retry_after=3600))
    (failed,) = (await findings(command))["app"]
    assert "429" in failed["found"]
    (paused,) = [each for each in (await findings(command))["rate"] if "60 minutes are left" in each["found"]]
    assert paused["state"] == "warning"
    await warehouse.execute("UPDATE etl_rate_budgets SET paused_until = NULL")
    found = await findings(command)
    assert {each["state"] for each in found["app"]} == {"ok"}


@pytest.mark.parametrize(
    ("granted", "state", "hint"),
    [
        (
            13,
            "warning",
            "If it happens again, find out who else uses this IP address, or lower api.requests_per_minute.",
        ),
        (
            249,
            "warning",
            "If it happens again, find out who else uses this IP address, or lower api.requests_per_minute.",
        ),
        (250, "warning", "Set api.requests_per_minute to 225, or find out who else uses this IP address."),
        (500, "ok", ""),
    ],
)
async def test_doctor_advises_a_lower_rate_only_if_much_of_it_was_used(
    at_work, warehouse, granted, state, hint
) -> None:
    command, _ = at_work
    await command("sync", "--quiet")
    await warehouse.execute("UPDATE etl_rate_budgets SET paused_at = now(), paused_after = $1", granted)
    (rate,) = (await findings(command))["rate"]
    assert (rate["state"], rate["hint"]) == (state, hint)
    assert f"after at most {granted} requests in one minute; 500 are configured" in rate["found"]  # some are not sent


async def test_doctor_counts_its_requests_without_a_warehouse(command, sandbox, small_world) -> None:
    running = await sandbox()
    app_id = next(iter(running.world.apps))
    ids = [each for each, workflow in running.world.workflows.items() if workflow["app"]["id"] == app_id]
    command.configure(
        f"api: {{base_url: '{running.url}', requests_per_minute: 2}}\ndatabase: {{url: 'postgresql://127.0.0.1:9/d'}}\n"
        f"apps: [{{id: {app_id}, workflows: {json.dumps(ids)}}}]\n"
    )
    command.environment["CORTEX_API_KEY"] = running.key
    process = await command.start("doctor")
    async with asyncio.timeout(30):
        while len(running.requests) < 2:
            await asyncio.sleep(0.05)
    await asyncio.sleep(1)
    process.terminate()
    await process.communicate()
    assert len(running.requests) == 2  # the third has to wait for a minute


async def test_first_sync_leaves_room_for_requests_that_were_not_counted(
    command, sandbox, small_world, empty_database_url
) -> None:
    running, limit = await sandbox(), 24
    command.configure(
        f"api: {{base_url: '{running.url}', requests_per_minute: {limit}, page_size: 5}}\n"
        f"database: {{url: '{empty_database_url}'}}\napps: {json.dumps([{'id': each} for each in running.world.apps])}\n"
    )
    command.environment["CORTEX_API_KEY"] = running.key
    ended = await command("doctor")
    assert ended.code == 0, ended.err
    before = len(running.requests)
    process = await command.start("sync", "--quiet")
    async with asyncio.timeout(30):
        while len(running.requests) < before + limit - 10:
            await asyncio.sleep(0.05)
    await asyncio.sleep(1)
    process.terminate()
    await process.communicate()
    assert 0 < before <= 10
    assert len(running.requests) == before + limit - 10  # more a minute after the first ones


async def test_doctor_does_not_send_the_key_after_a_redirect(at_work, sandbox) -> None:
    command, running = at_work
    elsewhere = await sandbox()
    running.faults.on(any_request, Status(302), Headers({"location": f"{elsewhere.url}/apps"}))
    ended = await command("doctor")
    assert ended.code == 1
    assert "302 Found" in ended.out
    assert "the address has moved" in ended.out
    assert elsewhere.requests == []


async def test_doctor_reports_a_lock_held_by_a_hanging_process(at_work, warehouse, database_url) -> None:
    command, _ = at_work
    number = await warehouse.fetchval(
        "INSERT INTO etl_syncs (mode, host, pid) VALUES ('sync', 'elsewhere', 4711) RETURNING id"
    )
    holder = await asyncpg.connect(database_url)
    await holder.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", f"cortex\nsync\n{number}")
    (held,) = (await findings(command))["locks"]
    assert (held["state"], held["found"]) == ("ok", "1 other invocation running")
    check = await _locks(cast("Any", Stale(warehouse)))
    assert check.state == "warning"
    assert f"process 4711 on elsewhere, sync {number} holds streams" in check.found
    assert check.hint.endswith(f"SELECT pg_terminate_backend({holder.get_server_pid()});")
    await holder.close()
    assert (await findings(command))["locks"][0]["found"] == "no stream is locked"


class Stale:
    """A connection on which ten minutes are an interval of zero."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def fetch(self, sql: str) -> list[asyncpg.Record]:
        return await self._connection.fetch(sql.replace("10 minutes", "0 minutes"))


async def test_doctor_accepts_a_running_backfill(at_work, warehouse) -> None:
    command, running = at_work
    command.read_in_small_steps()
    asked = 0

    async def hold(path: str, _query: object, _number: int) -> None:
        nonlocal asked
        asked += path.endswith("/runs")
        if asked > 12 and path.endswith("/runs"):
            await asyncio.sleep(60)

    running.faults.before_response = hold
    process = await command.start("sync", "--quiet")
    async with asyncio.timeout(30):
        while not await warehouse.fetchval("SELECT count(*) FROM etl_streams WHERE backfill_cursor IS NOT NULL"):
            await asyncio.sleep(0.05)
    assert [each["state"] for each in (await findings(command))["streams"]] == ["ok"]
    process.kill()
    await process.wait()
    found = (await findings(command))["streams"]
    assert found[0]["state"] == "warning"
    assert any("is loading: its history is not loaded yet" in each["found"] for each in found)


async def test_doctor_reports_a_lower_rate_limit(at_work, small_world, sandbox) -> None:
    command, _ = at_work
    running = await sandbox(small_world, requests_per_minute=6, rate_window_s=5.0)
    path = command.folder / "config.yaml"
    lines = path.read_text().splitlines()
    lines[1] = f"  base_url: {running.url}\n  page_size: 2"
    path.write_text("\n".join(lines) + "\n")
    process = await command.start("sync", "--log-format", "json")
    assert process.stderr is not None
    async for line in process.stderr:
        if b"requests.paused" in line:
            break
    await asyncio.sleep(1)  # the log line precedes the update in PostgreSQL
    process.terminate()
    await asyncio.wait_for(process.wait(), 20)
    (found,) = (await findings(command))["rate"]
    assert found["state"] == "warning"
    assert "500 are configured" in found["found"]
    assert "lower api.requests_per_minute" in found["hint"]
    # Requests in flight when the first was refused count too: at most eight for each of four workflows.
    assert 6 < int(found["found"].split(" at most ")[1].split()[0]) < 6 + 4 * 8


async def test_read_only_role_exits_with_4(at_work, warehouse, role, database_url) -> None:
    command, _ = at_work
    await warehouse.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    path = command.folder / "config.yaml"
    settings = path.read_text().replace("apps:", "  schema: theirs\napps:")
    path.write_text(settings.replace("postgres@", f"{role}@"))
    ended = await command("sync", "--quiet")
    assert ended.code == 4, ended.err
    assert "default_transaction_read_only = off" in ended.err
    assert "unexpected" not in ended.err


async def test_time_limits_of_a_role_are_disabled(at_work, warehouse, role, database_url) -> None:
    """The limits are shorter than a response of the API, or a migration."""
    command, running = at_work
    limits = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"]
    limits += ["transaction_timeout"] if warehouse.get_server_version().major >= 17 else []
    for limit in limits:
        await warehouse.execute(f"ALTER ROLE {role} SET {limit} = '400ms'")
    await warehouse.execute(f"ALTER ROLE {role} SET default_transaction_isolation = 'serializable'")
    running.faults.latency_s = 0.6
    path = command.folder / "config.yaml"
    settings = path.read_text().replace("apps:", "  schema: theirs\napps:")
    async with far_away(database_url, 0.03) as distant:  # makes transactions idle between statements
        path.write_text(settings.replace(database_url, distant.replace("postgres@", f"{role}@")))
        ended = await command("sync")
    assert ended.code == 0, ended.err
    assert "database.lost" not in ended.err


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_doctor_reports_another_encoding(at_work, warehouse, database_url, encoding) -> None:
    command, _ = at_work
    name = f"other_{uuid4().hex[:8]}"
    await warehouse.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    try:
        path = command.folder / "config.yaml"
        path.write_text(path.read_text().replace(urlsplit(database_url).path, f"/{name}"))
        assert with_database(database_url, name) in path.read_text()
        ended = await command("sync", "--quiet")
        assert ended.code == 4
        assert encoding in ended.err
        assert "createdb --encoding=UTF8" in ended.err
        assert (await findings(command))["database"][0]["exit_code"] == 4
    finally:
        await warehouse.execute(f"DROP DATABASE {name}")


async def test_doctor_reports_an_unreadable_view(command, warehouse, role, database_url) -> None:
    await warehouse.execute(
        f"GRANT USAGE ON SCHEMA cortex TO {role}; "
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA cortex TO {role}; "
        f"REVOKE SELECT ON sync_health FROM {role}"
    )
    command.configure(f"database: {{url: '{database_url.replace('postgres@', f'{role}@')}'}}\n")
    (found,) = (await findings(command))["privileges"]
    assert (found["state"], found["found"]) == ("failed", f"{role} may not read and write sync_health")


async def test_dropped_table_is_named(at_work, warehouse) -> None:
    command, _ = at_work
    await warehouse.execute("DROP TABLE run_usage_calls")
    ended = await command("sync", "--quiet")
    assert ended.code == 4
    assert 'relation "run_usage_calls" does not exist' in ended.err
    assert "Restore what is missing from a backup" in ended.err
    (found,) = (await findings(command))["migrations"]
    assert (found["state"], found["exit_code"]) == ("failed", 4)
    assert found["found"] == "all are applied, but the schema has no run_usage_calls"
    assert found["hint"].startswith("Restore what is missing from a backup")


async def test_doctor_reports_a_role_that_cannot_migrate(command, warehouse, role, database_url) -> None:
    await warehouse.execute(f"CREATE SCHEMA theirs; GRANT USAGE ON SCHEMA theirs TO {role}")
    command.configure(f"database: {{url: '{database_url.replace('postgres@', f'{role}@')}', schema: theirs}}\n")
    (found,) = (await findings(command))["migrations"]
    assert found["state"] == "failed"
    assert f'GRANT CREATE ON SCHEMA "theirs" TO "{role}";' in found["hint"]


async def test_retired_streams_raise_no_alarm(at_work, warehouse) -> None:
    """A workflow that the API no longer lists, and an app that is no longer in the settings."""
    command, running = at_work
    app_id = next(iter(running.world.apps))
    await warehouse.execute("INSERT INTO workflows (id) VALUES ('wf_gone')")
    await warehouse.execute(
        "INSERT INTO etl_streams (app_id, workflow_id, last_error, last_error_at) "
        "SELECT unnest($1::text[]), 'wf_gone', 'not found', now()",
        [app_id, "app_left"],
    )
    assert (await command("sync", "--quiet", "--metrics-file", "cortex.prom")).code == 0
    assert '"wf_gone"' not in (command.folder / "cortex.prom").read_text()
    streams = (await command("status", "--json")).json["streams"]
    retired = [each["app_id"] for each in streams if (each["state"], each["hint"]) == ("retired", None)]
    assert sorted(retired) == [app_id, "app_left"]
    assert {each["state"] for each in streams} == {"retired", "complete"}
    assert [each["state"] for each in (await findings(command))["streams"]] == ["ok"]


async def test_doctor_waits_once_for_a_silent_database(at_work, database_url) -> None:
    command, _ = at_work
    async with gated(database_url) as gate:
        gate.shut()
        path = command.folder / "config.yaml"
        path.write_text(path.read_text().replace(database_url, f"{gate.url}?connect_timeout=1"))
        ended = await command("doctor", "--json")
        assert len(gate.clients) == 1
    assert ended.code == 4
    failed = [each for each in ended.json if each["state"] == "failed"]
    assert [each["name"] for each in failed] == ["database"]
    assert "no response within 1 s" in failed[0]["found"]


@pytest.mark.parametrize(("status", "code"), [(401, 3), (500, 4)])
async def test_doctor_exits_with_the_code_that_takes_precedence(at_work, database_url, status, code) -> None:
    command, running = at_work
    running.faults.on(any_request, Status(status))
    path = command.folder / "config.yaml"
    path.write_text(path.read_text().replace(database_url, "postgresql://u@127.0.0.1:1/d"))
    ended = await command("doctor", "--json")
    codes = [each["exit_code"] for each in ended.json if each["state"] == "failed"]
    assert (codes[0], 4 in codes) == (3 if status == 401 else 1, True)
    assert ended.code == code, ended.out


async def test_doctor_reports_a_full_disk_first(tmp_path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=20 << 20))
    (tmp_path / "blocked").touch()
    found = [check async for check in examine(Settings(data_dir=tmp_path / "blocked" / "data"))][3:]
    assert [(check.name, check.state) for check in found] == [("disk", "warning"), ("database", "failed")]
    assert found[0].found.startswith("20 MiB free")
    assert found[0].hint == "Free some space, or set data_dir to a directory on a larger disk."


async def test_doctor_reports_an_old_server(database_url, monkeypatch) -> None:
    monkeypatch.setattr("etl.db.connect._MIN_VERSION", 99)
    found = [check async for check in examine(Settings(database=DatabaseSettings(url=database_url)))][3:]
    assert [(check.name, check.state, check.exit_code) for check in found] == [("database", "failed", 4)]
    assert found[0].hint == "Use PostgreSQL 99 or newer."


SECRETS = {
    "config.yaml": "api: {key: sk-hunter2}\napps: [{id: a, key_file: other key}]\ndatabase: {url_file: url}\n",
    ".env": "OTHER=1\n",
    "other key": "sk-2\n",
    "url": "postgresql://u@127.0.0.1:9/d\n",
}


async def files_found(command) -> list[tuple[str, str]]:
    return [
        (each["found"].replace(f"{command.folder}/", ""), each["hint"]) for each in (await findings(command))["files"]
    ]


async def test_files_with_secrets_that_are_open_to_others(command) -> None:
    for name, text in SECRETS.items():
        (command.folder / name).write_text(text)
        (command.folder / name).chmod(0o640)
    assert await files_found(command) == [("nobody else can read the secrets or change the settings", "")]
    for name in SECRETS:
        (command.folder / name).chmod(0o644)
    found = await files_found(command)
    assert [said for said, _ in found] == [
        f"others can read {name}, which contains a secret" for name in sorted(SECRETS)
    ]
    assert (
        dict(found)["others can read other key, which contains a secret"]
        == f"Run: chmod 600 '{command.folder}/other key'"
    )
    for name in SECRETS:
        (command.folder / name).chmod(0o660)
    assert [said for said, _ in await files_found(command)] == [f"others can change {name}" for name in sorted(SECRETS)]


async def test_settings_that_others_can_change(command, database_url) -> None:
    """A user who can change api.base_url can obtain the key. All users may read the file if it contains no secret."""
    path = command.configure(f"apps: [{{id: a}}]\ndatabase: {{url: '{database_url}'}}\n")
    path.chmod(0o644)
    assert [each["state"] for each in (await findings(command))["files"]] == ["ok"]
    command.folder.chmod(0o777)
    assert await files_found(command) == [(f"others can change {command.folder}", f"Run: chmod go-w {command.folder}")]
    command.folder.chmod(0o1777)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        assert (await files_found(command))[0][0] == "config.yaml belongs to another user, who can change it"
        os.chown(path, 0, 0)
        server = command.folder / ".cortex-etl" / "postgres"
        server.mkdir(parents=True)
        os.chown(server.parent, 12345, 12345)
        assert (await files_found(command))[0][0].endswith(".cortex-etl belongs to another user, who can change it")
        os.chown(server, 12345, 12345)  # the account of the embedded server
        assert [each["state"] for each in (await findings(command))["files"]] == ["ok"]
        os.chown(path, 0, 0)
    path.chmod(0o646)
    assert await files_found(command) == [("others can change config.yaml", f"Run: chmod go-w {path}")]
