"""The MCP server on stdin and stdout, and its tools: query, describe and examples."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.stdio import stdio_server
from mcp.types import ToolAnnotations

from etl import __version__
from etl.assistant.cookbook import examples, page, questions
from etl.db.querying import querying
from etl.db.reading import may_become_superuser, reading_url
from etl.db.refusals import DRIVER_ERRORS, unusable
from etl.dictionary import description, overview, read_dictionary
from etl.errors import EtlError, SettingsError
from etl.text import counted, visible, visible_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from etl.config import Settings

_INSTRUCTIONS = """\
A PostgreSQL warehouse of Cortex workflow runs, read with SQL. Call `examples` and `describe` before you write a query.
The view run_facts has one row per run, step_facts one per step. In views, `credits` count each credit once in sums.
Days are in UTC, durations in seconds."""

_ONLY_READS = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
_MAX_CONNECTIONS = 4
_WIDTH = 120
_MAX_CHARACTERS = 100_000  # of a result
_CHUNK = 65536  # bytes of stdin read at once


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a query: rows of the result, and seconds in PostgreSQL."""

    rows: int
    timeout_s: float


async def serve(settings: Settings, limits: Limits, mask: Callable[[str], str]) -> None:
    """Answer requests on stdin until end of file.

    Args:
        limits: the limits of each query.
        mask: masks secrets in error messages.

    Raises:
        SettingsError: the role for queries is a superuser, or may become one.
        DatabaseError: the warehouse cannot be reached.
    """
    if await may_become_superuser(await reading_url(settings), settings.database.schema_name):
        raise SettingsError(
            "the assistant would query as a superuser, or as a role that may become one",
            hint="Create a role that only reads, run: cortex-etl grant ROLE --apply, and set database.read_url.",
        )
    server = MCPServer("cortex-etl", version=__version__, instructions=_INSTRUCTIONS, log_level="WARNING")
    for tool in _tools(settings, limits, mask):
        server.add_tool(tool, annotations=_ONLY_READS, structured_output=False)
    lines: Any = StdinLines()
    async with stdio_server(stdin=lines) as (requests, answers):
        inner = server._lowlevel_server  # noqa: SLF001 -- the public method does not accept these streams
        await inner.run(requests, answers, inner.create_initialization_options())


def _tools(settings: Settings, limits: Limits, mask: Callable[[str], str]) -> list[Callable[..., Any]]:
    connections = asyncio.Semaphore(_MAX_CONNECTIONS)
    schema = settings.database.schema_name

    async def query(sql: str) -> str:
        """Run one read-only query (SELECT, WITH, VALUES, TABLE, SHOW or EXPLAIN); return its rows as JSON lines."""
        with _converted_errors(mask):
            async with connections:
                url = await reading_url(settings)
                return await _rows(url, schema, sql, limits)

    async def describe(relation: str = "") -> str:
        """Describe the columns of a table or view: types, meanings and units. Without a name, list all of them."""
        with _converted_errors(mask):
            async with connections:
                found = await read_dictionary(await reading_url(settings), schema)
            lines = description(found.relation(relation), _WIDTH) if relation else overview(found.relations, _WIDTH)
            return "\n".join(lines)

    async def examples_(search: str = "") -> str:
        """Return questions with their SQL, those that contain all words. Without words, list all questions."""
        found = "\n\n".join(examples(questions(page()), search))
        return found or f"No question contains: {search}. Call this tool without words to list all questions."

    examples_.__name__ = "examples"
    return [query, describe, examples_]


@contextmanager
def _converted_errors(mask: Callable[[str], str]) -> Iterator[None]:
    """Convert errors to a `ToolError` with message and hint."""
    try:
        yield
    except EtlError as error:
        hint = f"\nhint: {visible(mask(error.hint))}" if error.hint else ""
        raise ToolError(f"{visible(mask(error.message))}{hint}") from None
    except (*DRIVER_ERRORS, OSError) as error:
        raise ToolError(visible(mask(unusable(error).message))) from None


class _LimitReachedError(Exception):
    """The result has reached a limit."""


async def _rows(url: str, schema: str, sql: str, limits: Limits) -> str:
    """Return the rows of a query as JSON lines, and a last line with their number and whether there are more."""
    rows: list[str] = []
    characters = 0

    async def add(text: str) -> None:
        nonlocal characters
        for line in filter(None, visible_json(text).split("\n")):
            characters += len(line)
            if len(rows) == limits.rows or characters > _MAX_CHARACTERS:
                raise _LimitReachedError
            rows.append(line)

    end = ""
    async with querying(url, schema, sql, timeout_s=limits.timeout_s) as found:
        try:
            await found.copy("jsonl", add)
        except _LimitReachedError:
            end = ", and more that are not shown: limit or aggregate the rows, or select fewer columns"
    return "\n".join([*rows, f"({counted(len(rows), 'row')}{end})"])


class StdinLines:
    """An asynchronous iterator over the lines of stdin. A daemon thread reads them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[str | None] = asyncio.Queue(1)
        threading.Thread(target=self._read, daemon=True).start()

    def __aiter__(self) -> StdinLines:
        """Return itself; the lines can be read only once."""
        return self

    async def __anext__(self) -> str:
        """Return the next line."""
        line = await self._lines.get()
        if line is None:
            raise StopAsyncIteration
        return line

    def _read(self) -> None:
        try:
            rest = b""
            while chunk := os.read(0, _CHUNK):  # not sys.stdin, whose lock the interpreter needs at exit
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._put(line.decode(errors="replace"))
            self._put(None)
        except RuntimeError:
            pass  # the loop is closed

    def _put(self, line: str | None) -> None:
        asyncio.run_coroutine_threadsafe(self._lines.put(line), self._loop).result()
