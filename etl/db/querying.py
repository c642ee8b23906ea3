"""Read-only SQL queries with streamed results."""

from __future__ import annotations

import asyncio
import codecs
import csv
import io
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import asyncpg
import msgspec

from etl.db.connect import quote_identifier
from etl.db.query_text import accept, refused
from etl.db.reading import connect_to_read
from etl.db.refusals import unusable
from etl.db.statements import statements
from etl.errors import DatabaseError, SettingsError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from asyncpg.prepared_stmt import PreparedStatement

    from etl.db.query_text import QueryText

# Types with values that Python cannot represent: an interval of a month, infinity, the year 10000, 24:00.
_MOMENTS = frozenset({"timestamptz", "timestamp", "date"})
_AS_TEXT = frozenset(
    "interval time timetz float4 point line lseg box path polygon circle bit varbit".split()  # noqa: SIM905 - reads best
)
_BLOCK_ROWS = 1000
_LONGEST_NAME = 63  # bytes of an identifier
_NO_LIMIT_S = 1e9  # disables the driver's time limit, which includes the time taken by the receiver

_SQL = statements("reading")


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The result of a query: column names, their PostgreSQL types, and rows of Python values.

    `json` and `jsonb` values are JSON text; the types distinguish them from other text.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]


async def run_query(url: str, schema: str, sql: str, *, timeout_s: float) -> QueryResult:
    """Run one read-only query and return all its rows; see `querying`."""
    async with querying(url, schema, sql, timeout_s=timeout_s) as query:
        return QueryResult(query.columns, query.types, [row async for block in query.blocks() for row in block])


@asynccontextmanager
async def querying(url: str, schema: str, sql: str, *, timeout_s: float) -> AsyncIterator[Query]:
    """Prepare one read-only query, with the schema as search_path. On exit, a running query is cancelled.

    Args:
        url: URL of the database.
        schema: schema of the warehouse.
        sql: one statement.
        timeout_s: time limit for PostgreSQL in seconds; the time taken by the receiver of the rows does not count.

    Raises:
        SettingsError: PostgreSQL refuses the statement, it is not read-only, or the time limit is exceeded.
        DatabaseError: the database cannot be reached, or the connection is lost.
    """
    limit = _Limit(sql, timeout_s)
    connection = await connect_to_read(url, schema, purpose="sql")
    try:
        async with limit.running():
            text = await accept(connection, sql)
            await connection.transaction(readonly=True).start()  # ends when the connection is closed
            await connection.execute(_SQL["formats"])
            # Prepare it with the extended protocol, which takes a single statement, as it was checked.
            statement = await connection.prepare(text.sql)
        yield Query(connection, text, statement, limit)
    finally:
        await connection.close()


class _Limit:
    """Limits the time that PostgreSQL spends on a query, and converts errors of the query to errors with hints."""

    def __init__(self, sql: str, seconds: float) -> None:
        self._sql = sql
        self._seconds = self._left_s = seconds
        self._timeout = asyncio.timeout(None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Count the time of the block against the limit, and convert its errors."""
        clock = asyncio.get_running_loop().time
        with self._converted_errors():
            started = clock()
            async with asyncio.timeout(self._left_s) as self._timeout:
                yield
            self._left_s -= clock() - started

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of this block, which is inside a `running` block."""
        clock, end = asyncio.get_running_loop().time, self._timeout.when()
        started = clock()
        self._timeout.reschedule(None)
        yield
        if end is not None:
            self._timeout.reschedule(end + clock() - started)

    @contextmanager
    def _converted_errors(self) -> Iterator[None]:
        try:
            yield
        except (asyncpg.QueryCanceledError, TimeoutError) as failure:
            raise SettingsError(
                f"the query exceeded its time limit of {self._seconds:g} s",
                hint="Limit the query, for example by day, or raise the time limit.",
            ) from failure
        except (asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError, OSError) as failure:
            raise DatabaseError(
                f"lost the connection to the database during the query: {failure}",
                hint="Check PostgreSQL and run the query again.",
            ) from failure
        except asyncpg.DiskFullError as failure:
            raise unusable(failure) from failure
        except asyncpg.PostgresError as failure:
            raise refused(failure, self._sql) from failure
        except (ValueError, OverflowError, asyncpg.InterfaceError, asyncpg.InternalClientError) as failure:
            raise SettingsError(
                f"a value of the result cannot be shown: {failure}", hint="Cast it to text."
            ) from failure


class _OutputError(Exception):
    """The receiver of the result failed."""


class Query:
    """A query that PostgreSQL has accepted. Its result can be read once."""

    def __init__(
        self, connection: asyncpg.Connection, text: QueryText, statement: PreparedStatement[Any], limit: _Limit
    ) -> None:
        self._connection, self._text, self._statement, self._limit = connection, text, statement, limit
        attributes = statement.get_attributes()
        self.columns = tuple(attribute.name for attribute in attributes)
        self.types = tuple(attribute.type.name for attribute in attributes)

    async def blocks(self) -> AsyncGenerator[list[tuple[Any, ...]], None]:
        """Yield the rows as Python values, in blocks. There is at least one block, which may be empty."""
        async with self._limit.running():
            cursor = await (await self._with_codecs()).cursor()
            rows = await cursor.fetch(_BLOCK_ROWS)
        yield [tuple(row) for row in rows]
        while len(rows) == _BLOCK_ROWS:
            async with self._limit.running():
                rows = await cursor.fetch(_BLOCK_ROWS)
            if rows:
                yield [tuple(row) for row in rows]

    async def _with_codecs(self) -> PreparedStatement[Any]:
        """Return the statement with codecs for values that Python cannot represent."""
        special = {kind.removesuffix("[]") for kind in self.types} & (_MOMENTS | _AS_TEXT)
        for kind in special:
            await self._connection.set_type_codec(
                kind, schema="pg_catalog", encoder=str, decoder=_decoder(kind), format="text"
            )
        return await self._connection.prepare(self._text.sql) if special else self._statement

    async def copy(self, form: Literal["csv", "jsonl"], write: Callable[[str], Awaitable[None]]) -> None:
        """Stream the result, formatted by PostgreSQL.

        Args:
            form: CSV with a header, in which null is empty, or one JSON object per line.
            write: receives whole lines; its errors are raised unchanged.
        """
        if not self._text.is_query:  # SHOW and EXPLAIN return few lines
            rows = [row async for block in self.blocks() for row in block]
            await write(_csv(self.columns, rows) if form == "csv" else _json_lines(self.columns, self.types, rows))
            return
        decode = codecs.getincrementaldecoder("utf-8")().decode

        async def forward(data: bytes) -> None:
            with self._limit.paused():
                try:
                    await write(decode(data))
                except OSError as failure:  # distinguish it from errors of the database connection
                    raise _OutputError from failure

        copy = partial(self._connection.copy_from_query, output=forward, timeout=_NO_LIMIT_S, format="csv")
        query = f"\n{self._text.sql}\n"  # PostgreSQL has parsed it as a complete query: it cannot close the parenthesis
        try:
            async with self._limit.running():
                if form == "csv":
                    await copy(query, header=True)
                else:  # JSON contains neither of these control characters
                    await copy(self._as_json(query), delimiter="\2", quote="\1")
        except _OutputError as failure:
            raise failure.__cause__ or failure from None

    def _as_json(self, query: str) -> str:
        """Return a query that yields one JSON object per row, each on one line."""
        names = ", ".join(quote_identifier(name) for name in _unique_names(self.columns))
        columns = f"({names})" if names else ""
        # r.* is the whole row; r alone could be a column. translate takes ten times as long as replace.
        line = "replace(replace(row_to_json(r.*)::text, chr(10), ' '), chr(13), ' ')"
        return f"SELECT {line} FROM ({query}) AS r{columns}"  # noqa: S608 -- checked


def _decoder(kind: str) -> Callable[[str], Any]:
    return _moment if kind in _MOMENTS else float if kind == "float4" else str


def _moment(text: str) -> datetime | date | str:
    """Return a datetime or date, or PostgreSQL's text if Python cannot represent the value."""
    try:
        return date.fromisoformat(text) if len(text) == len("2026-11-25") else datetime.fromisoformat(text)
    except ValueError:
        return text


def _csv(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def _json_lines(columns: Sequence[str], types: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = []
    for row in rows:
        values = [
            msgspec.Raw(msgspec.json.encode(msgspec.json.decode(value))) if kind == "json" else value
            for value, kind in zip(row, types, strict=True)
        ]
        lines.append(msgspec.json.encode(dict(zip(columns, values, strict=True))).decode() + "\n")
    return "".join(lines)


def _unique_names(names: Sequence[str]) -> list[str]:
    """Return the names, with a number appended to repeated ones: `runs`, `runs_2`."""
    unique: list[str] = []
    for name in names:
        each, number = name, 1
        while each in unique:
            number += 1
            suffix = f"_{number}"
            each = name.encode()[: _LONGEST_NAME - len(suffix)].decode(errors="ignore") + suffix
        unique.append(each)
    return unique
