"""`run_tree`: trees of runs for any data."""

from __future__ import annotations

from decimal import Decimal

import asyncpg

TREE = """
    SELECT root_run_id || ' > ' || run_id || ' (' || depth || coalesce(', by ' || parent_run_id || '.' || parent_step_key, '') || ')'
    FROM run_tree
    ORDER BY root_run_id, depth, run_id
"""


async def runs(warehouse: asyncpg.Connection, *idents: str) -> None:
    for ident in idents:
        await warehouse.execute(
            "INSERT INTO runs (id, status, own_credits, created_at) VALUES ($1, 'COMPLETED', 0.5, '2026-03-01T23:00Z')",
            ident,
        )


async def starts(warehouse: asyncpg.Connection, parent: str, step: str, child: str | None) -> None:
    await warehouse.execute(
        "INSERT INTO run_steps (run_id, step_key, ordinal, type, child_run_id) VALUES ($1, $2, 0, 'workflow', $3)",
        parent,
        step,
        child,
    )
    if child is not None:
        await warehouse.execute("INSERT INTO child_runs VALUES ($1, $2, $3)", parent, step, child)


async def loops(warehouse: asyncpg.Connection, parent: str, step: str, *children: str | None) -> None:
    await starts(warehouse, parent, step, None)
    for place, child in enumerate(children):
        await warehouse.execute(
            "INSERT INTO run_step_calls (run_id, step_key, ordinal, child_run_id) VALUES ($1, $2, $3, $4)",
            parent,
            step,
            place,
            child,
        )
        if child is not None:
            await warehouse.execute("INSERT INTO child_runs VALUES ($1, $2, $3)", parent, step, child)


async def tree(warehouse: asyncpg.Connection) -> list[str]:
    return [row[0] for row in await warehouse.fetch(TREE)]


async def test_runs_are_listed_under_their_root(warehouse: asyncpg.Connection) -> None:
    await runs(warehouse, "alone", "top", "mid", "leaf", "leaf2")
    await starts(warehouse, "top", "call", "mid")
    await starts(warehouse, "mid", "one", "leaf")
    await starts(warehouse, "mid", "two", "leaf2")
    assert await tree(warehouse) == [
        "alone > alone (0)",
        "top > top (0)",
        "top > mid (1, by top.call)",
        "top > leaf (2, by mid.one)",
        "top > leaf2 (2, by mid.two)",
    ]
    total = "SELECT sum(credits) FROM run_tree WHERE root_run_id = 'top'"
    assert await warehouse.fetchval(total) == Decimal("2.0")
    days = "SELECT count(*) FROM run_tree WHERE day = '2026-03-01'"
    assert await warehouse.fetchval(days) == 5


async def test_loop_starts_several_children(warehouse: asyncpg.Connection) -> None:
    await runs(warehouse, "top", "c1", "c2", "c3", "unrelated")
    await loops(warehouse, "top", "each", "c1", "c2", None)
    await loops(warehouse, "top", "other", "c3")
    assert await tree(warehouse) == [
        "top > top (0)",
        "top > c1 (1, by top.each)",
        "top > c2 (1, by top.each)",
        "top > c3 (1, by top.other)",
        "unrelated > unrelated (0)",
    ]


async def test_missing_child_is_shown_without_status(warehouse: asyncpg.Connection) -> None:
    await runs(warehouse, "top")
    await starts(warehouse, "top", "call", "elsewhere")
    rows = await warehouse.fetch("SELECT run_id, status, credits FROM run_tree ORDER BY depth")
    assert [tuple(row) for row in rows] == [("top", "COMPLETED", Decimal("0.5")), ("elsewhere", None, None)]


async def test_child_named_twice_is_listed_once(warehouse: asyncpg.Connection) -> None:
    await runs(warehouse, "top", "mid", "leaf")
    await starts(warehouse, "top", "call", "mid")
    await starts(warehouse, "top", "again", "mid")
    await starts(warehouse, "top", "shortcut", "leaf")
    await starts(warehouse, "mid", "one", "leaf")
    assert await tree(warehouse) == ["top > top (0)", "top > leaf (1, by top.shortcut)", "top > mid (1, by top.again)"]


async def test_cycles_terminate(warehouse: asyncpg.Connection) -> None:
    await runs(warehouse, "self", "top", "a", "b")
    await starts(warehouse, "self", "me", "self")
    await starts(warehouse, "top", "in", "a")
    await starts(warehouse, "a", "on", "b")
    await starts(warehouse, "b", "back", "a")
    await starts(warehouse, "b", "up", "b")
    assert await tree(warehouse) == [
        "self > self (0)",
        "top > top (0)",
        "top > a (1, by top.in)",
        "top > b (2, by a.on)",
    ]


async def test_deep_trees_are_followed(warehouse: asyncpg.Connection) -> None:
    await runs(warehouse, *(f"r{place:03}" for place in range(200)))
    for place in range(199):
        await starts(warehouse, f"r{place:03}", "next", f"r{place + 1:03}")
    assert await warehouse.fetchval("SELECT max(depth) FROM run_tree WHERE root_run_id = 'r000'") == 199
    assert await warehouse.fetchval("SELECT count(*) FROM run_tree") == 200
