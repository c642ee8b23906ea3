"""Check that a text is one read-only query. PostgreSQL parses it; this module contains no SQL parser.

`DECLARE ... CURSOR FOR` accepts only a SELECT, VALUES or TABLE statement that changes no data. The text is prepared
behind this prefix, but not executed. The extended protocol takes a single statement, so the text cannot end the DECLARE
and start another statement. SHOW, and EXPLAIN of such a query, are sent without the comments before their first word,
so that they cannot be another statement.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from etl.db.statements import statements
from etl.errors import SettingsError
from etl.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SQL = statements("reading")
_DECLARE = "DECLARE query NO SCROLL CURSOR FOR "
_SEVERAL = "cannot insert multiple commands into a prepared statement"  # as PostgreSQL says it
_FORMS = "Use SELECT, WITH, VALUES, TABLE, SHOW, or EXPLAIN of one of these."

_UNSENDABLE = re.compile("[\0\ud800-\udfff]")
_SPACE = re.compile(r"\s*")
_OF_COLUMNS = re.compile(r"permission denied for (table|view|materialized view|foreign table|column) ")
_WORD = re.compile(r"\w*")
_NAME = re.compile(r'[\w$".]*')
_COMMENT_BOUNDS = re.compile(r"/\*|\*/")
_EXPLAIN_WORD = re.compile(r"(?:analy[sz]e|verbose)\b", re.IGNORECASE)
_EXPLAIN_OPTIONS = re.compile(r"\([\w\s,]*\)")


@dataclass(frozen=True, slots=True)
class QueryText:
    """One read-only statement: a query, which may be used as a subquery, or EXPLAIN or SHOW."""

    sql: str
    is_query: bool


@dataclass(frozen=True, slots=True)
class _Refusal:
    """PostgreSQL's error for the text from index `start` on."""

    failure: asyncpg.PostgresError
    start: int

    @property
    def place(self) -> int | None:
        """Index of the error in the text; None if PostgreSQL reports no position."""
        position = getattr(self.failure, "position", None)
        return None if position is None else self.start + int(position) - 1 - len(_DECLARE)


async def accept(connection: asyncpg.Connection, text: str) -> QueryText:
    """Have PostgreSQL check that a text is one read-only statement, without executing it.

    Args:
        connection: a connection outside of a transaction.
        text: any text.

    Raises:
        SettingsError: the text is not one read-only statement.
    """
    if _UNSENDABLE.search(text):
        raise SettingsError("a query must be UTF-8 text without NUL", hint="Check the file or program it comes from.")
    first = _after_comments(text, 0)
    word = _word_at(text, first)
    if word == "SHOW":
        return QueryText(text[first:], is_query=False)
    refusals = []
    for prefix, start in _explain_prefixes(text, first + len(word)) if word == "EXPLAIN" else [("", 0)]:
        refusal = await _refusal(connection, text, start)
        if refusal is None:
            query = prefix + text[start:]
            return QueryText(query if prefix else await _without_terminator(connection, query), is_query=not prefix)
        refusals.append(refusal)
        if not isinstance(refusal.failure, asyncpg.PostgresSyntaxError):
            break
    furthest = max(refusals, key=lambda each: each.place or 0)
    error = _not_a_query(furthest, text)
    if isinstance(furthest.failure, asyncpg.UndefinedTableError | asyncpg.InvalidSchemaNameError) and not error.hint:
        error.hint = _other_relations(await connection.fetch(_SQL["relations"]), text, furthest.place)
    raise error


def _other_relations(rows: Sequence[asyncpg.Record], text: str, place: int | None) -> str:
    """Return a hint for a query with a relation that does not exist, from the names of those that do."""
    if not rows:
        return (
            "This role sees no tables in the schema: run `cortex-etl migrate` to create them, or "
            "`cortex-etl grant ROLE` to let it read them."
        )
    name = _NAME.match(text, len(text) if place is None else place).group()  # type: ignore[union-attr] # it matches ''
    wanted = name.rpartition(".")[2].strip('"').lower()
    return did_you_mean(wanted, [row["relname"] for row in rows]) or "`cortex-etl describe` lists all tables and views."


async def _refusal(connection: asyncpg.Connection, text: str, start: int) -> _Refusal | None:
    """Return why the text from index `start` on is not a query; None if it is one."""
    try:
        declared = await connection.prepare(_DECLARE + text[start:])
    except (asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError):
        raise
    except asyncpg.PostgresError as failure:
        return _Refusal(failure, start)
    if declared.get_parameters():
        raise SettingsError("a query takes no parameters, such as $1", hint="Write the value itself.")
    return None


async def _without_terminator(connection: asyncpg.Connection, query: str) -> str:
    """Return a query without its final semicolon, which PostgreSQL reports as a syntax error inside parentheses."""
    if ";" not in query:
        return query
    try:
        await connection.prepare(f"COPY (\n{query}\n) TO STDOUT")
    except asyncpg.PostgresSyntaxError as refusal:
        end = int(refusal.position or 0) - 1 - len("COPY (\n")
        if query[end] != ";":
            raise
        return query[:end]
    return query


def _explain_prefixes(text: str, start: int) -> Iterator[tuple[str, int]]:
    """Yield possible EXPLAIN clauses with options, each with the index where its query starts.

    There are two if a parenthesis follows, because it may open a list of options or the query.
    """
    start = _after_comments(text, start)
    if options := _EXPLAIN_OPTIONS.match(text, start):
        yield f"EXPLAIN {options.group()} ", _after_comments(text, options.end())
    words = ["EXPLAIN"]
    while word := _EXPLAIN_WORD.match(text, start):
        words.append(word.group())
        start = _after_comments(text, word.end())
    yield " ".join(words) + " ", start


def _after_comments(text: str, start: int) -> int:
    """Return the index after white space and comments."""
    while True:
        start = _SPACE.match(text, start).end()  # type: ignore[union-attr] # it matches ''
        if text.startswith("--", start):
            start = text.find("\n", start)
        elif text.startswith("/*", start):
            start = _end_of_comment(text, start)
        else:
            return start
        if start == -1:
            return len(text)


def _end_of_comment(text: str, start: int) -> int:
    """Return the index after a comment, which may contain nested comments; -1 if it is not terminated."""
    depth = 0
    for bound in _COMMENT_BOUNDS.finditer(text, start):
        depth += 1 if bound.group() == "/*" else -1
        if depth == 0:
            return bound.end()
    return -1


def _word_at(text: str, start: int) -> str:
    return _WORD.match(text, start).group().upper()  # type: ignore[union-attr] # it matches ''


def _not_a_query(refusal: _Refusal, text: str) -> SettingsError:
    first = _after_comments(text, refusal.start)
    if text.startswith("\\", first):
        command = text[first:].partition("\n")[0].strip()
        hint = f"Run: {shlex.join(['cortex-etl', 'psql', '--', '-c', command])}"
        hint += ", or cortex-etl describe." if command.startswith("\\d") else "."
        return SettingsError(f"{command} is a command of psql, not SQL", hint=hint)
    if isinstance(refusal.failure, asyncpg.PostgresSyntaxError) and refusal.place == first:
        found = _word_at(text, first) or text[first : first + 1] or "an empty statement"
        return SettingsError(f"only read-only queries are allowed, got {found}", hint=_FORMS)
    if "DECLARE CURSOR" in str(refusal.failure):  # a statement that the user did not write
        return SettingsError("only read-only queries are allowed: a WITH clause changes data", hint=_FORMS)
    return refused(refusal.failure, text, refusal.place)


def refused(failure: asyncpg.PostgresError, text: str, place: int | None = None) -> SettingsError:
    """Return the error for a query that PostgreSQL refuses.

    Args:
        failure: PostgreSQL's error.
        text: the query.
        place: index of the error in the query.
    """
    if failure.args[0] == _SEVERAL:
        return SettingsError("expected one statement, got several", hint="Run one statement at a time.")
    where = ""
    if place is not None:
        before = text[:place]
        where = f" (line {before.count(chr(10)) + 1}, column {place - before.rfind(chr(10))})"
    hint = getattr(failure, "hint", None) or ""
    if _OF_COLUMNS.match(failure.args[0]) and not hint:
        hint = "Name only columns that the role of queries may read: see 'Who may read' in docs/operations.md."
    elif isinstance(failure, asyncpg.UndefinedColumnError):
        hint = f"{hint} `cortex-etl describe RELATION` lists the columns.".lstrip()
    elif isinstance(failure, asyncpg.PostgresSyntaxError) and place is None:
        hint = "Run one statement at a time."
    return SettingsError(f"PostgreSQL refused the query: {failure.args[0]}{where}", hint=hint)
