"""Databases set as for libpq, by variables, services and password files; accounts without a home directory."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from command_fixtures import Ended, ended
from postgres_proxies import gated

COMMANDS = (("sync",), ("status",), ("doctor",), ("sql", "SELECT 1"), ("psql", "--", "-c", "SELECT 1"), ("report",))


@pytest.fixture
def place(database_url: str) -> dict[str, str]:
    parts = urlsplit(database_url)
    return {
        "host": parse_qs(parts.query)["host"][0],
        "port": parse_qs(parts.query)["port"][0],
        "dbname": parts.path[1:],
        "user": parts.username or "postgres",
    }


def rename(command, old: str, new: str) -> None:
    path = command.folder / "config.yaml"
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("url", ["postgresql://", "postgresql:///"])
async def test_commands_use_the_variables(at_work, database_url, place, url) -> None:
    command, _ = at_work
    rename(command, database_url, url)
    names = {"host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE", "user": "PGUSER"}
    command.environment |= {names[name]: value for name, value in place.items()}
    for arguments in COMMANDS:
        done = await command(*arguments)
        assert done.code == 0, (arguments, done)


@pytest.mark.parametrize("how", ["parameter", "variable", "dotenv"])
async def test_commands_use_the_service(at_work, database_url, place, how) -> None:
    command, _ = at_work
    file = command.folder / "services"
    file.write_text("[cortex]\n" + "".join(f"{name}={value}\n" for name, value in place.items()))
    rename(command, database_url, "postgresql:///?service=cortex" if how == "parameter" else "postgresql:///")
    named = {"PGSERVICEFILE": str(file)} | ({} if how == "parameter" else {"PGSERVICE": "cortex"})
    if how == "dotenv":
        (command.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in named.items()))
    else:
        command.environment |= named
    for arguments in COMMANDS:
        done = await command(*arguments)
        assert done.code == 0, (arguments, done)


async def test_doctor_reports_unused_variables(at_work, database_url) -> None:
    command, _ = at_work
    command.environment |= {"PGHOST": "elsewhere.example", "PGPASSWORD": "hunter2"}
    found = [each for each in (await command("doctor", "--json")).json if "not used" in each["found"]]
    assert [(each["state"], each["found"]) for each in found] == [
        ("warning", "PGHOST set, but not used: database.url says otherwise")
    ]
    rename(command, f"database:\n  url: {database_url}\n", "")
    found = [each for each in (await command("doctor", "--json")).json if "not used" in each["found"]]
    assert "PGHOST, PGPASSWORD set, but not used: the embedded PostgreSQL is used" in found[0]["found"]
    assert "postgresql://" in found[0]["hint"]


async def run_homeless(command, arguments: tuple[str, ...], home: dict[str, str]) -> Ended:
    """Run a command as an account without a name, as in a pod with `runAsUser`."""
    dropped = ("HOME", "USER", "LOGNAME", "XDG")
    environment = {name: value for name, value in command._environment.items() if not name.startswith(dropped)} | home
    process = await asyncio.create_subprocess_exec(
        "unshare", "--user", "--map-user=12345", "--map-group=12345", sys.executable, "-m", "etl", *arguments,
        cwd=command.folder, env=environment, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    return await ended(process)


@pytest.mark.parametrize("home", ["unset", "unreadable"])
async def test_commands_need_no_home(at_work, database_url, tmp_path: Path, home: str) -> None:
    command, _ = at_work
    if subprocess.run(["unshare", "--user", "--map-user=12345", "true"], check=False).returncode != 0:
        pytest.skip("this system allows no user namespaces")
    given: dict[str, str] = {}
    if home == "unreadable":
        if os.geteuid() != 0:
            pytest.skip("only root can make a directory of another account")
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o700)
        os.chown(locked, 65534, 65534)
        given["HOME"] = str(locked)
    async with gated(database_url) as gate:  # over TCP, with which TLS is tried first
        rename(command, database_url, gate.url)
        for arguments in (*COMMANDS, ("export", "files"), ("config", "show"), ("schedule", "cron")):
            if arguments[0] == "psql" and home == "unreadable":
                continue  # libpq itself looks for certificates
            done = await run_homeless(command, arguments, given)
            assert done.code == 0, (arguments, done)
        rename(command, "postgres@", "")
        done = await run_homeless(command, ("status",), given)
        assert done.code == 2, done
        assert "names no user" in done.err
