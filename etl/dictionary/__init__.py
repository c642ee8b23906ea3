"""The data dictionary `docs/warehouse.md`, made from the database's own comments.

`python -m etl.dictionary > docs/warehouse.md` writes it anew from `migrations/`, in a throw-away server.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etl.db import embedded
from etl.db.connect import connect
from etl.db.migrate import migrate
from etl.db.statements import statements

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import asyncpg

_SCHEMA = "cortex"
_INTRODUCTION = """\
# The warehouse

Made from the database's own comments by `python -m etl.dictionary`: in psql, `\\d+ cortex.runs` says the same.
[cookbook.md](cookbook.md) has questions with their SQL.

## What holds everywhere

- Everything lives in one schema, `cortex` unless `database.schema` says otherwise. Names and meanings here stay:
  columns, tables and views are added, none is renamed or dropped.
- Times are `timestamptz`; a day is a UTC day of `created_at`. Bound questions by it: the views read no more than the
  days asked for.
- Credits are `numeric`, with the digits as the API sent them. Rates are 0 to 1.
- `status`, `origin` and `type` are text: the API adds values without notice.
- A run that leaves the API stays here, with `gone_at` set.
- What no column holds stands in `extra`, under its path in the payload, so nothing is lost. Also there: numbers too
  large for their column, which is null then.
- NUL and lone surrogates, which PostgreSQL cannot store, are `\N{REPLACEMENT CHARACTER}` in place.
- JSON null is SQL NULL.
"""
_CHAPTERS = {
    "runs": ("## Runs", "What happened."),
    "definitions": ("## Workflows and their definitions", "What was meant to happen."),
    "bookkeeping": ("## Bookkeeping", "What the syncs remember. For reading; cortex-etl writes it."),
    "views": ("## Views", "The questions people ask, answered."),
    "rollups": (
        "## Behind the daily views",
        "What the views read for days that are counted, and how the others are. Ask the views where they serve.",
    ),
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `kind` is key (part of the primary key), computed or empty."""

    name: str
    type: str
    kind: str
    comment: str


@dataclass(frozen=True, slots=True)
class Relation:
    """A table or view. `references` maps column names, joined by commas, to the table that a foreign key names."""

    name: str
    is_view: bool
    comment: str
    columns: tuple[Column, ...]
    references: dict[str, str]
    indexes: dict[str, str]

    @property
    def chapter(self) -> str:
        """The chapter of the dictionary that it stands in."""
        if self.name.startswith(("rollup_", "counted_", "etl_uncounted_")) or self.name.endswith("_days"):
            return "rollups"
        if self.is_view:
            return "views"
        if self.name.startswith("etl_"):
            return "bookkeeping"
        return "runs" if self.name.startswith("run") else "definitions"


async def read_relations(connection: asyncpg.Connection, schema: str) -> list[Relation]:
    """Everything of `schema` with its comments, in the order in which it was made."""
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
                Column(row["name"], row["type"], row["kind"], row["comment"])
                for row in columns
                if row["relation"] == relation["name"]
            ),
            {", ".join(row["columns"]): row["target"] for row in references if row["relation"] == relation["name"]},
            {row["name"]: row["comment"] for row in indexes if row["relation"] == relation["name"]},
        )
        for relation in await connection.fetch(sql["relations"], schema)
    ]


def render(relations: Sequence[Relation]) -> str:
    """The dictionary as Markdown."""
    lines = [_INTRODUCTION, *_diagram(relations)]
    for chapter, (heading, sentence) in _CHAPTERS.items():
        lines += ["", heading, "", sentence]
        for relation in relations:
            if relation.chapter == chapter:
                lines += _entry(relation)
    return "\n".join(lines) + "\n"


def _diagram(relations: Sequence[Relation]) -> Iterator[str]:
    """A Mermaid diagram of the tables: a full line is a foreign key, a dotted one what a column's comment names."""
    relations = [relation for relation in relations if not relation.is_view and relation.chapter != "rollups"]
    tables = {relation.name for relation in relations}
    yield "## How the tables hang together"
    yield ""
    yield "A full line is a foreign key; along a dotted one the other row may be missing (not synced, or not yet)."
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
    yield "| column | type | meaning |"
    yield "| --- | --- | --- |"
    for column in relation.columns:
        kind = f", {column.kind}" if column.kind else ""
        type_name = column.type.replace("timestamp with time zone", "timestamptz")
        yield f"| `{column.name}` | {type_name}{kind} | {_sentence(column.comment)} |"
    if relation.indexes:
        yield ""
        yield "Indexes:"
        yield ""
        yield from (f"- `{name}`: {_sentence(comment)}" for name, comment in relation.indexes.items())


def _sentence(comment: str) -> str:
    """A comment as Markdown takes it."""
    return re.sub(r"([|*<>#]|(?<!\w)_|_(?!\w))", r"\\\1", comment)


def main() -> None:
    """Write the dictionary to stdout."""
    with tempfile.TemporaryDirectory(prefix="ce-") as directory:
        try:
            sys.stdout.write(render(asyncio.run(_read_fresh(embedded.start(Path(directory))))))
        finally:
            embedded.stop(Path(directory))


async def _read_fresh(url: str) -> list[Relation]:
    connection = await connect(url, _SCHEMA)
    await migrate(connection, _SCHEMA)
    relations = await read_relations(connection, _SCHEMA)
    await connection.close()
    return relations


if __name__ == "__main__":
    main()
