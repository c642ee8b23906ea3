"""Read-only SQL queries."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import asyncpg

from etl.db.connect import connect
from etl.errors import DatabaseError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

# A read-only transaction refuses writes to tables, but not, for example, COPY ... TO PROGRAM.
_ALLOWED = frozenset({"select", "with", "values", "table", "explain", "show"})
# Types with values that Python cannot represent: an interval of a month, infinity, the year 10000, 24:00.
_MOMENTS = frozenset({"timestamptz", "timestamp", "date"})
_AS_TEXT = frozenset(
    "interval time timetz float4 point line lseg box path polygon circle bit varbit".split()  # noqa: SIM905 - reads best
)
# Format numbers and times like psql by default, whatever the settings of the role.
_FORMATS = "SET LOCAL datestyle = 'ISO'; SET LOCAL intervalstyle = 'postgres'; SET LOCAL extra_float_digits = 1"
_BEFORE_FIRST_WORD = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/|\()*", re.DOTALL)


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
    word = re.match(r"\w*", sql[_BEFORE_FIRST_WORD.match(sql).end() :]).group().lower()  # type: ignore[union-attr] # both match ''
    if word not in _ALLOWED:
        raise SettingsError(
            f"Only read-only queries are allowed, got {word.upper() or 'an empty statement'}.",
            hint="Use SELECT, WITH, VALUES, TABLE, EXPLAIN or SHOW.",
        )
    connection = await connect(
        url, schema, application_name="cortex-etl sql", statement_timeout=timeout_s, read_only=True
    )
    try:
        return await _ask(connection, sql)
    except asyncpg.QueryCanceledError as failure:
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
        raise _refused(failure, sql) from failure
    except (ValueError, OverflowError, asyncpg.InterfaceError) as failure:
        raise SettingsError(f"A value of the result cannot be shown: {failure}", hint="Cast it to text.") from failure
    finally:
        connection.terminate()


async def _ask(connection: asyncpg.Connection, sql: str) -> QueryResult:
    transaction = connection.transaction(readonly=True)
    await transaction.start()
    await connection.execute(_FORMATS)
    # A prepared statement is a single statement: "COMMIT; DELETE ..." is refused.
    statement = await connection.prepare(sql)
    kinds = {attribute.type.name.removesuffix("[]") for attribute in statement.get_attributes()}
    if special := kinds & (_MOMENTS | _AS_TEXT):
        for kind in special:
            await connection.set_type_codec(
                kind, schema="pg_catalog", encoder=str, decoder=_decoder(kind), format="text"
            )
        statement = await connection.prepare(sql)
    records = await statement.fetch()
    attributes = statement.get_attributes()
    await transaction.rollback()
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


def _refused(failure: asyncpg.PostgresError, sql: str) -> SettingsError:
    place = ""
    if position := getattr(failure, "position", None):
        before = sql[: int(position) - 1]
        place = f" (line {before.count(chr(10)) + 1}, column {len(before) - (before.rfind(chr(10)) + 1) + 1})"
    hint = getattr(failure, "hint", None) or ""
    if isinstance(failure, asyncpg.UndefinedTableError | asyncpg.InvalidSchemaNameError) and not hint:
        hint = "See docs/warehouse.md for the tables; run `cortex-etl migrate` to create them."
    return SettingsError(f"PostgreSQL refused the query: {failure.args[0]}{place}", hint=hint)
