"""Read-only questions in SQL to the warehouse."""

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

# A read-only transaction refuses every write to tables, but not, for one, COPY ... TO PROGRAM.
_QUESTIONS = frozenset({"select", "with", "values", "table", "explain", "show"})
# What Python has no value for, or another one: an interval of a month, infinity, the year 10000, 24:00.
_MOMENTS = frozenset({"timestamptz", "timestamp", "date"})
_AS_TEXT = frozenset(
    "interval time timetz float4 point line lseg box path polygon circle bit varbit".split()  # noqa: SIM905 - reads best
)
# As the numbers and times of `psql` look, whatever the role is used to.
_PLAINLY = "SET LOCAL datestyle = 'ISO'; SET LOCAL intervalstyle = 'postgres'; SET LOCAL extra_float_digits = 1"
_BEFORE_FIRST_WORD = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/|\()*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What a query gave: column names, their PostgreSQL types, and rows of Python values in that order.

    `json` and `jsonb` values are JSON text; the types tell them from other text.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]


async def run_query(url: str, schema: str, sql: str, *, timeout_s: float) -> QueryResult:
    """Ask one question, in which unqualified tables are the schema's.

    Args:
        url: the database.
        schema: the warehouse's schema.
        sql: one statement that reads; it cannot write, whatever it says.
        timeout_s: time limit in seconds.

    Raises:
        SettingsError: PostgreSQL refuses the statement, it is none that reads, or the time is up.
        DatabaseError: the database cannot be reached, or goes away.
    """
    word = re.match(r"\w*", sql[_BEFORE_FIRST_WORD.match(sql).end() :]).group().lower()  # type: ignore[union-attr] # both match ''
    if word not in _QUESTIONS:
        raise SettingsError(
            f"Only questions are answered here, and {word.upper() or 'an empty statement'} is none.",
            hint="Begin with SELECT, WITH, VALUES, TABLE, EXPLAIN or SHOW.",
        )
    connection = await connect(
        url, schema, application_name="cortex-etl sql", statement_timeout=timeout_s, read_only=True
    )
    try:
        return await _ask(connection, sql)
    except asyncpg.QueryCanceledError as failure:
        raise SettingsError(
            f"The query took longer than its time limit of {timeout_s:g} s.",
            hint="Bound it, by day for one, or raise the limit.",
        ) from failure
    except (asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError, OSError) as failure:
        raise DatabaseError(
            f"The database went away during the query: {failure}", hint="Check PostgreSQL and ask again."
        ) from failure
    except asyncpg.PostgresError as failure:
        raise _refused(failure, sql) from failure
    except (ValueError, OverflowError, asyncpg.InterfaceError) as failure:
        raise SettingsError(f"A value of the answer cannot be shown: {failure}", hint="Cast it to text.") from failure
    finally:
        connection.terminate()


async def _ask(connection: asyncpg.Connection, sql: str) -> QueryResult:
    transaction = connection.transaction(readonly=True)
    await transaction.start()
    await connection.execute(_PLAINLY)
    # A prepared statement is one statement: "COMMIT; DELETE ..." is refused as a whole.
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
    """A time or a day as Python has it; PostgreSQL's own text of one that Python has not."""
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
        hint = "docs/warehouse.md lists the tables; cortex-etl migrate makes them."
    return SettingsError(f"PostgreSQL refuses the query: {failure.args[0]}{place}", hint=hint)
