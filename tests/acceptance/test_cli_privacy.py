"""`forget`, `grant`, and hashed values."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import subprocess
import sys
from urllib.parse import urlsplit

import pytest


async def test_forget_erases_and_reports(at_work, warehouse) -> None:
    command, running = at_work
    assert (await command("sync", "--quiet")).code == 0
    workflow_id, runs = next(iter(running.world.runs.items()))
    run_id = next(iter(runs))
    ended = await command("forget", "--run", run_id)
    assert (ended.code, "Pass --yes" in ended.err) == (2, True)
    ended = await command("forget", "--run", run_id, "--yes")
    assert (ended.code, ended.out.startswith("erased 1 run and 0 quarantined items")) == (0, True)
    assert await warehouse.fetchval("SELECT erased_at IS NOT NULL FROM runs WHERE id = $1", run_id)
    ended = await command("sync", "--json", "--workflow", workflow_id)
    assert (ended.code, ended.json["runs_inserted"], ended.json["runs_updated"]) == (0, 0, 0)
    assert (await command("forget", "--record", "rec_none", "--yes", "--json")).json == {"runs": 0, "rejects": 0}
    for nothing in ([], ["--yes"], ["--run", " ", "--yes"]):
        ended = await command("forget", *nothing)
        assert (ended.code, "--run ID" in ended.err) == (2, True), nothing


async def test_unknown_run_is_recorded_as_erased(at_work, warehouse) -> None:
    command, running = at_work
    workflow_id, runs = next(iter(running.world.runs.items()))
    run_id = next(iter(runs))
    ended = await command("forget", "--run", run_id, "--yes")
    assert (ended.code, ended.out.startswith("erased 0 runs and 0 quarantined items")) == (0, True)
    assert (await command("sync", "--quiet", "--workflow", workflow_id)).code == 0
    assert await warehouse.fetchval("SELECT erased_at IS NOT NULL FROM runs WHERE id = $1", run_id)


async def test_grant_prints_or_applies_statements(at_work, warehouse, database_url) -> None:
    command, _ = at_work
    role = urlsplit(database_url).path[1:]  # unique like the name of the database
    printed = await command("grant", role)
    assert printed.code == 0
    assert f'GRANT USAGE ON SCHEMA "cortex" TO "{role}";' in printed.out
    missing = await command("grant", role, "--apply")
    assert (missing.code, f'CREATE ROLE "{role}" LOGIN' in missing.err) == (4, True)
    await warehouse.execute(f'CREATE ROLE "{role}"')
    try:
        assert (await command("grant", role, "--apply", "--quiet")).code == 0
        assert await warehouse.fetchval("SELECT has_table_privilege($1, 'runs', 'SELECT')", role)
        assert not await warehouse.fetchval("SELECT has_table_privilege($1, 'runs', 'INSERT')", role)
        await warehouse.execute(printed.out)
    finally:
        await warehouse.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


async def test_granted_role_serves_the_reading_commands(at_work, warehouse, database_url) -> None:
    command, _ = at_work
    assert (await command("sync", "--quiet")).code == 0
    role = f"{urlsplit(database_url).path[1:]}_reader"
    await warehouse.execute(f'CREATE ROLE "{role}" LOGIN')
    try:
        assert (await command("grant", role, "--apply", "--quiet")).code == 0
        read_url = database_url.replace("postgres@", f"{role}@")
        settings = command.folder / "config.yaml"
        settings.write_text(settings.read_text().replace("database:\n", f"database:\n  read_url: {read_url}\n"))
        assert (await command("sql", "SELECT current_user")).out == f"current_user\n{role}\n"
        assert (await command("sql", "--url")).out == f"{read_url}\n"
        for line in (["sql", "TABLE sync_health"], ["report"], ["export", "files"], ["psql", "--", "-c", "TABLE runs"]):
            ended = await command(*line)
            assert ended.code == 0, (line, ended.err)
        for secret in ("SELECT id FROM etl_rejects", "TABLE etl_settings"):
            ended = await command("sql", secret)
            assert (ended.code, "permission denied" in ended.err) == (2, True)
    finally:
        await warehouse.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


async def test_rejects_are_listed_where_their_bytes_are_not_granted(at_work, warehouse, database_url) -> None:
    command, running = at_work
    spoilt = next(iter(next(iter(running.world.runs.values()))))
    running.world.raw[spoilt] = b'{"id": "%b", "status": 7}' % spoilt.encode()
    assert (await command("sync", "--quiet")).code == 0
    (reject,) = (await command("rejects", "list", "--json")).json
    assert reject["bytes"] == len(running.world.raw[spoilt])
    role = f"{urlsplit(database_url).path[1:]}_reader"
    columns = (
        "id, sync_id, app_id, workflow_id, run_id, url, page, reason, error, digest, bytes, created_at, resolved_at"
    )
    await warehouse.execute(
        f'CREATE ROLE "{role}" LOGIN; GRANT USAGE ON SCHEMA cortex TO "{role}"; '
        f'GRANT SELECT ON etl_migrations TO "{role}"; GRANT SELECT ({columns}) ON etl_rejects TO "{role}"'
    )
    try:
        settings = command.folder / "config.yaml"
        settings.write_text(settings.read_text().replace("postgres@", f"{role}@"))
        (reject,) = (await command("rejects", "list", "--json")).json
        size = len(running.world.raw[spoilt])
        assert (reject["run_id"], reject["reason"], reject["bytes"]) == (spoilt, "invalid_field", size)
    finally:
        await warehouse.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


async def test_hashed_values_can_be_compared_but_not_read(at_work, warehouse) -> None:
    command, running = at_work
    workflow_id, runs = next(iter(running.world.runs.items()))
    one, two, other = list(runs)[:3]
    for run_id, name in ((one, "ann@example.com"), (two, "ann@example.com"), (other, "bob@example.com")):
        runs[run_id]["input"] = {"email": name, "amount": 5}
    with (command.folder / "config.yaml").open("a") as file:
        file.write("payloads: {redact: [$.input.email], redact_by: hash, redact_salt: '${SALT}'}\n")
    refused = await command("sync")
    assert (refused.code, "SALT is not set" in refused.err) == (2, True)
    command.environment["SALT"] = "0123456789abcdef"
    assert (await command("sync", "--quiet", "--workflow", workflow_id)).code == 0
    found = {
        row["id"]: row["email"]
        for row in await warehouse.fetch(
            "SELECT id, input ->> 'email' AS email FROM runs WHERE id = ANY ($1::text[])", [one, two, other]
        )
    }
    expected = hmac.new(b"0123456789abcdef", b'"ann@example.com"', hashlib.sha256).hexdigest()
    assert found[one] == found[two] == f"sha256:{expected}"
    assert found[other] not in (found[one], None)
    shown = await command("config", "show")
    assert "0123456789abcdef" not in shown.out


@pytest.mark.parametrize("path", ["$.record_id", "$.origin", "$.id"])
async def test_redaction_of_a_field_that_must_be_kept_is_refused(at_work, warehouse, path: str) -> None:
    command, _ = at_work
    with (command.folder / "config.yaml").open("a") as file:
        file.write(f"payloads: {{redact: [{path}], redact_by: hash, redact_salt: 0123456789abcdef}}\n")
    for line in (["sync", "--quiet"], ["doctor"]):
        ended = await command(*line)
        assert (ended.code, f"{path} would replace {path}, " in ended.out + ended.err) == (2, True), line
    assert await warehouse.fetchval("SELECT count(*) FROM runs") == 0


ON_A_TERMINAL = """
import os, pty, sys, time
keys, *command = sys.argv[1:]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(command[0], command)
said, asked = b"", False
while True:
    try:
        said += os.read(terminal, 1000)
    except OSError:  # it has ended
        break
    if not asked and said.endswith(b"[y/N]: "):
        asked = True
        time.sleep(0.5)  # as people do: a signal between prompt and read waits for the next key
        os.write(terminal, keys.encode())
sys.stdout.buffer.write(said)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize(("keys", "code", "left"), [("\x03", 130, 1), ("\x04", 130, 1), ("n\n", 1, 1), ("y\n", 0, 0)])
async def test_forget_asks_with_the_number_of_runs(at_work, warehouse, keys: str, code: int, left: int) -> None:
    command, running = at_work
    assert (await command("sync", "--quiet")).code == 0
    run_id = next(iter(next(iter(running.world.runs.values()))))
    line = [sys.executable, "-c", ON_A_TERMINAL, keys, sys.executable, "-m", "etl", "forget", "--run", run_id]
    ended = await asyncio.to_thread(
        subprocess.run, line, cwd=command.folder, env=command._environment, capture_output=True, timeout=30, check=False
    )
    said = ended.stdout.decode()
    assert (ended.returncode, f"Erase 1 run for good (run {run_id})?" in said) == (code, True)
    assert ("interrupted" in said) == (code == 130)
    assert await warehouse.fetchval("SELECT count(*) FROM runs WHERE id = $1 AND erased_at IS NULL", run_id) == left
