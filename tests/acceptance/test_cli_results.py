"""Results of `sql` of any size, streamed in all formats to stdout and to files."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

import asyncpg
import pytest
from command_fixtures import Command

PLAIN = {"NO_COLOR": "1", "TERM": "dumb"}
HOSTILE = "a\x1b[31mb\x07\x9b1m\u202ec\r\nhint: d"


@pytest.fixture
def asking(command, database_url):
    command.configure(f"database: {{url: '{database_url}'}}\n")
    return command


FORMS = ("table", "csv", "json", "jsonl")
QUERIES = (
    "SELECT n, NULL AS nothing FROM generate_series(1, 3) AS n",
    "SELECT n, NULL AS nothing FROM generate_series(1, 3) AS n;",
    "SELECT n, NULL AS nothing FROM generate_series(1, 3) AS n ; -- three)",
    "SELECT n, NULL AS nothing /* ; */ FROM generate_series(1, 3) AS n -- three)",
    "(TABLE three);",
    "WITH t AS (SELECT ';' AS s) SELECT n, NULL AS nothing FROM three, t;/* ; */;",
)


@pytest.mark.parametrize("query", QUERIES)
async def test_every_query_has_the_same_result_in_every_format(asking, warehouse, query) -> None:
    await warehouse.execute("CREATE VIEW three AS SELECT n, NULL::text AS nothing FROM generate_series(1, 3) AS n")
    results = [await asking("sql", query, "--format", form) for form in FORMS]
    assert [ended.code for ended in results] == [0, 0, 0, 0], results
    table, text, listed, lines = (ended.out for ended in results)
    assert table.splitlines()[-1] == "(3 rows)"
    assert text == "n,nothing\n1,\n2,\n3,\n"
    assert json.loads(listed) == [{"n": n, "nothing": None} for n in (1, 2, 3)]
    assert [json.loads(line) for line in lines.splitlines()] == json.loads(listed)


@pytest.mark.parametrize(
    "statement", ["SHOW server_version", "EXPLAIN SELECT ';\"'", "EXPLAIN (FORMAT JSON) SELECT 1", "EXPLAIN (ANALYZE, TIMING off, SUMMARY off) TABLE runs;"]
)  # fmt: skip
async def test_plans_and_settings_have_every_format(asking, statement) -> None:
    table, text, listed, lines = [await asking("sql", statement, "--format", form) for form in FORMS]
    assert (table.code, table.out.splitlines()[-1].endswith(("row)", "rows)"))) == (0, True)
    (name, *_), *rows = list(csv.reader(io.StringIO(text.out)))
    if "JSON" in statement:
        assert listed.json[0][name][0]["Plan"]
    else:
        assert [row[0] for row in rows] == [row[name] for row in listed.json]
    assert [json.loads(line) for line in lines.out.splitlines()] == listed.json


async def test_a_result_without_columns_or_rows(asking) -> None:
    for query, text, listed, lines in (
        ("SELECT FROM generate_series(1, 2)", "\n\n\n", [{}, {}], "{}\n{}\n"),
        ("SELECT 1 AS n WHERE false", "n\n", [], ""),
    ):
        assert (await asking("sql", query, "--format", "csv")).out == text
        assert (await asking("sql", query, "--format", "json")).json == listed
        assert (await asking("sql", query, "--format", "jsonl")).out == lines


async def test_query_that_fails_before_its_first_row_prints_nothing(asking) -> None:
    for query in ("SELECT pg_sleep(30)", "SELECT 1 / (n - 1) FROM generate_series(1, 3) AS n"):
        for form in FORMS:
            ended = await asking("sql", query, "--timeout", "0.2", "--format", form)
            assert (ended.code, ended.out) == (2, ""), form


async def test_json_keeps_digits_names_and_documents(asking) -> None:
    long = "ä" * 31
    query = f"""SELECT 12345678901234567890.10 AS n, '{{"x": 1.000}}'::jsonb AS doc, E'{{\\n"y":\\r\\n2.00}}'::json AS text,
        'NaN'::float8 AS nan, '-Infinity'::numeric AS inf, 1 AS a, 2 AS a_2, 3 AS a, 4 AS "{long}", 5 AS "{long}",
        6 AS "quo""ted", 7 AS "?", interval '1 mon' AS span, '\\x00ff'::bytea AS bytes, 'infinity'::timestamptz AS moment"""
    ended = await asking("sql", query, "--format", "jsonl")
    assert ended.code == 0, ended.err
    (line,) = ended.out.splitlines()
    assert '"n":12345678901234567890.10,"doc":{"x": 1.000},"text":{ "y":  2.00}' in line
    found = json.loads(line)
    del found["n"], found["doc"], found["text"]
    assert found == {
        "nan": "NaN", "inf": "-Infinity", "a": 1, "a_2": 2, "a_3": 3, long: 4, f"{'ä' * 30}_2": 5, 'quo"ted': 6, "?": 7,
        "span": "1 mon", "bytes": "\\x00ff", "moment": "infinity",
    }  # fmt: skip


async def test_json_has_all_columns_whatever_their_names(asking) -> None:
    for query, rows in (
        ("SELECT 1.50 AS r, 2 AS c", '{"r":1.50,"c":2}'),
        ("SELECT ROW(1, 2) AS r, 3 AS c", '{"r":{"f1":1,"f2":2},"c":3}'),
        ("SELECT '[1]'::jsonb AS r", '{"r":[1]}'),
    ):
        assert (await asking("sql", query, "--format", "jsonl")).out == f"{rows}\n"
        assert (await asking("sql", query, "--format", "json")).out == f"[{rows}]\n"


async def test_data_is_exact_in_a_pipe_and_harmless_on_a_terminal(asking, warehouse) -> None:
    await warehouse.execute("INSERT INTO workflows (id, name) VALUES ('w', $1)", HOSTILE)
    query = "SELECT name FROM workflows"
    for form in ("csv", "json", "jsonl"):
        out, _ = await (await asking.start("sql", query, "--format", form)).communicate()
        found: Any = csv.DictReader(io.StringIO(out.decode(), newline="")) if form == "csv" else json.loads(out)
        assert (found if form == "jsonl" else next(iter(found)))["name"] == HOSTILE
    for form in FORMS:
        shown = await asyncio.to_thread(on_a_terminal, asking, "sql", query, "--format", form)
        assert not set(shown) & set("\x1b\x07\x9b\u202e"), form
    assert "(1 row)" in await asyncio.to_thread(on_a_terminal, asking, "sql", query)  # a table by default


async def test_headings_of_tables_are_bold_on_a_terminal(asking) -> None:
    shown = await asyncio.to_thread(on_a_terminal, asking, "sql", "SELECT 1 AS one, 2 AS two", env={"TERM": "xterm"})
    assert "\\x1b" not in shown
    assert "\x1b[1m" in shown


def on_a_terminal(command: Command, *arguments: str, env: Mapping[str, str] = MappingProxyType(PLAIN)) -> str:
    """Return what a command prints on a terminal, by default one without colors."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "etl", *arguments], cwd=command.folder, stdin=theirs, stdout=theirs,
        env=command._environment | dict(env),
    ):  # fmt: skip
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 65536):
                said += part
        except OSError:  # it has ended
            pass
    os.close(ours)
    return said.decode()


async def test_long_tables_are_written_in_blocks(asking) -> None:
    ended = await asking("sql", "SELECT n FROM generate_series(1, 2500) AS n", "--format", "table")
    lines = ended.out.splitlines()
    assert (lines.count(next(iter(lines))), lines[-1]) == (3, "(2,500 rows)")
    assert sum(line.strip().isdigit() for line in lines) == 2500


async def test_result_goes_to_a_file_once_it_is_complete(asking) -> None:
    path = asking.folder / "result"
    for form, content in (
        ("csv", "n\n1\n"), ("json", '[{"n":1}]\n'), ("jsonl", '{"n":1}\n'), ("table", "n\n─\n1\n(1 row)\n"),
    ):  # fmt: skip
        ended = await asking("sql", "SELECT 1 AS n", "--format", form, "-o", "result")
        assert (ended.code, ended.out, ended.err) == (0, "", "")
        assert "\n".join(line.strip() for line in path.read_text().splitlines() if line.strip()) + "\n" == content
    before = path.read_text()
    ended = await asking("sql", "SELECT 1 / (3 - n) FROM generate_series(1, 3) AS n", "-o", "result")
    assert (ended.code, path.read_text()) == (2, before)
    assert {each.name for each in asking.folder.iterdir()} == {"config.yaml", "result"}
    ended = await asking("sql", "SELECT 1", "-o", "nowhere/result")
    assert (ended.code, "cannot write nowhere/result: No such file" in ended.err) == (2, True)
    ended = await asking("sql", "SELECT 1", "-o", "/dev/full")
    assert (ended.code, "cannot write /dev/full: No space left on device" in ended.err) == (2, True)


async def test_query_is_read_from_stdin_if_none_is_given(asking) -> None:
    assert (await asking("sql", stdin="SELECT 9 AS nine;\n")).out == "nine\n9\n"
    assert (await asking("sql", "--format", "json", stdin="SELECT 9 AS nine;\n")).json == [{"nine": 9}]
    assert (await asking("sql", "SELECT 8 AS eight", stdin="SELECT 9 AS nine")).out == "eight\n8\n"
    for stdin in ("", "\n"):
        ended = await asking("sql", stdin=stdin)
        assert (ended.code, "expected one query" in ended.err) == (2, True)
    assert "expected one query" in await asyncio.to_thread(on_a_terminal_with_errors, asking, "sql")


def on_a_terminal_with_errors(command: Command, *arguments: str) -> str:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "etl", *arguments], cwd=command.folder, stdin=theirs, env=command._environment,
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    os.close(ours)
    os.close(theirs)
    return done.stderr


async def test_commands_of_psql_get_a_hint(asking) -> None:
    for typed in ("\\dt", "  \\d+ runs"):
        ended = await asking("sql", typed)
        assert ended.code == 2
        assert f"hint: Run: cortex-etl psql -- -c '{typed.strip()}', or cortex-etl describe." in ended.err


PEAK = """
import resource, subprocess, sys
with open(sys.argv[1], "wb") as out:
    subprocess.run(sys.argv[2:], stdout=out, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
async def test_memory_does_not_grow_with_the_result(asking, form: str) -> None:
    async def peak_mib(rows: int) -> int:
        query = f"SELECT n, repeat('x', 1000) AS text FROM generate_series(1, {rows}) AS n"
        line = [sys.executable, "-c", PEAK, "out", sys.executable, "-m", "etl", "sql", query, "--format", form]
        done = await asyncio.to_thread(
            subprocess.run, line, cwd=asking.folder, env=asking._environment, capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    few, many = await peak_mib(10), await peak_mib(100_000)
    assert (asking.folder / "out").stat().st_size > 100_000_000
    assert many - few < 30


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.05)


async def queries(warehouse: asyncpg.Connection) -> int:
    count: int = await warehouse.fetchval(
        """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'cortex-etl sql' AND state = 'active'
        """
    )
    return count


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("form", FORMS)
async def test_interrupted_query_is_cancelled_in_the_server(asking, warehouse, form, sign) -> None:
    process = await asking.start("sql", "SELECT pg_sleep(60)", "--format", form)
    await until(lambda: has(warehouse, 1))
    process.send_signal(sign)
    out, err = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, out.decode().strip("[")) == (130, "")
    assert "interrupted" in err.decode()
    await until(lambda: has(warehouse, 0))


async def has(warehouse: asyncpg.Connection, count: int) -> bool:
    return await queries(warehouse) == count


@pytest.mark.parametrize("form", FORMS)
async def test_signal_ends_a_query_whose_output_is_not_read(asking, warehouse, form) -> None:
    query = "SELECT repeat('x', 1000) AS text FROM generate_series(1, 100000)"
    process = await asking.start("sql", query, "--format", form)
    assert await process.stdout.read(1)
    process._transport.get_pipe_transport(1).pause_reading()
    await asyncio.sleep(2)  # until the pipe is full
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), 10) == 130
    process._transport.close()
    await until(lambda: has(warehouse, 0))


async def test_time_of_a_slow_reader_does_not_count(asking) -> None:
    query = "SELECT repeat('x', 1000) AS text FROM generate_series(1, 20000)"
    process = await asking.start("sql", query, "--timeout", "3")
    assert await process.stdout.read(1)
    process._transport.get_pipe_transport(1).pause_reading()
    await asyncio.sleep(4)
    process._transport.get_pipe_transport(1).resume_reading()
    out, err = await process.communicate()
    assert (process.returncode, out.count(b"\n"), err) == (0, 20001, b"")


async def test_error_within_a_result_is_reported(asking) -> None:
    for form in FORMS:
        ended = await asking("sql", "SELECT 1 / (90000 - n) FROM generate_series(1, 100000) AS n", "--format", form)
        assert (ended.code, "division by zero" in ended.err) == (2, True)
