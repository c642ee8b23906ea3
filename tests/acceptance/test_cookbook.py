"""Every query of `docs/cookbook.md` runs and returns rows for realistic data."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import asyncpg
import pytest
from sync_trials import trial

from etl.db.query import run_query
from etl.errors import SettingsError
from etl.sandbox import World

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "cookbook.md").read_text(encoding="utf-8")

# Queries that may return no rows.
MAY_BE_EMPTY = {
    "Which runs are stuck?",
    "Which runs were replayed or changed long after they started?",
    "Which steps of a workflow never run?",
    "What will the API remove in the next 7 days?",
    "Which runs exist only in the warehouse?",
    "What is in quarantine, and why?",
    "Which fields of the API have no column yet?",
}


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("answer_cookbook", DOCS / "answer_cookbook.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cookbook_has_a_result_for_each_query(writer: ModuleType) -> None:
    questions = writer.questions(PAGE)
    assert len(questions) >= 30
    assert len(questions) == PAGE.count("```sql") == PAGE.count("\n### ")
    for question in questions:
        answer = question["answer"].strip()
        assert answer.startswith("| ") or (answer == "None." and question["title"] in MAY_BE_EMPTY), question["title"]


async def test_cookbook_queries_return_rows(
    writer: ModuleType, database_url: str, warehouse: asyncpg.Connection
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    wrong = []
    async with trial(database_url, World.generate(runs=900, days=45, now=now - timedelta(hours=1))) as api:
        await api.run("backfill")
    await warehouse.execute("ANALYZE")
    for question in writer.questions(PAGE):
        try:
            result = await run_query(database_url, "cortex", question["sql"], timeout_s=20)
        except SettingsError as error:
            wrong.append(f"{question['title']} {error}")
            continue
        if not result.rows and question["title"] not in MAY_BE_EMPTY:
            wrong.append(f"{question['title']} no rows")
        answered = question["answer"].strip().partition("\n")[0]
        if answered != "None." and answered != "| " + " | ".join(result.columns) + " |":
            wrong.append(f"{question['title']} the answer shows other columns")
    assert wrong == []
