"""What discovery finds is written, and what a listing no longer shows is marked gone."""

from __future__ import annotations

import json
from typing import Any

from etl.db.connect import create_pool
from etl.db.workflows import save_workflows
from etl.normalize import normalize_workflow


def listing(*workflows: tuple[str, str | None]) -> list[Any]:
    """The rows of a listing of (workflow, app that it belongs to)."""
    documents = [{"id": name, "app": None if owner is None else {"id": owner}} for name, owner in workflows]
    return [normalize_workflow(json.dumps(document).encode()) for document in documents]


async def test_a_workflow_is_gone_when_its_listing_shows_it_no_more(database_url: str) -> None:
    pool = await create_pool(database_url, "cortex", size=1)

    async def gone() -> list[str]:
        rows = await pool.fetch("SELECT id FROM workflows WHERE gone_at IS NOT NULL ORDER BY id")
        return [row["id"] for row in rows]

    await save_workflows(pool, "b", listing(("b1", "b"), ("b2", "b")))
    await save_workflows(pool, "a", listing(("a1", "a"), ("b1", "b"), ("nobody's", None)))
    assert await gone() == []  # that b1 is shown here too does not make b2 gone
    await pool.execute("INSERT INTO etl_streams (app_id, workflow_id) VALUES ('a', 'nobody''s')")
    await save_workflows(pool, "a", listing(("b1", "b")))
    assert await gone() == ["a1", "nobody's"]
    await save_workflows(pool, "a", listing(("a1", "a"), ("b1", "b"), ("nobody's", None)))
    assert await gone() == []
    await save_workflows(pool, "b", listing(("b1", "b")))
    assert await gone() == ["b2"]
    await pool.close()
