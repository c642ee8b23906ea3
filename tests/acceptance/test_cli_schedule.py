"""`schedule`: its output works with only a scheduler's environment."""

from __future__ import annotations

import asyncio
import fcntl
import re
from pathlib import Path

import yaml


async def test_cron_line_syncs_silently(at_work, warehouse, tmp_path) -> None:
    command, running = at_work
    command.environment.pop("CORTEX_API_KEY")
    (command.folder / ".env").write_text(f"CORTEX_API_KEY={running.key}\n")
    ended = await command("schedule", "cron", "--every", "5m", "--log", "sync%.log")
    assert (ended.code, ended.err) == (0, "")
    *comments, line = ended.out.splitlines()
    assert all(each.startswith("#") for each in comments)
    times, shell = line.split(" /", 1)
    assert times == "*/5 * * * *"
    assert await as_cron_does(f"/{shell}", tmp_path) == b""
    assert await warehouse.fetchval("SELECT count(*) FROM runs") > 100
    assert (command.folder / "sync%.log").read_text() == ""


async def as_cron_does(line: str, home: Path) -> bytes:
    """Run the command of a crontab line; return its output."""
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", line.replace("\\%", "%"), cwd="/",
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "LOGNAME": "x", "SHELL": "/bin/sh"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return out


async def test_cron_starts_no_overlapping_sync_with_the_lock_of_its_comment(at_work, warehouse, tmp_path) -> None:
    command, running = at_work
    (command.folder / ".env").write_text(f"CORTEX_API_KEY={running.key}\n")
    *comments, line = (await command("schedule", "cron")).out.splitlines()
    prefix = next(found[1] for each in comments if (found := re.search("`(flock .+)`", each)))
    assert str(command.folder) in prefix
    shell = f"{prefix} /{line.split(' /', 1)[1]}"
    with (command.folder / "cortex-etl.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert await as_cron_does(shell, tmp_path) == b""
        assert await warehouse.fetchval("SELECT count(*) FROM etl_syncs") == 0
    assert await as_cron_does(shell, tmp_path) == b""
    assert await warehouse.fetchval("SELECT array_agg(status) FROM etl_syncs") == ["succeeded"]


async def test_variables_set_only_in_the_shell_are_reported(at_work) -> None:
    command, running = at_work
    ended = await command("schedule", "cron")
    assert ended.code == 0
    assert "which the schedule does not see: CORTEX_API_KEY" in ended.err
    assert running.key not in ended.out + ended.err
    (command.folder / ".env").write_text(f"CORTEX_API_KEY={running.key}\n")
    assert (await command("schedule", "cron")).err == ""
    with (command.folder / "config.yaml").open("a") as file:
        file.write("sync: {lookback: '${LOOKBACK}'}\n")
    command.environment["LOOKBACK"] = "2h"
    ended = await command("schedule", "cron")
    assert "LOOKBACK is not set" in ended.err


async def test_variables_in_dotenv_or_without_effect_are_not_reported(at_work) -> None:
    command, running = at_work
    (command.folder / ".env").write_text(f"CORTEX_API_KEY={running.key}\nHTTPS_PROXY=http://proxy.example:3128\n")
    command.environment |= {
        "CORTEX_API_KEY": running.key,
        "HTTPS_PROXY": "http://proxy.example:3128",
        "CORTEX_ETL__API__PAGE_SIZE": "7",
        "DATABASE_URL": "postgresql://db.example/other",  # config.yaml names another
        "PGAPPNAME": "psql",
    }
    ended = await command("schedule", "cron")
    assert "which the schedule does not see: CORTEX_ETL__API__PAGE_SIZE\n" in ended.err
    command.environment["CORTEX_API_KEY"] = "another"
    ended = await command("schedule", "cron")
    assert "which the schedule does not see: CORTEX_API_KEY, CORTEX_ETL__API__PAGE_SIZE\n" in ended.err


async def test_an_error_comes_without_the_warning_about_variables(at_work, tmp_path) -> None:
    command, _ = at_work
    nowhere = str(tmp_path / "nowhere")
    for arguments in (("cron", "--every", "7m"), ("systemd", "--write", nowhere)):
        ended = await command("schedule", *arguments)
        assert (ended.code, ended.out) == (2, "")
        assert "does not see" not in ended.err, ended.err


async def test_systemd_units_refer_to_this_installation(at_work, tmp_path) -> None:
    command, _ = at_work
    with (command.folder / "config.yaml").open("a") as file:
        file.write("metrics: {file: textfile/cortex.prom}\n")
    target = tmp_path / "units"
    target.mkdir()
    ended = await command("schedule", "systemd", "--every", "7m", "--write", str(target))
    assert ended.code == 0
    assert sorted(each.name for each in target.iterdir()) == ["cortex-etl.service", "cortex-etl.timer"]
    service = (target / "cortex-etl.service").read_text()
    start = next(line for line in service.splitlines() if line.startswith("ExecStart="))
    program = start.removeprefix("ExecStart=").split()[0]
    assert Path(program).is_absolute()
    assert str(command.folder / "config.yaml") in start
    assert f"-{command.folder}/textfile" in service
    assert "PrivateTmp" not in service  # PostgreSQL's socket may be in /tmp, like these files
    assert "OnUnitActiveSec=420s" in (target / "cortex-etl.timer").read_text()
    printed = (await command("schedule", "systemd", "--every", "7m")).out
    assert service in printed
    nowhere = await command("schedule", "systemd", "--write", str(tmp_path / "nowhere"))
    assert (nowhere.code, "cannot write" in nowhere.err) == (2, True)


async def test_kubernetes_requires_a_database_url(command, at_work) -> None:
    command, _ = at_work
    ended = await command("schedule", "k8s", "--image", "registry.example/cortex-etl:1")
    assert ended.code == 0
    assert yaml.safe_load(ended.out)["kind"] == "CronJob"
    command.configure("apps: [{id: app_1}]\n")
    ended = await command("schedule", "k8s")
    assert (ended.code, "database.url" in ended.err) == (2, True)


async def test_schedule_requires_settings(command) -> None:
    ended = await command("schedule", "cron")
    assert (ended.code, "cortex-etl init" in ended.err) == (2, True)
    command.configure("apps: [{id: app_1}]\n")
    for every in ("7m", "20s", "soon"):
        ended = await command("schedule", "cron", "--every", every)
        assert (ended.code, "--every" in ended.err) == (2, True)
