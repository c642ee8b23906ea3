"""Closed and full standard streams do not end a command accidentally."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest


async def run(command, script: str) -> tuple[int, str]:
    """Run a shell command line, in which `$etl` is the command; return its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-o", "pipefail", "-c", script,
        cwd=command.folder, env=command._environment | {"etl": f"{sys.executable} -m etl --log-format console"},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 90)
    return process.returncode or 0, out.decode()


@pytest.mark.parametrize(
    "stderr", ["2> /dev/full", "-v 2> /dev/full", "2>&-", "-v 2>&1 > /dev/null | head -n 1", "<&- >&- 2>&-"]
)
async def test_sync_succeeds_whatever_happens_to_its_log(at_work, warehouse, stderr: str) -> None:
    command, _ = at_work
    code, out = await run(command, f"$etl sync {stderr}")
    assert code == 0, out
    assert [tuple(row) for row in await warehouse.fetch("SELECT status, error FROM etl_syncs")] == [("succeeded", None)]
    assert await warehouse.fetchval("SELECT count(*) FROM runs") > 0


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$etl config show --quiet 2>&-", 0),
        ("$etl sql 'SELECT 1' >&-", 0),
        ("$etl nonsense 2> /dev/full", 2),
        ("$etl sql - <&-", 2),
    ],
)
async def test_closed_standard_streams_are_empty(at_work, line: str, code: int) -> None:
    command, _ = at_work
    ended, out = await run(command, line)
    assert ended == code, out
    assert "unexpected" not in out


async def test_full_device_is_reported(at_work) -> None:
    command, _ = at_work
    code, out = await run(command, "$etl sql 'SELECT 1' > /dev/full")
    assert code == 1
    assert out.startswith("error: No space left on device")
    assert out.count("\n") == 2


async def test_characters_missing_from_the_encoding_are_escaped(at_work, warehouse) -> None:
    command, _ = at_work
    command.environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    await warehouse.execute("INSERT INTO workflows (id, name) VALUES ('w', 'Zoë 🌍')")
    question = "SELECT name FROM workflows"
    for form in ("table", "csv", "json"):
        code, out = await run(command, f"$etl sql '{question}' --format {form}")
        assert (code, "Zo\\u00eb \\ud83c\\udf0d" in out) == (0, True), out
    assert json.loads(out) == [{"name": "Zoë 🌍"}]
    assert (await run(command, "$etl sync"))[0] == 0
    assert (await run(command, "$etl status"))[0] == 0


async def test_report_can_be_written_to_stdout(at_work) -> None:
    command, _ = at_work
    assert (await command("migrate", "--quiet")).code == 0
    code, out = await run(
        command, "echo one > log; $etl report -o /dev/stdout >> log 2> said; echo two >> log; cat log"
    )
    assert (code, out.startswith("one\n<!doctype html>"), "</html>" in out, out.endswith("two\n")) == (
        0,
        True,
        True,
        True,
    )
    assert (command.folder / "said").read_text() == "Wrote /dev/stdout\n"
    assert await run(command, "$etl report -o /dev/stdout 2> said | head -n 1") == (0, "<!doctype html>\n")


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        *((line, 0) for line in ("doctor", "status", "sql 'TABLE runs'", "sandbox --port 0")),
        *((line, 3) for line in ("sql 'TABLE runs'", "sandbox --port 0", "config show", "rejects list")),
    ],
)
async def test_reader_that_closes_the_pipe_is_not_an_error(at_work, line: str, lines: int) -> None:
    command, _ = at_work
    if lines:
        line = line.replace("TABLE runs", "SELECT * FROM generate_series(1, 100000)")
        line = line.replace("sandbox --port 0", "sync --json")
    code, out = await run(command, f"$etl {line} --log-format json 2> said | head -n {lines}; exit ${{PIPESTATUS[0]}}")
    assert (code in (0, 2), out.count("\n") <= lines) == (True, True)
    said = (command.folder / "said").read_text()
    assert all(each.startswith("{") for each in said.splitlines()), said
