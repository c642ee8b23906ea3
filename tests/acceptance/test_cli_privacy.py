"""forget, grant, and values that are hashed instead of stored."""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import urlsplit


async def test_forget_erases_and_says_what(at_work, warehouse) -> None:
    command, running = at_work
    assert (await command("sync", "--quiet")).code == 0
    workflow_id, runs = next(iter(running.world.runs.items()))
    run_id = next(iter(runs))
    ended = await command("forget", "--run", run_id)
    assert (ended.code, "Say --yes" in ended.err) == (2, True)
    ended = await command("forget", "--run", run_id, "--yes")
    assert (ended.code, ended.out.startswith("erased 1 run and 0 from quarantine")) == (0, True)
    assert await warehouse.fetchval("SELECT count(*) FROM runs WHERE id = $1", run_id) == 0
    ended = await command("sync", "--json", "--workflow", workflow_id)
    assert (ended.code, ended.json["runs_inserted"]) == (0, 0)
    assert (await command("forget", "--record", "rec_none", "--yes", "--json")).json == {"runs": 0, "rejects": 0}
    ended = await command("forget", "--yes")
    assert (ended.code, "--run ID" in ended.err) == (2, True)


async def test_grant_prints_what_psql_takes_or_applies_it(at_work, warehouse, database_url) -> None:
    command, _ = at_work
    role = urlsplit(database_url).path[1:]  # as unlikely to be there already as the database's name
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


async def test_who_was_granted_reading_can_use_the_commands_that_read(at_work, warehouse, database_url) -> None:
    command, running = at_work
    spoilt = next(iter(next(iter(running.world.runs.values()))))
    running.world.raw[spoilt] = b'{"id": "%b", "status": 7}' % spoilt.encode()
    assert (await command("sync", "--quiet")).code == 0
    role = f"{urlsplit(database_url).path[1:]}_reader"
    await warehouse.execute(f'CREATE ROLE "{role}" LOGIN')
    try:
        assert (await command("grant", role, "--apply", "--quiet")).code == 0
        settings = command.folder / "config.yaml"
        settings.write_text(settings.read_text().replace("postgres@", f"{role}@"))
        for line in (["status"], ["status", "--explain"], ["sql", "TABLE sync_health"], ["migrate", "--check"],
                     ["rejects", "list"], ["report"], ["export", "--format", "parquet", "files"]):  # fmt: skip
            ended = await command(*line)
            assert ended.code == 0, (line, ended.err)
        (reject,) = (await command("rejects", "list", "--json")).json
        assert (reject["run_id"], reject["reason"], reject["bytes"]) == (spoilt, "invalid_field", None)
        assert (await command("sql", "SELECT payload FROM etl_rejects")).code != 0
        settings.write_text(settings.read_text().replace(f"{role}@", "postgres@"))
        (reject,) = (await command("rejects", "list", "--json")).json
        assert reject["bytes"] == len(running.world.raw[spoilt])
    finally:
        await warehouse.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


async def test_hashed_values_can_be_compared_and_not_be_read(at_work, warehouse) -> None:
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
