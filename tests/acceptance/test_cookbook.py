"""Every query of `docs/cookbook.md` runs, and answers on data as the API serves it."""

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

# What a well-run warehouse has no answer to.
MAY_BE_EMPTY = {
    "Which runs are stuck?",
    "Which runs were replayed or changed long after they began?",
    "Which steps of a workflow never run?",
    "What will the API remove in the next 7 days?",
    "Which runs has only the warehouse left?",
    "What is in quarantine, and why?",
    "Which fields does the API send that have no column yet?",
}


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("answer_cookbook", DOCS / "answer_cookbook.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_is_enough_to_cook_and_all_of_it_is_answered(writer: ModuleType) -> None:
    questions = writer.questions(PAGE)
    assert len(questions) >= 30
    assert len(questions) == PAGE.count("```sql") == PAGE.count("\n### ")
    for question in questions:
        answer = question["answer"].strip()
        assert answer.startswith("| ") or (answer == "None." and question["title"] in MAY_BE_EMPTY), question["title"]


async def test_every_query_answers(writer: ModuleType, database_url: str, warehouse: asyncpg.Connection) -> None:
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
