"""Commands that read cannot write, with any database and any role."""

from __future__ import annotations

import re
import shlex
from urllib.parse import urlsplit

import pytest

from etl.db import embedded
from etl.db.connect import connect


async def test_reader_of_the_embedded_server(command) -> None:
    """In a new folder: the first command starts and migrates the server."""
    command.configure("data_dir: .cortex-etl\n")
    ended = await command("report")
    assert (ended.code, ended.out) == (0, "Wrote cortex-report.html\n"), ended.err
    assert (
        await command("sql", "SELECT current_user, count(*) FROM runs")
    ).out == "current_user,count\ncortex_reader,0\n"
    assert (await command("export", "files")).code == 0
    url = (await command("sql", "--url")).out.strip()
    assert urlsplit(url).username == "cortex_reader"

    owner = await connect(embedded.start(command.folder / ".cortex-etl"), "cortex")
    await owner.execute("INSERT INTO runs (id) VALUES ('r')")
    for arguments in (
        ("-c", "DELETE FROM runs"),
        ("-c", "SET default_transaction_read_only = off", "-c", "DELETE FROM runs"),
        ("-c", "BEGIN READ WRITE", "-c", "DELETE FROM runs", "-c", "COMMIT"),
        ("-c", "SET ROLE postgres", "-c", "DELETE FROM runs"),
        ("-c", "\\c cortex", "-c", "DELETE FROM runs"),
    ):
        await command("psql", "--", *arguments)
        assert await owner.fetchval("SELECT count(*) FROM runs") == 1, arguments
    command.environment["PGOPTIONS"] = "-c default_transaction_read_only=off -c role=postgres"
    await command("psql", "--", "-c", "DELETE FROM runs")
    assert await owner.fetchval("SELECT count(*) FROM runs") == 1
    del command.environment["PGOPTIONS"]
    ended = await command("psql", "--write", "--", "-At", "-c", "DELETE FROM runs RETURNING id")
    assert (ended.code, ended.out) == (0, "r\nDELETE 1\n")
    await owner.close()


@pytest.fixture
def asking(command, database_url):
    command.configure(f"database: {{url: '{database_url}'}}\n")
    return command


async def test_psql_is_read_only_by_default(asking, warehouse) -> None:
    await warehouse.execute("INSERT INTO runs (id) VALUES ('r')")
    for options in ("", "-c default_transaction_read_only=off", "-c role=postgres -c work_mem=1MB"):
        asking.environment["PGOPTIONS"] = options
        ended = await asking("psql", "--", "-c", "DELETE FROM runs")
        assert (ended.code, "read-only transaction" in ended.err) == (1, True), ended.err
        reconnected = await asking("psql", "--", "-c", "\\c", "-c", "DELETE FROM runs")
        assert (reconnected.code, "read-only transaction" in reconnected.err) == (1, True)
        switched = await asking("psql", "--", "-c", "SET default_transaction_read_only = off", "-c", "DELETE FROM runs")
        # A superuser has given up its privileges.
        assert (switched.code, "permission denied" in switched.err) == (1, True)
    assert (await asking("psql", "--", "-At", "-c", "SHOW work_mem")).out == "1MB\n"
    assert await warehouse.fetchval("SELECT count(*) FROM runs") == 1
    assert (await asking("psql", "--write", "--", "-c", "DELETE FROM runs")).out == "DELETE 1\n"


async def test_psql_example_can_be_copied(asking) -> None:
    for program in ("sql", "psql"):
        lines = [line.strip() for line in (await asking(program, "--help")).out.splitlines()]
        example = re.search(r"Example: cortex-etl (.*?)\n\n", "\n".join(lines), re.DOTALL)
        arguments = shlex.split(example[1].replace("\n", " "))
        ended = await asking(*arguments)
        assert (ended.code, ended.err) == (0, ""), arguments


async def test_psql_that_cannot_connect_says_why(command) -> None:
    command.configure("database: {url: 'postgresql://u:hunter2@127.0.0.1:9/d'}\n")
    ended = await command("psql", "--", "-c", "SELECT 1")
    assert (ended.code, ended.out) == (4, "")
    assert "psql cannot connect" in ended.err
    assert "hunter2" not in ended.err


async def test_doctor_checks_the_role_of_queries(at_work, warehouse, database_url) -> None:
    command, _ = at_work
    role = f"{urlsplit(database_url).path[1:]}_reader"
    settings = command.folder / "config.yaml"
    read_url = database_url.replace("postgres@", f"{role}@")

    async def found() -> tuple[str, str, str]:
        ended = await command("doctor", "--json")
        assert ended.code == 0
        (check,) = (each for each in ended.json if each["name"] == "reader")
        return check["state"], check["found"], check["hint"]

    assert (await command("migrate", "--quiet")).code == 0
    state, says, hint = await found()
    assert (state, "superuser" in says, "database.read_url" in hint) == ("warning", True, True)
    settings.write_text(settings.read_text().replace("database:\n", f"database:\n  read_url: {read_url}\n"))
    state, says, _ = await found()
    assert (state, "database.read_url: " in says) == ("warning", True)
    await warehouse.execute(f'CREATE ROLE "{role}" LOGIN')
    try:
        state, says, hint = await found()
        assert (state, "may not read" in says, f"grant {role} --apply" in hint) == ("warning", True, True)
        assert (await command("grant", role, "--apply")).code == 0
        assert await found() == ("ok", f"queries use {role}, which only reads", "")
        await warehouse.execute(f'GRANT DELETE ON runs TO "{role}"')
        state, says, _ = await found()
        assert (state, "may also write" in says) == ("warning", True)
        await warehouse.execute(f'GRANT postgres TO "{role}"')
        state, says, _ = await found()
        assert (state, "may become" in says) == ("warning", True)
    finally:
        await warehouse.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


async def test_password_of_read_url_is_masked(command) -> None:
    command.configure("database: {read_url: 'postgresql://u:hunter2@127.0.0.1:9/d'}\n")
    for arguments in (("sql", "--url"), ("sql", "SELECT 1"), ("config", "show"), ("report",), ("psql",)):
        ended = await command(*arguments)
        assert "hunter2" not in ended.out + ended.err, arguments
    assert (await command("sql", "--url", "--show-password")).out == "postgresql://u:hunter2@127.0.0.1:9/d\n"
