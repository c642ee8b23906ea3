"""`init`, `doctor`, `config show`, `migrate`, `stop`, and errors of all commands."""

from __future__ import annotations

import asyncio
import json
import shlex
import stat
import sys
from datetime import timedelta

import asyncpg
import pytest

from etl.config import load
from etl.config.schema import render, starter
from etl.db.connect import redact_url
from etl.db.migrate import migrations
from etl.sandbox.faults import HTML_OK, any_request

NO_SUCH_PORT = "http://127.0.0.1:9"  # the discard port, on which no process listens


async def test_init_writes_a_valid_file_and_never_overwrites(command) -> None:
    first = await command("init")
    assert (first.code, first.err) == (0, "")
    assert (command.folder / "config.yaml").read_text() == starter()
    assert (command.folder / "config.schema.json").read_text() == render()
    assert (await command("config", "schema")).out == render()
    command.configure("# mine\n")
    second = await command("init")
    assert second.code == 2
    assert "already exists" in second.err
    assert "hint:" in second.err
    assert (command.folder / "config.yaml").read_text() == "# mine\n"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777], ids=oct)
async def test_init_writes_files_that_only_the_owner_can_read(command, umask) -> None:
    script = f"umask {umask:03o}; exec {sys.executable} -m etl init"
    process = await asyncio.create_subprocess_exec("sh", "-c", script, cwd=command.folder, env=command._environment)
    assert await process.wait() == 0
    assert stat.S_IMODE((command.folder / "config.yaml").stat().st_mode) == 0o600


async def test_init_follows_no_link(command) -> None:
    (command.folder / "config.yaml").symlink_to(command.folder / "elsewhere")
    assert (await command("init")).code == 2
    assert not (command.folder / "elsewhere").exists()


async def test_init_asks_on_a_terminal(command) -> None:
    code, shown = await command.on_terminal("init", answers=["app_7", "sk-hunter2'quoted$HOME#x"])
    assert (code, "hunter2" in shown) == (0, False), shown
    assert "Wrote config.yaml and .env. Next: run `cortex-etl doctor`." in shown
    assert "sk-" not in (command.folder / "config.yaml").read_text()
    assert stat.S_IMODE((command.folder / ".env").stat().st_mode) == 0o600
    settings = load(command.folder / "config.yaml", {})
    assert settings.apps[0].id == "app_7"
    assert settings.require_key().get_secret_value() == "sk-hunter2'quoted$HOME#x"


async def test_init_without_answers(command) -> None:
    code, shown = await command.on_terminal("init", answers=["", ""])
    assert (code, "Next: set your app id in config.yaml, add CORTEX_API_KEY=... to .env, then run" in shown) == (
        0,
        True,
    ), shown
    assert (command.folder / "config.yaml").read_text() == starter()
    assert not (command.folder / ".env").exists()
    code, shown = await command.on_terminal("init")
    assert (code, "already exists" in shown) == (2, True), shown


@pytest.mark.parametrize("before", [b"", b"# mine\nOTHER='a b'\r\n", b"CORTEX_API_KEY=\nB=2"])
async def test_init_adds_the_key_to_an_existing_env_file(command, before) -> None:
    dotenv = command.folder / ".env"
    dotenv.write_bytes(before)
    dotenv.chmod(0o644)
    code, shown = await command.on_terminal("init", answers=["app_7", "sk-hunter2"])
    assert (code, "Wrote config.yaml and .env. Next: run `cortex-etl doctor`." in shown) == (0, True), shown
    newline = b"\n" if before and not before.endswith(b"\n") else b""
    assert dotenv.read_bytes() == before + newline + b"CORTEX_API_KEY=sk-hunter2\n"
    assert stat.S_IMODE(dotenv.stat().st_mode) == 0o600
    assert load(command.folder / "config.yaml", {}).require_key().get_secret_value() == "sk-hunter2"


async def test_init_does_not_ask_for_a_key_that_the_env_file_sets(command) -> None:
    dotenv = command.folder / ".env"
    dotenv.write_text("export CORTEX_API_KEY='sk-old'")
    code, shown = await command.on_terminal("init", answers=["app_7"])
    assert (code, "API key" in shown) == (0, False), shown
    assert "Wrote config.yaml; the key in .env is used. Next: run `cortex-etl doctor`." in shown
    assert dotenv.read_text() == "export CORTEX_API_KEY='sk-old'"


async def test_init_refuses_the_app_id_of_the_example_at_once(command) -> None:
    code, shown = await command.on_terminal("init", answers=["app_123"])
    assert (code, "API key" in shown) == (2, False), shown
    assert "app_123 is the example's id" in shown
    assert "hint: Replace it with the id of your app." in shown
    assert list(command.folder.iterdir()) == []


async def test_init_writes_nothing_if_the_key_cannot_be_kept(command) -> None:
    (command.folder / ".env").mkdir()
    code, shown = await command.on_terminal("init", answers=["app_7", "sk-hunter2"])
    assert (code, "cannot write .env: is not a regular file" in shown) == (2, True), shown
    assert not (command.folder / "config.yaml").exists()


async def test_init_in_a_read_only_directory(command) -> None:
    ended = await command("init", "--config", "no/such/folder/config.yaml")
    assert ended.code == 2
    assert "cannot write" in ended.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("report", "--days", "0"), "'--days': expected at least 1"),
        (("sandbox", "--port", "70000"), "'--port': expected at most 65535"),
        (("demo", "--runs", "many"), "'--runs': expected an integer, got 'many'"),
        (("sandbox", "--speed", "x"), "'--speed': expected a number, got 'x'"),
        (("rejects", "retry", "1", "abc"), "expected an integer, got 'abc'"),
        (("rejects", "retry", "1" * 5000), "expected a smaller number\n"),
    ],
)
async def test_a_wrong_number_is_refused_in_the_words_of_the_settings(command, arguments, says) -> None:
    ended = await command(*arguments)
    assert (ended.code, says in ended.err, "Input should" in ended.err) == (2, True, False), ended.err


CANNOT_WORK = [
    ("no settings file", ("sync", "--config", "nowhere.yaml"), None, 2, "nowhere.yaml: cannot read the settings"),
    ("bad settings", ("sync",), "api:\n  concurency: 4\n", 2, "config.yaml:2: api.concurency: unknown key"),
    ("no app", ("sync",), "api: {key: sk-1}\n", 2, "config.yaml: no app is configured\n  hint: Add one under `apps:`: `- id: YOUR_APP_ID`.\n"),
    ("an empty list of apps", ("plan",), "api: {key: sk-1}\napps: []\n", 2, "config.yaml:2: no app is configured"),
    ("no key", ("sync",), "apps: [{id: app_1}]\n", 2, "key"),
    ("no database", ("sync",), "api: {key: sk-1}\napps: [{id: a}]\ndatabase: {url: 'postgresql://u:hunter2@127.0.0.1:9/d'}\n", 4, "127.0.0.1:9"),
    ("no database to ask", ("sql", "SELECT 1"), "database: {url: 'postgresql://u:hunter2@127.0.0.1:9/d'}\n", 4, "127.0.0.1:9"),
    ("an unknown command", ("snyc",), None, 2, "snyc"),
    ("an unknown option", ("sync", "--fast"), None, 2, "--fast"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "says"), [e[1:] for e in CANNOT_WORK], ids=[e[0] for e in CANNOT_WORK]
)
async def test_errors_end_with_one_message_and_a_hint(command, arguments, settings, code, says) -> None:
    if settings is not None:
        command.configure(settings)
    ended = await command(*arguments)
    assert ended.code == code
    assert says in ended.err
    assert ended.out == ""
    assert ended.err.count("error:") + ended.err.count("Usage:") == 1
    assert "hunter2" not in ended.err


@pytest.mark.parametrize(
    ("dotenv", "environment", "says", "hint"),
    [
        ("", {}, "the environment variable CORTEX_API_KEY is not set", "Add CORTEX_API_KEY=... to .env, or"),
        ("", {"CORTEX_API_KEY": ""}, "the environment variable CORTEX_API_KEY is empty", "Run `export CORTEX_API_KEY"),
        ("CORTEX_API_KEY=\n", {}, "the variable CORTEX_API_KEY in .env is empty", "Add CORTEX_API_KEY=... to .env, or"),
    ],
)
async def test_missing_key_is_told_from_an_empty_one(command, dotenv, environment, says, hint) -> None:
    command.configure("apps: [{id: a}]\n")
    (command.folder / ".env").write_text(dotenv)
    command.environment |= environment
    ended = await command("sync")
    assert (ended.code, f"no API key; {says}\n" in ended.err, f"hint: {hint}" in ended.err) == (2, True, True), (
        ended.err
    )


async def test_apps_can_be_named_as_the_hint_says_without_a_settings_file(command, database_url) -> None:
    command.environment |= {"DATABASE_URL": database_url, "CORTEX_API_KEY": "sk-1"}
    ended = await command("sync")
    assert (ended.code, "no app is configured, and there is no settings file" in ended.err) == (2, True), ended
    name, value = ended.err.partition("hint: Run: export ")[2].strip().split("=", 1)
    command.environment[name] = shlex.split(value)[0]
    assert "YOUR_APP_ID" in (await command("config", "show")).out


async def test_json_logs_contain_the_error(command) -> None:
    command.configure("api: 3\n")
    ended = await command("sync", "--log-format", "json")
    assert ended.code == 2
    (line,) = map(json.loads, ended.err.splitlines())
    assert (line["event"], line["exit_code"]) == ("command.failed", 2)
    command.environment["CORTEX_ETL__DATABASE__URL"] = "postgresql://127.0.0.1:1/none"
    command.configure("apps: [{id: a}]\napi: {key: sk-hunter2}\n")
    process = await command.start("sync", "-v", "--log-format", "json")
    _, said = await asyncio.wait_for(process.communicate(), 30)
    *_, line = map(json.loads, said.splitlines())  # without other lines in between
    assert (line["event"], line["exit_code"]) == ("command.failed", 4)
    assert "Traceback" in line["traceback"]
    stopped = await command("stop", "--log-format", "json")
    assert json.loads(stopped.err)["text"] == "no embedded PostgreSQL is running"


async def test_common_options_are_accepted_before_the_command(command) -> None:
    command.configure("api: 3\n")
    (command.folder / "good.yaml").write_text("api: {page_size: 7}\n")
    ended = await command("--config", "good.yaml", "config", "show", "--json")
    assert {"key": "api.page_size", "value": "7", "from": "good.yaml:1"} in ended.json


async def test_config_show_names_sources_and_masks_secrets(command) -> None:
    command.configure(
        "api:\n  key: sk-hunter2\n  page_size: 7\ndatabase:\n  url: postgresql://u:hunter2@h/d\napps:\n  - id: a\n"
    )
    command.environment["CORTEX_ETL__API__CONCURRENCY"] = "3"
    ended = await command("config", "show")
    assert ended.code == 0
    lines = {line.split()[0]: line for line in ended.out.splitlines() if line.strip()}
    assert "config.yaml:3" in lines["api.page_size"]
    assert "environment variable CORTEX_ETL__API__CONCURRENCY" in lines["api.concurrency"]
    assert "default" in lines["api.timeout_s"]
    assert "config.yaml:7" in lines["apps[0].id"]
    assert "***" in lines["api.key"]
    assert "hunter2" not in ended.out + ended.err


async def test_doctor_succeeds(at_work, database_url) -> None:
    command, running = at_work
    ended = await command("doctor")
    assert ended.code == 0, ended.out
    assert "FAIL" not in ended.out
    for name in ("settings", "api", "clock", "app", "database", "privileges", "migrations"):
        assert f"ok   {name}" in ended.out
    assert f"ok   database    {redact_url(database_url)}, PostgreSQL" in ended.out
    assert running.key not in ended.out + ended.err


async def test_doctor_reports_a_refused_key(at_work) -> None:
    command, _ = at_work
    command.environment["CORTEX_API_KEY"] = "sk-expired"
    ended = await command("doctor")
    assert ended.code == 3
    assert "FAIL key         app_001: the API answered 401 Unauthorized for /apps/app_001/workflows: " in ended.out
    assert "ok   rate        the API has not asked for a pause in the last 24 hours" in ended.out
    assert "sk-expired" not in ended.out + ended.err


async def test_doctor_reports_unknown_apps_and_workflows(at_work) -> None:
    command, running = at_work
    one, other = running.world.apps
    foreign = next(key for key, each in running.world.workflows.items() if each["app"]["id"] == other)
    path = command.folder / "config.yaml"
    path.write_text(
        path.read_text().partition("apps:")[0] + f"apps:\n  - id: app_no\n  - id: {one}\n    workflows: [{foreign}]\n"
    )
    ended = await command("doctor")
    assert ended.code == 2
    assert "app_no: the API has no such app" in ended.out
    assert f"{one}/{foreign}: the app has no such workflow" in ended.out


async def test_doctor_reports_clock_skew(at_work) -> None:
    command, running = at_work
    running.faults.clock_offset = timedelta(hours=-2)
    ended = await command("doctor")
    assert ended.code == 0
    assert "warn clock" in ended.out
    assert "7200 s ahead" in ended.out.replace("7199", "7200").replace("7201", "7200")


async def test_doctor_reports_another_server(at_work) -> None:
    command, running = at_work
    running.faults.on(any_request, HTML_OK)
    ended = await command("doctor")
    assert ended.code == 1
    assert "FAIL api         app_001: not a JSON list: HTML or XML" in ended.out
    assert "-> Check api.base_url: something other than the API answers there." in ended.out


async def test_doctor_reports_what_is_unreachable(command) -> None:
    command.configure(
        f"api: {{base_url: '{NO_SUCH_PORT}', key: sk-1}}\napps: [{{id: a}}]\ndatabase: {{url: 'postgresql://u:hunter2@127.0.0.1:9/d'}}\n"
    )
    ended = await command("doctor")
    assert ended.code == 4  # takes precedence over 1
    assert "FAIL api" in ended.out
    assert "FAIL database" in ended.out
    assert ended.out.count("->") == 2
    assert "hunter2" not in ended.out + ended.err


async def test_doctor_reports_missing_settings(command, database_url) -> None:
    command.configure(f"database: {{url: '{database_url}'}}\n")
    ended = await command("doctor", "--json")
    assert ended.code == 2
    assert [each["state"] for each in ended.json if each["name"] == "apps"] == ["failed"]
    command.configure(f"apps: [{{id: a}}]\ndatabase: {{url: '{database_url}'}}\n")
    ended = await command("doctor", "--json")
    assert ended.code == 2
    assert [each["state"] for each in ended.json if each["name"] == "key"] == ["failed"]


async def test_doctor_names_the_missing_grant(command, warehouse, database_url) -> None:
    role = f"reader_{warehouse.get_server_pid()}"
    await warehouse.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'hunter2'")
    try:
        separator = "&" if "?" in database_url else "?"
        command.configure(
            f"database: {{url: '{database_url}{separator}user={role}'}}\n".replace("postgres@", f"{role}@").replace(
                f"{separator}user={role}", ""
            )
        )
        ended = await command("doctor")
        assert f'GRANT USAGE ON SCHEMA "cortex" TO "{role}";' in ended.out
        await warehouse.execute(f"GRANT USAGE ON SCHEMA cortex TO {role}")
        ended = await command("doctor")
        assert f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "cortex" TO "{role}";' in ended.out
        await warehouse.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA cortex TO {role}")
        ended = await command("doctor")
        assert "ok   privileges" in ended.out
        assert "ok   migrations" in ended.out
    finally:
        await warehouse.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_migrate_applies_pending_migrations_once(command, empty_database_url) -> None:
    command.configure(f"database: {{url: '{empty_database_url}', schema: other}}\n")
    names = [each.name for each in migrations()]
    check = await command("migrate", "--check")
    assert (check.code, check.out.split()[1::2]) == (1, names)
    applied = await command("migrate")
    assert (applied.code, applied.out.split()[1::2]) == (0, names)
    assert (await command("migrate", "--check")).code == 0
    again = await command("migrate")
    assert (again.code, again.out) == (0, "")
    connection = await asyncpg.connect(empty_database_url)
    assert await connection.fetchval("SELECT count(*) FROM other.runs") == 0
    await connection.close()


async def test_migrate_check_creates_no_embedded_server(command) -> None:
    command.configure("data_dir: .cortex-etl\n")
    assert (await command("migrate", "--check")).code == 1
    assert not (command.folder / ".cortex-etl").exists()


async def test_stop_stops_the_embedded_server_and_keeps_its_data(command) -> None:
    command.configure("data_dir: .cortex-etl\n")
    assert (await command("stop")).err.strip() == "no embedded PostgreSQL is running"
    migrated = await command("migrate", "--quiet")
    assert (migrated.code, migrated.out, migrated.err) == (0, "", "")
    stopped = await command("stop")
    assert (stopped.code, stopped.out.count("stopped")) == (0, 1)
    counted = await command("sql", "SELECT count(*) FROM runs")
    assert counted.out == "count\n0\n"


async def test_missing_secrets_fail_only_commands_that_need_them(command, database_url) -> None:
    command.configure(f"api: {{key_file: /run/secrets/key}}\ndatabase: {{url: '{database_url}'}}\napps: [{{id: a}}]\n")
    for line in (["sql", "SELECT 1"], ["config", "show"], ["migrate"], ["stop"], ["rejects", "list"]):
        ended = await command(*line)
        assert ended.code == 0, (line, ended.err)
    ended = await command("status")
    assert (ended.code, ended.out) == (1, "no stream has been read yet; run: cortex-etl sync\n")
    ended = await command("sync")
    assert (ended.code, ended.err.count("\n")) == (2, 2)
    assert "config.yaml:1: api.key_file: cannot read /run/secrets/key: No such file" in ended.err
    command.configure("database: {url_file: /run/secrets/url}\napps: [{id: a}]\n")
    manifest = await command("schedule", "k8s")
    assert (manifest.code, "kind: CronJob" in manifest.out) == (0, True)
    for line in (["status"], ["sql", "SELECT 1"], ["migrate"], ["sync"], ["doctor"]):
        command.environment["CORTEX_API_KEY"] = "sk-1"
        ended = await command(*line)
        assert ended.code == 2, (line, ended)
        assert "config.yaml:1: database.url_file: cannot read /run/secrets/url: No such file" in ended.err + ended.out
    assert not (command.folder / ".cortex-etl").exists()


async def test_sandbox_prints_its_usage_and_serves_until_stopped(command) -> None:
    process = await command.start("sandbox", "--port", "0", "--runs", "20")
    url = (await process.stdout.readline()).decode().strip()
    said = (await process.stderr.readline()).decode().partition("export ")[2]
    command.environment |= dict(each.split("=", 1) for each in shlex.split(said))
    assert command.environment["CORTEX_ETL__API__BASE_URL"] == url
    assert "the API lists" in (await command("doctor")).out
    assert (await command("sync", "--json")).json["runs_inserted"] == 20
    process.terminate()
    _, err = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, err.decode().splitlines()[-1]) == (0, "stopped")
