"""Read-only SQL queries."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import asyncpg

from etl.db.query_text import accept, refused
from etl.db.reading import connect_to_read
from etl.db.statements import statements
from etl.errors import DatabaseError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Types with values that Python cannot represent: an interval of a month, infinity, the year 10000, 24:00.
_MOMENTS = frozenset({"timestamptz", "timestamp", "date"})
_AS_TEXT = frozenset(
    "interval time timetz float4 point line lseg box path polygon circle bit varbit".split()  # noqa: SIM905 - reads best
)

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
    """Run one read-only query, with the schema as search_path.

    Args:
        url: URL of the database.
        schema: schema of the warehouse.
        sql: one statement.
        timeout_s: time limit in seconds.

    Raises:
        SettingsError: PostgreSQL refuses the statement, it is not read-only, or the time limit is exceeded.
        DatabaseError: the database cannot be reached, or the connection is lost.
    """
    connection = await connect_to_read(url, schema, purpose="sql", time_limit_s=timeout_s)
    try:
        with _explained_failures(sql, timeout_s):
            async with asyncio.timeout(timeout_s):
                return await _ask(connection, sql)
    finally:
        await connection.close()


@contextmanager
def _explained_failures(sql: str, timeout_s: float) -> Iterator[None]:
    try:
        yield
    except (asyncpg.QueryCanceledError, TimeoutError) as failure:
        raise SettingsError(
            f"The query exceeded its time limit of {timeout_s:g} s.",
            hint="Limit the query, for example by day, or raise the time limit.",
        ) from failure
    except (asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError, OSError) as failure:
        raise DatabaseError(
            f"Lost the connection to the database during the query: {failure}",
            hint="Check PostgreSQL and run the query again.",
        ) from failure
    except asyncpg.PostgresError as failure:
        raise refused(failure, sql) from failure
    except (ValueError, OverflowError, asyncpg.InterfaceError, asyncpg.InternalClientError) as failure:
        raise SettingsError(f"A value of the result cannot be shown: {failure}", hint="Cast it to text.") from failure


async def _ask(connection: asyncpg.Connection, sql: str) -> QueryResult:
    text = await accept(connection, sql)
    await connection.transaction(readonly=True).start()  # the connection ends with it
    await connection.execute(_SQL["formats"])
    # With the extended protocol again, as it was checked.
    statement = await connection.prepare(text.sql)
    kinds = {attribute.type.name.removesuffix("[]") for attribute in statement.get_attributes()}
    if special := kinds & (_MOMENTS | _AS_TEXT):
        for kind in special:
            await connection.set_type_codec(
                kind, schema="pg_catalog", encoder=str, decoder=_decoder(kind), format="text"
            )
        statement = await connection.prepare(text.sql)
    records = await statement.fetch()
    attributes = statement.get_attributes()
    return QueryResult(
        tuple(attribute.name for attribute in attributes),
        tuple(attribute.type.name for attribute in attributes),
        [tuple(record) for record in records],
    )


def _decoder(kind: str) -> Callable[[str], Any]:
    return _moment if kind in _MOMENTS else float if kind == "float4" else str


def _moment(text: str) -> datetime | date | str:
    """Return a datetime or date, or PostgreSQL's text if Python cannot represent the value."""
    try:
        return date.fromisoformat(text) if len(text) == len("2026-11-25") else datetime.fromisoformat(text)
    except ValueError:
        return text
