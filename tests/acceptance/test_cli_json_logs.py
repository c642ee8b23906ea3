"""With JSON logs, the default in a pipe, each line on stderr is a JSON object, even after errors."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from etl.sandbox.faults import Status, any_request

NOWHERE = "postgresql://u:hunter2@127.0.0.1:9/d"

WRONG = [
    (("sync", "--fast"), 2, "No such option: --fast"),
    (("snyc",), 2, "No such command 'snyc'"),
    (("rejects", "lsit"), 2, "No such command 'lsit'"),
    (("backfill", "--since", "soon\n"), 2, "expected a date"),
    (("plan", "everything"), 2, "'everything' is not one of 'sync', 'backfill'."),
    (("rejects", "retry", "one"), 2, "expected an integer"),
    (("rejects", "retry", "99999999999999999999"), 2, "expected at most 9223372036854775807"),
    (("status", "--config"), 2, "'--config' requires an argument"),
    (("schedule", "cron", "--every", "7m"), 2, "cron cannot run every 7m"),
    (("export",), 2, "Missing argument"),
    (("sync", "--app", "nobody"), 2, "nobody"),
    (("sync",), 3, "no such key"),
    (("doctor", "--quiet", "--speed"), 2, "No such option: --speed"),
    (("forget", "--run", "r"), 2, "Pass --yes"),
    (("sql", "SELECT 1/0"), 2, "division by zero"),
    (("init",), 2, "already exists"),
]  # fmt: skip


def parsed(err: str) -> list[dict]:
    lines = [json.loads(line) for line in err.splitlines()]
    assert all(isinstance(line, dict) and line["event"] and line["level"] for line in lines), err
    return lines


@pytest.mark.parametrize("options", [(), ("--log-format", "json"), ("--log-format=json",)])
async def test_errors_are_json_lines(at_work, options) -> None:
    command, running = at_work
    running.faults.on(any_request, Status(401, message="no such key"))
    command.options = options
    for arguments, code, says in WRONG:
        ended = await command(*arguments)
        last = parsed(ended.err)[-1]
        assert (ended.code, last["event"], last["exit_code"]) == (code, "command.failed", code), (arguments, ended)
        assert last["hint"] != "", "null, as in the summary of a sync"
        assert says in f"{last['error']} {last['hint']}", (arguments, last)
        assert ended.out.startswith("app ") or ended.out == "", arguments


async def test_option_after_an_invalid_one_is_used(command) -> None:
    ended = await command("sync", "--fast", "--log-format", "json")
    assert parsed(ended.err)[0]["error"] == "No such option: --fast"
    ended = await command("sync", "--fast", "--log-format", "json", "--log-format", "console")
    assert ended.err == "error: No such option: --fast\n  hint: Run: cortex-etl sync --help\n"


async def test_help_without_a_command_is_no_message(command) -> None:
    command.options = ()
    for arguments in ((), ("schedule",)):
        ended = await command(*arguments)
        assert (ended.code, "Usage:" in ended.out, ended.err) == (2, True, "")


@pytest.mark.parametrize("arguments", [("sync",), ("status",), ("sql", "SELECT 1"), ("migrate", "-v"), ("doctor",)])
async def test_unreachable_database(at_work, arguments) -> None:
    command, _ = at_work
    command.options = ()
    command.environment["CORTEX_ETL__DATABASE__URL"] = NOWHERE
    process = await command.start(*arguments)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 4
    assert "hunter2" not in (out + err).decode()
    lines = parsed(err.decode())
    if arguments != ("doctor",):
        assert lines[-1]["exit_code"] == 4
    assert ("traceback" in lines[-1]) == ("-v" in arguments) if lines else True


async def test_killed_server(command, sandbox) -> None:
    running = await sandbox()
    apps = "".join(f"  - id: {app_id}\n" for app_id in running.world.apps)
    command.configure(f"api:\n  base_url: {running.url}\n  page_size: 5\n  concurrency: 2\napps:\n{apps}")
    command.environment["CORTEX_API_KEY"] = running.key
    command.options = ()
    pid_file = command.folder / ".cortex-etl" / "postgres" / "postmaster.pid"
    killed: list[int] = []

    async def kill(path: str, query: dict[str, str], _number: int) -> None:
        if query.get("page") == "6" and not killed:
            killed.append(int(pid_file.read_text().split()[0]))
            for each in (psutil.Process(killed[0]), *psutil.Process(killed[0]).children()):
                each.kill()

    running.faults.before_response = kill
    process = await command.start("sync")
    while not killed:
        await asyncio.sleep(0.1)
    await asyncio.sleep(3)
    with suppress(ProcessLookupError):  # the server was restarted, and the sync has ended
        process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 100)
    # Python restores the default action of signals while it shuts down; shells report that as 130 too.
    assert process.returncode in (0, 4, 130, -signal.SIGINT)
    assert parsed(err.decode())


def test_messages_of_libraries_and_of_python_are_log_lines() -> None:
    script = """
import asyncio, logging, threading, warnings
from etl.observe.logs import Logs, take_over_stderr
from etl.observe.secrets import Mask

mask = Mask()
mask.add("hunter2")
take_over_stderr(Logs("json", "info", mask))
warnings.warn("hunter2 is deprecated")
logging.getLogger("asyncpg").error("lost hunter2", exc_info=ValueError("hunter2"))
logging.getLogger("aiohttp").info("not worth a line")

class Odd:
    def __del__(self):
        raise ValueError("hunter2")

Odd()
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()

async def fail():
    raise ValueError("hunter2")

async def main():
    asyncio.get_running_loop().create_task(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)

asyncio.run(main())
raise ValueError("hunter2")
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    lines = parsed(ended.stderr)
    assert ended.stdout == ""
    assert "hunter2" not in ended.stderr
    assert [line["logger"] for line in lines] == ["py.warnings", "asyncpg", "python", "python", "asyncio", "python"]
    assert [line["error"] for line in lines[1:]] == [
        "ValueError: ***", "ValueError: ***", "ZeroDivisionError: division by zero", "ValueError: ***", "ValueError: ***"
    ]  # fmt: skip
