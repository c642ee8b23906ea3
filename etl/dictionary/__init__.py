"""The data dictionary, from the comments in the database: `docs/warehouse.md`, and plain text for terminals.

`python -m etl.dictionary > docs/warehouse.md` regenerates the page from `migrations/`, using a temporary server.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from etl.db.reading import reading
from etl.db.statements import statements
from etl.errors import DatabaseError, SettingsError
from etl.tables import ENTITIES
from etl.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import asyncpg

_INTRODUCTION = """\
# The warehouse

Generated from the comments in the database by `python -m etl.dictionary`; `\\d+ cortex.runs` in psql shows the same.
[cookbook.md](cookbook.md) has example queries, and [recipes.md](recipes.md) shows how to query from other tools.

## Conventions

- All tables are in one schema, `cortex` unless `database.schema` is set. Releases add columns, tables and views; they
  do not rename or drop any.
- Times are `timestamptz`; a day is the UTC day of `created_at`. Filter by day: the views then read only those days.
  Runs without `created_at` have no day; conditions such as `day >= ...` and `created_at >= ...` leave them out.
- In `runs`, `app_id` is the app from which the run was triggered. In views, it is the app that the workflow belongs to
  if the run names it, otherwise the app from which the run was triggered; in `sync_health`, the app of the stream.
- Credits are `numeric`. In tables, `credits` is the number of the API, with all digits sent: what a run or step cost,
  the runs that it started included. In views, `credits` leave those out, so that a sum counts each credit once; sums
  are rounded to 12 decimals. `credits_with_children` is the number of the API; where the API gives a run none, what its
  child runs cost is in no `credits_with_children` above them, but in the sum of `credits`. If a child run is replayed,
  its credits change and those of its parent do not; the sum of `credits` then differs from what the API gives for the
  runs that no other run started. Credits of 10^15 or more are too large for sums and go to `extra`.
- Durations are in seconds, rates between 0 and 1.
- `status`, `origin` and `type` are text, because the API adds values without notice.
- A run that is gone from the API stays in the warehouse, with `gone_at` set.
- Fields without a column are kept in `extra`, keyed by their path in the payload. So are numbers that are too large for
  their column, which is null then.
- Numbers in `jsonb` keep their digits. One that `jsonb` cannot hold (`1e400000`) is kept as text: `"1e400000"`.
- NUL and lone surrogates, which PostgreSQL cannot store, are replaced by `\N{REPLACEMENT CHARACTER}`.
- JSON null is SQL NULL.
- *from* is the JSON path of the field that a column holds, as in `payloads.redact`: in the run, or for `workflows` and
  `apps` in the listed workflow. `*` stands for a step key, `[*]` for each item of a list.
"""
_LATE_AFTER = timedelta(days=1)  # used before the first sync

_FIELDS = {
    table.name: {column.name: f"`$.{column.path}`" for column in table.columns if column.path} for table in ENTITIES
}
"""The JSON path of the field in each column, by table and column."""

CHAPTERS = {
    "runs": ("## Runs", "Workflow runs and their steps, calls and usage."),
    "definitions": ("## Workflows and their definitions", "Apps, workflows, their versions and steps."),
    "bookkeeping": ("## Bookkeeping", "The state of the syncs. Read-only: cortex-etl maintains these tables."),
    "views": ("## Views", "Ready-made answers to common questions."),
    "rollups": (
        "## Rollups behind the daily views",
        "Precomputed days that the daily views read. Prefer the views.",
    ),
}

_INDENT = "  "
_NARROWEST = 24  # minimum width of wrapped text in characters


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `kind` is `key` (part of the primary key), `computed` or ''. Columns of views are always nullable."""

    name: str
    type: str
    kind: str
    comment: str
    nullable: bool = True

    @property
    def short_type(self) -> str:
        """The type with its usual abbreviation."""
        return self.type.replace("timestamp with time zone", "timestamptz")


@dataclass(frozen=True, slots=True)
class Relation:
    """A table or view. `references` maps the columns of a foreign key, joined by commas, to the referenced table."""

    name: str
    is_view: bool
    comment: str
    columns: tuple[Column, ...]
    references: dict[str, str]
    indexes: dict[str, str]

    @property
    def chapter(self) -> str:
        """The chapter of the dictionary that contains the relation."""
        if self.name.startswith(("rollup_", "counted_", "etl_uncounted_")) or self.name.endswith("_days"):
            return "rollups"
        if self.is_view:
            return "views"
        if self.name.startswith("etl_"):
            return "bookkeeping"
        return "runs" if self.name.startswith("run") or self.name.endswith("_runs") else "definitions"


@dataclass(frozen=True, slots=True)
class Dictionary:
    """The dictionary of a warehouse. `late_after` is the time without a complete sync after which a stream is late."""

    schema: str
    relations: tuple[Relation, ...]
    late_after: timedelta

    def relation(self, name: str) -> Relation:
        """Return the table or view with a name, which may be qualified by a schema.

        Raises:
            SettingsError: it does not exist.
        """
        by_name = {each.name: each for each in self.relations}
        wanted = name.rpartition(".")[2]
        if wanted not in by_name:
            raise SettingsError(
                f"there is no table or view {name}",
                hint=did_you_mean(wanted, by_name) or "`cortex-etl describe` lists all.",
            )
        return by_name[wanted]


async def read_dictionary(url: str, schema: str) -> Dictionary:
    """Read the dictionary of a warehouse.

    Raises:
        DatabaseError: the warehouse cannot be reached or read, or does not exist.
    """
    async with reading(url, schema, purpose="describe") as connection:
        relations = await read_relations(connection, schema)
        if not relations:
            raise DatabaseError(
                f'the schema "{schema}" contains no tables', hint="Run `cortex-etl migrate`, then `cortex-etl sync`."
            )
        late_after = await connection.fetchval(statements("dictionary")["late_after"])
    return Dictionary(schema, tuple(relations), late_after or _LATE_AFTER)


async def read_relations(connection: asyncpg.Connection, schema: str) -> list[Relation]:
    """Read the tables and views of a schema with their comments, in order of creation."""
    sql = statements("dictionary")
    columns = await connection.fetch(sql["columns"], schema)
    references = await connection.fetch(sql["references"], schema)
    indexes = await connection.fetch(sql["indexes"], schema)
    return [
        Relation(
            relation["name"],
            relation["is_view"],
            relation["comment"],
            tuple(
                Column(row["name"], row["type"], row["kind"], row["comment"], row["nullable"])
                for row in columns
                if row["relation"] == relation["name"]
            ),
            {", ".join(row["columns"]): row["target"] for row in references if row["relation"] == relation["name"]},
            {row["name"]: row["comment"] for row in indexes if row["relation"] == relation["name"]},
        )
        for relation in await connection.fetch(sql["relations"], schema)
    ]


def render(relations: Sequence[Relation]) -> str:
    """Render the dictionary as Markdown."""
    lines = [_INTRODUCTION, *_diagram(relations)]
    for chapter, (heading, sentence) in CHAPTERS.items():
        lines += ["", heading, "", sentence]
        for relation in relations:
            if relation.chapter == chapter:
                lines += _entry(relation)
    return "\n".join(lines) + "\n"


def _diagram(relations: Sequence[Relation]) -> Iterator[str]:
    """Yield a Mermaid diagram of the tables: solid lines are foreign keys, dotted ones are named in column comments."""
    relations = [relation for relation in relations if not relation.is_view and relation.chapter != "rollups"]
    tables = {relation.name for relation in relations}
    yield "## Relationships"
    yield ""
    yield "Solid lines are foreign keys. Along dotted lines, the referenced row may be missing (not synced yet)."
    yield ""
    yield "```mermaid"
    yield "erDiagram"
    for relation in relations:
        yield from (f'    {target} ||--o{{ {relation.name} : "{by}"' for by, target in relation.references.items())
        bound = {column for columns in relation.references for column in columns.split(", ")}
        for column in relation.columns:
            named = re.search(r"\((\w+)\.(\w+)", column.comment)
            if named and named[1] in tables and column.name not in bound:
                yield f'    {named[1]} ||..o{{ {relation.name} : "{column.name}"'
    yield "```"


def _entry(relation: Relation) -> Iterator[str]:
    yield ""
    yield f"### {relation.name}"
    yield ""
    yield _sentence(relation.comment)
    yield ""
    fields = _FIELDS.get(relation.name, {})
    yield "| column | type | from | meaning |" if fields else "| column | type | meaning |"
    yield "| --- | --- | --- | --- |" if fields else "| --- | --- | --- |"
    for column in relation.columns:
        kind = f", {column.kind}" if column.kind else ""
        field = f" {fields.get(column.name, '')} |" if fields else ""
        yield f"| `{column.name}` | {column.short_type}{kind} |{field} {_sentence(column.comment)} |"
    if relation.indexes:
        yield ""
        yield "Indexes:"
        yield ""
        yield from (f"- `{name}`: {_sentence(comment)}" for name, comment in relation.indexes.items())


def _sentence(comment: str) -> str:
    """Escape a comment for Markdown."""
    return re.sub(r"([|*<>#]|(?<!\w)_|_(?!\w))", r"\\\1", comment)


def overview(relations: Sequence[Relation], width: int) -> Iterator[str]:
    """Yield a line or more for each table and view, by chapter."""
    widest = max(len(relation.name) for relation in relations)
    for number, (chapter, (_, sentence)) in enumerate(CHAPTERS.items()):
        if number:
            yield ""
        yield sentence
        for relation in relations:
            if relation.chapter == chapter:
                yield from _row([(relation.name, widest)], relation.comment, width)


def description(relation: Relation, width: int) -> Iterator[str]:
    """Yield the description of a table or view, and the type and meaning of each column, as lines."""
    yield f"{relation.name} ({'view' if relation.is_view else 'table'})"
    yield from textwrap.wrap(relation.comment, max(width, _NARROWEST))
    yield ""
    types = [f"{column.short_type}, {column.kind}" if column.kind else column.short_type for column in relation.columns]
    widths = [max(map(len, (column.name for column in relation.columns))), max(map(len, types))]
    for column, kind in zip(relation.columns, types, strict=True):
        yield from _row([(column.name, widths[0]), (kind, widths[1])], column.comment, width)


def _row(cells: Sequence[tuple[str, int]], text: str, width: int) -> list[str]:
    """Return the lines of a row: cells padded to their widths, followed by wrapped text."""
    start = _INDENT + "".join(f"{cell:<{size}}{_INDENT}" for cell, size in cells)
    return textwrap.wrap(
        text,
        max(width, len(start) + _NARROWEST),
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_on_hyphens=False,
    ) or [start.rstrip()]
