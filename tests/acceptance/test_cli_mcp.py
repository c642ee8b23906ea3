"""`mcp` with the client of the official SDK, over stdin and stdout."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from command_fixtures import Command, clean_environment
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

Call = Callable[..., Awaitable[tuple[bool, str]]]


@pytest.fixture
async def reader_url(database_url: str, warehouse: asyncpg.Connection, command: Command) -> AsyncIterator[str]:
    """The URL of a role that only reads."""
    role = f"assistant_{warehouse.get_server_pid()}"
    await warehouse.execute(f"CREATE ROLE {role} LOGIN")
    command.configure(f"database: {{url: '{database_url}'}}\n")
    assert (await command("grant", role, "--apply")).code == 0
    parts = urlsplit(database_url)
    url = urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))
    command.configure(f"database: {{url: '{database_url}', read_url: '{url}'}}\n")
    yield url
    await warehouse.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@asynccontextmanager
async def assistant(command: Command, *arguments: str) -> AsyncIterator[tuple[ClientSession, Call]]:
    """Start the server as a client does; yield the session and a function that calls a tool: (is error, text)."""
    environment = clean_environment() | {"XDG_CONFIG_HOME": "/nonexistent"} | command.environment
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "etl", "mcp", *arguments], env=environment, cwd=command.folder
    )
    with (command.folder / "stderr").open("w") as log:
        async with stdio_client(server, errlog=log) as streams, ClientSession(*streams) as session:
            await session.initialize()

            async def call(tool: str, **given: object) -> tuple[bool, str]:
                result = await session.call_tool(tool, given)
                (content,) = result.content
                return bool(result.is_error), content.text

            yield session, call


async def test_tools_are_described_as_read_only(command: Command, reader_url: str) -> None:
    async with assistant(command) as (session, _):
        tools = {each.name: each for each in (await session.list_tools()).tools}
        assert list(tools) == ["query", "describe", "examples"]
        assert all(each.annotations.read_only_hint and each.description for each in tools.values())
        assert tools["query"].input_schema["required"] == ["sql"]


async def test_query_returns_rows_as_json_lines(command: Command, reader_url: str) -> None:
    async with assistant(command) as (_, call):
        failed, text = await call(
            "query", sql="SELECT 1 AS n, 'a' AS word, null AS nothing UNION ALL SELECT 2, E'b\\n', 3"
        )
        first, second, end = text.splitlines()
        assert (failed, json.loads(first), end) == (False, {"n": 1, "word": "a", "nothing": None}, "(2 rows)")
        assert json.loads(second) == {"n": 2, "word": "b\n", "nothing": 3}
        assert await call("query", sql="SELECT id FROM runs") == (False, "(0 rows)")
        odd = "\x1b\x9b\u2028\u202e"
        _, text = await call("query", sql=f"SELECT '{odd}' AS word")
        assert (json.loads(text.splitlines()[0]), set(text) & set(odd)) == ({"word": odd}, set())
        failed, text = await call("query", sql=f"SELECT '{odd}'::integer")
        assert (failed, "\\x1b\\x9b\\u2028\\u202e" in text, set(text) & set(odd)) == (True, True, set())
        assert (await call("query", sql="EXPLAIN SELECT 1"))[1].startswith('{"QUERY PLAN":')
        assert '"transaction_read_only":"on"' in (await call("query", sql="SHOW transaction_read_only"))[1]


async def test_query_reads_as_the_role_of_read_url(command: Command, reader_url: str) -> None:
    async with assistant(command) as (_, call):
        role = urlsplit(reader_url).username
        assert json.loads((await call("query", sql="SELECT current_user AS role"))[1].splitlines()[0]) == {"role": role}
        failed, text = await call("query", sql="SELECT payload FROM etl_rejects")
        assert (failed, "permission denied" in text) == (True, True)


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT wrong FROM runs", 'column "wrong" does not exist'),
        ("SELECT 1 +", "syntax error"),
        ("DELETE FROM runs", "only read-only queries are allowed, got DELETE"),
        ("SELECT 1; SELECT 2", "expected one statement, got several"),
        ("/* /* */ select 1 */ COPY runs TO PROGRAM 'true'", "only read-only queries are allowed"),
        ("SELECT pg_sleep(30)", "time limit of 0.5 s"),
    ],
)
async def test_a_wrong_query_gives_the_error_of_postgresql(
    command: Command, reader_url: str, sql: str, says: str
) -> None:
    async with assistant(command, "--timeout", "0.5s") as (_, call):
        failed, text = await call("query", sql=sql)
        assert (failed, says in text) == (True, True), text
        assert (await call("query", sql="SELECT 1 AS n"))[1] == '{"n":1}\n(1 row)'


async def test_long_answers_are_truncated(command: Command, reader_url: str) -> None:
    more = ", and more that are not shown: limit or aggregate the rows, or select fewer columns)"
    async with assistant(command, "--rows", "3") as (_, call):
        text = (await call("query", sql="SELECT n FROM generate_series(1, 10000000) AS n"))[1]
        assert text.splitlines() == ['{"n":1}', '{"n":2}', '{"n":3}', f"(3 rows{more}"]
        assert (await call("query", sql="SELECT n FROM generate_series(1, 3) AS n"))[1].endswith("(3 rows)")
        assert (await call("query", sql="SELECT repeat('x', 200000) AS long"))[1] == f"(0 rows{more}"


async def test_describe_explains_relations_and_columns(command: Command, reader_url: str) -> None:
    async with assistant(command) as (_, call):
        assert "  run_facts " in (await call("describe"))[1]
        text = (await call("describe", relation="cortex.run_facts"))[1]
        assert text.startswith("run_facts (view)\nOne row per run")
        assert any(line.split()[:3] == ["duration_s", "double", "precision"] for line in text.splitlines())
        failed, text = await call("describe", relation="run_fact")
        assert (failed, "Did you mean run_facts" in text) == (True, True)


async def test_examples_are_those_of_the_cookbook(command: Command, reader_url: str) -> None:
    async with assistant(command) as (_, call):
        titles = (await call("examples"))[1].splitlines()
        assert len(titles) >= 30
        assert all(each.startswith("- ") for each in titles if each)
        text = (await call("examples", search="Credits model"))[1]
        assert text.startswith("### ")
        for each in text.split("```sql\n")[1:]:
            assert not (await call("query", sql=each.partition("```")[0]))[0]
        assert (await call("examples", search="zebra"))[1].startswith("No question contains: zebra.")


async def test_requests_are_answered_concurrently(command: Command, reader_url: str) -> None:
    async with assistant(command) as (_, call):
        slow = asyncio.ensure_future(call("query", sql="SELECT pg_sleep(20)"))
        assert (await call("query", sql="SELECT 1 AS n"))[1] == '{"n":1}\n(1 row)'
        assert not slow.done()
        slow.cancel()


async def test_a_superuser_is_refused(command: Command, database_url: str) -> None:
    for settings in (f"{{url: '{database_url}'}}", f"{{url: '{database_url}', read_url: '{database_url}'}}"):
        command.configure(f"database: {settings}\n")
        ended = await command("mcp")
        assert (ended.code, ended.out) == (2, "")
        assert "superuser" in ended.err
        assert "database.read_url" in ended.err


async def test_the_password_is_in_no_answer(command: Command, reader_url: str) -> None:
    command.configure((command.folder / "config.yaml").read_text() + "api: {key: hunter2hunter2}\n")
    async with assistant(command) as (_, call):
        failed, text = await call("query", sql="SELECT hunter2hunter2")
        assert (failed, "hunter2hunter2" in text) == (True, False)


async def test_a_lost_database_is_an_error_of_the_tool(command: Command, reader_url: str) -> None:
    async with assistant(command) as (_, call):
        await _allow_connections(reader_url, False)
        try:
            failed, text = await call("query", sql="SELECT 1 AS n")
            assert (failed, "hint: " in text) == (True, True)
        finally:
            await _allow_connections(reader_url, True)
        assert (await call("query", sql="SELECT 1 AS n")) == (False, '{"n":1}\n(1 row)')


async def _allow_connections(url: str, allowed: bool) -> None:
    parts = urlsplit(url)
    owner = parts._replace(netloc=f"postgres@{parts.netloc.rpartition('@')[2]}", path="/postgres")
    connection = await asyncpg.connect(urlunsplit(owner))
    await connection.execute(f'ALTER DATABASE "{parts.path[1:]}" ALLOW_CONNECTIONS {allowed}')
    await connection.close()


async def test_server_ends_with_stdin_and_with_a_signal(command: Command, reader_url: str) -> None:
    assert (await command("mcp", stdin="")).code == 0
    for sign in (signal.SIGINT, signal.SIGTERM):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "etl", "mcp", cwd=command.folder, env=clean_environment(),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"not JSON\n")  # answered with an error, or ignored; the next request is answered
        process.stdin.write(b'{"jsonrpc": "2.0", "id": 7, "method": "ping"}\n')
        while '"id":7' not in (await asyncio.wait_for(process.stdout.readline(), 30)).decode():
            pass
        process.send_signal(sign)
        async with asyncio.timeout(5):  # while stdin is open
            await process.wait()
        assert process.returncode == 130


async def test_mcp_works_with_the_demo(command: Command) -> None:
    assert (await command("demo", "--runs", "60", "--quiet")).code == 0
    async with assistant(command, "--demo") as (_, call):
        failed, text = await call("query", sql="SELECT count(*) > 50 AS enough, current_user AS role FROM run_facts")
        assert (failed, text.splitlines()[0]) == (False, '{"enough":true,"role":"cortex_reader"}')
    assert not list(Path(command.folder).glob("*.md"))
