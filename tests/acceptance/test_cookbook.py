"""Every query of `docs/cookbook.md` runs and returns rows for realistic data."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
from sync_trials import trial

from etl.assistant.cookbook import page, questions
from etl.db.querying import run_query
from etl.errors import SettingsError
from etl.sandbox import World

PAGE = page()

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


def test_cookbook_has_a_result_for_each_query() -> None:
    found = questions(PAGE)
    assert len(found) >= 30
    assert len(found) == PAGE.count("```sql") == PAGE.count("\n### ")
    for question in found:
        answer = question.answer
        assert answer.startswith("| ") or (answer == "None." and question.title in MAY_BE_EMPTY), question.title


async def test_cookbook_queries_return_rows(database_url: str, warehouse: asyncpg.Connection) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    wrong = []
    async with trial(database_url, World.generate(runs=900, days=45, now=now - timedelta(hours=1))) as api:
        await api.run("backfill")
    await warehouse.execute("ANALYZE")
    for question in questions(PAGE):
        try:
            result = await run_query(database_url, "cortex", question.sql, timeout_s=20)
        except SettingsError as error:
            wrong.append(f"{question.title} {error}")
            continue
        if not result.rows and question.title not in MAY_BE_EMPTY:
            wrong.append(f"{question.title} no rows")
        answered = question.answer.partition("\n")[0]
        if answered != "None." and answered != "| " + " | ".join(result.columns) + " |":
            wrong.append(f"{question.title} the answer shows other columns")
    assert wrong == []
