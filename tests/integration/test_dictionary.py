"""`docs/warehouse.md` matches the comments in the database."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from etl.dictionary import read_relations, render

PAGE = Path(__file__).parents[2] / "docs" / "warehouse.md"


async def test_dictionary_is_up_to_date(warehouse: asyncpg.Connection) -> None:
    page = render(await read_relations(warehouse, "cortex"))
    assert page == PAGE.read_text(encoding="utf-8"), "run: python -m etl.dictionary > docs/warehouse.md"


async def test_dictionary_lists_every_relation_and_column(warehouse: asyncpg.Connection) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for relation in await read_relations(warehouse, "cortex"):
        entry = page.partition(f"\n### {relation.name}\n")[2].partition("\n### ")[0]
        assert relation.comment.split(":")[0][:30] in entry
        assert [line.split("`")[1] for line in entry.splitlines() if line.startswith("| `")] == [
            column.name for column in relation.columns
        ]
    assert "runs ||--o{ run_steps" in page
