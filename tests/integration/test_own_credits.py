"""Own credits: each credit counts once, in whatever order runs are loaded and changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from random import Random
from typing import Any, cast

import asyncpg
import pytest
from sync_trials import one_stream, trial

from etl.db import erasing
from etl.db.batch import Batch
from etl.db.connect import connect, create_pool
from etl.db.rollups import update_own_credits
from etl.db.session import Session
from etl.db.store import Store
from etl.decode.items import digest
from etl.events import StreamId
from etl.normalize.normalizer import Normalizer
from etl.normalize.rows import RunRows
from etl.sandbox import World

SCHEMA = "cortex"
Json = dict[str, Any]


def run(run_id: str, total: float | None, /, *, workflow: str = "w", at: str | None = "12:00", **steps: Json) -> Json:
    """A run from the API; `steps` are its steps, each with `credits` and the fields of its output."""
    used = {key: {"total": step["credits"]} for key, step in steps.items() if step.get("credits") is not None}
    return {
        "id": run_id,
        "app_id": f"app_{workflow}",
        "workflow_id": workflow,
        "status": "COMPLETED",
        "created_at": at and f"2026-03-01T{at}:00Z",
        "updated_at": "2026-03-01T13:00:00Z",
        "output": {
            key: {"key": key, **{k: v for k, v in step.items() if k != "credits"}} for key, step in steps.items()
        },
        "usage": None if total is None else {"total": total, "steps": used},
    }


def starts(spent: float | None, child: str | None, **fields: Any) -> Json:
    """A workflow step that started a run."""
    return {"type": "workflow", "credits": spent, "output": {"run_id": child, "workflow_id": "w"}, **fields}


def costs(spent: float | None) -> Json:
    return {"type": "code", "credits": spent, "output": {}}


class Loader:
    """Loads batches of runs as a sync does, each run in the stream of its workflow."""

    def __init__(self, pool: asyncpg.Pool, session: Session) -> None:
        self._pool, self._session = pool, session
        self._streams: dict[str, tuple[Store, Normalizer]] = {}

    async def _stream(self, workflow: str) -> tuple[Store, Normalizer]:
        if workflow not in self._streams:
            stream = StreamId(f"app_{workflow}", workflow)
            state = await self._session.lock(stream)
            store = Store(self._pool, self._session, stream, state, sync_id=None)
            self._streams[workflow] = store, Normalizer(*stream)
        return self._streams[workflow]

    async def rows(self, document: Json) -> RunRows:
        _, normalizer = await self._stream(document["workflow_id"])
        raw = json.dumps(document).encode()
        return normalizer.normalize(raw, digest(raw))

    async def load(self, *documents: Json, new: bool = False) -> None:
        by_workflow: dict[str, list[Json]] = {}
        for each in documents:
            by_workflow.setdefault(each["workflow_id"], []).append(each)
        for workflow, of_it in by_workflow.items():
            store, _ = await self._stream(workflow)
            rows = [await self.rows(each) for each in of_it]
            await store.load(Batch(new=rows) if new else Batch(changed=rows))
            async with self._pool.acquire() as connection:
                await update_own_credits(connection)

    async def commit_only(self, document: Json) -> None:
        """Commit a run, and stop as if killed."""
        store, _ = await self._stream(document["workflow_id"])
        async with self._pool.acquire() as connection:
            await store.commit(cast("Any", connection), Batch(changed=[await self.rows(document)]))


@asynccontextmanager
async def loading(url: str, *, size: int = 1) -> AsyncIterator[Loader]:
    async with AsyncExitStack() as stack:
        pool = await create_pool(url, SCHEMA, size=size)
        stack.push_async_callback(pool.close)
        session = await Session.open(url, SCHEMA)
        stack.push_async_callback(session.close)
        yield Loader(pool, session)


@pytest.fixture
async def loader(database_url: str) -> AsyncIterator[Loader]:
    async with loading(database_url) as found:
        yield found


async def own_credits(warehouse: asyncpg.Connection) -> dict[str, Decimal | None]:
    return {
        row["id"]: row["own_credits"] for row in await warehouse.fetch("SELECT id, own_credits FROM runs ORDER BY id")
    }


async def own_credits_of_steps(warehouse: asyncpg.Connection) -> dict[tuple[str, str], Decimal | None]:
    rows = await warehouse.fetch("SELECT run_id, step_key, credits FROM step_facts")
    return {(row["run_id"], row["step_key"]): row["credits"] for row in rows}


def children_of(step: Json) -> list[str]:
    outputs = step["output"] if isinstance(step["output"], list) else [step["output"]]
    named = [output.get("run_id") for output in outputs if output]
    return named + [call["output"].get("run_id") for call in step.get("calls", ())]


def expected(documents: Iterable[Json]) -> tuple[dict[str, Decimal | None], dict[tuple[str, str], Decimal | None]]:
    """Own credits of runs and steps, computed by the definition one run after another."""
    stored = {each["id"]: each for each in documents}

    def total(run_id: str) -> Decimal | None:
        usage = stored[run_id]["usage"]
        return None if usage is None else Decimal(str(usage["total"]))

    namings = []
    for each in stored.values():
        for ordinal, (key, step) in enumerate(each["output"].items()):
            for child in children_of(step):
                if child in stored and child != each["id"]:
                    created = each["created_at"]
                    namings.append(((created is None, created or "", each["id"], ordinal), child, (each["id"], key)))
    first: dict[str, tuple[str, str]] = {}
    for _, child, step_of in sorted(namings):
        first.setdefault(child, step_of)
    own: dict[str, Decimal | None] = {}
    own_of_steps: dict[tuple[str, str], Decimal | None] = {}
    for run_id, each in stored.items():
        own[run_id] = total(run_id)
        used = {} if each["usage"] is None else each["usage"]["steps"]
        for key in each["output"]:
            spent = Decimal(str(used[key]["total"])) if key in used else None
            amounts = [total(child) for child, step_of in first.items() if step_of == (run_id, key)]
            known = [amount for amount in amounts if amount is not None]
            less = min(spent, sum(known, Decimal(0))) if spent is not None and known else Decimal(0)
            own_of_steps[run_id, key] = None if spent is None else spent - less
            if own[run_id] is not None:
                own[run_id] -= less
    return own, own_of_steps


@pytest.fixture
def check(warehouse: asyncpg.Connection):
    async def check(*documents: Json) -> dict[str, Decimal | None]:
        own, own_of_steps = expected(documents)
        assert await own_credits(warehouse) == own
        assert await own_credits_of_steps(warehouse) == own_of_steps
        assert await warehouse.fetchval("SELECT count(*) FROM etl_changed_credits") == 0
        return own

    return check


PARENT = run("parent", 5, at="11:00", own=costs(2), call=starts(3, "child"))
CHILD = run("child", 3, own=costs(3))


@pytest.mark.parametrize("order", [(PARENT, CHILD), (CHILD, PARENT)])
async def test_child_of_the_same_workflow(loader, check, order) -> None:
    await loader.load(*order)
    assert await check(PARENT, CHILD) == {"parent": 2, "child": 3}


@pytest.mark.parametrize("new", [True, False])
async def test_child_of_another_workflow_and_app_that_arrives_later(loader, check, new) -> None:
    child = CHILD | {"workflow_id": "other", "app_id": "app_other"}
    await loader.load(PARENT, new=new)
    assert await check(PARENT) == {"parent": 5}
    await loader.load(child, new=new)
    assert await check(PARENT, child) == {"parent": 2, "child": 3}


async def test_child_that_is_not_in_the_warehouse_stays_with_its_parent(loader, check) -> None:
    await loader.load(PARENT)
    assert await check(PARENT) == {"parent": 5}


async def test_step_without_credits_subtracts_nothing(loader, check) -> None:
    parent = run("parent", 5, own=costs(5), call=starts(None, "child"))
    await loader.load(parent, CHILD)
    assert await check(parent, CHILD) == {"parent": 5, "child": 3}


async def test_step_subtracts_no_more_than_it_cost(loader, check) -> None:
    parent = run("parent", 5, own=costs(4), call=starts(1, "child"))
    await loader.load(parent, CHILD)
    assert await check(parent, CHILD) == {"parent": 4, "child": 3}


async def test_null_stays_null_and_negative_results_are_kept(loader, check) -> None:
    unknown = run("unknown", None, call=starts(None, "child"))
    less = run("less", 1, call=starts(3, "child"))
    childs_unknown = run("parent of unknown", 7, call=starts(7, "unknown"))
    await loader.load(unknown, less, childs_unknown, CHILD)
    own = await check(unknown, less, childs_unknown, CHILD)
    assert own == {"unknown": None, "less": -2, "parent of unknown": 7, "child": 3}


@pytest.mark.parametrize("calls", [True, False], ids=["calls", "items"])
@pytest.mark.parametrize("store_payloads", [True, False])
async def test_children_of_a_loop(loader, check, calls, store_payloads) -> None:
    made = [{"run_id": f"c{place}", "workflow_id": "w"} for place in range(3)]
    called = [{"key": "each", "status": "COMPLETED", "index": place, "output": each} for place, each in enumerate(made)]
    loop = {"type": "workflow", "credits": 6, "output": [None, *made], "calls": called if calls else []}
    parent = run("parent", 8, own=costs(2), each=loop)
    children = [run(f"c{place}", place + 1) for place in range(3)]
    await loader._stream("w")
    loader._streams["w"] = (loader._streams["w"][0], Normalizer("app_w", "w", store_payloads=store_payloads))
    await loader.load(parent, *children[:2])
    assert (await check(parent, *children[:2]))["parent"] == 5
    await loader.load(children[2])
    assert (await check(parent, *children))["parent"] == 2


async def test_steps_of_any_type_start_runs(loader, warehouse) -> None:
    tool = {"key": "ask", "type": "workflow", "status": "COMPLETED", "output": {"run_id": "asked"}}
    agent = {"type": "model", "credits": 4, "output": {"model": "m"}, "calls": [tool]}
    newer = {"type": "subflow", "credits": 2, "output": {"run_id": "newer", "workflow_id": "w"}}
    untyped = {"credits": 1, "output": {"run_id": "untyped", "workflow_id": "w"}}
    echo = {
        "type": "code",
        "credits": 1,
        "output": {"run_id": "asked"},
    }  # names the run, but has another structure than its result
    parent = run("parent", 8, agent=agent, newer=newer, untyped=untyped, echo=echo)
    await loader.load(parent, *(run(each, 1) for each in ("asked", "newer", "untyped")))
    own, _ = expected([parent, run("newer", 1), run("untyped", 1)])
    assert own["parent"] == 6  # without the tool call
    assert await own_credits(warehouse) == {"parent": 5, "asked": 1, "newer": 1, "untyped": 1}


async def test_runs_nested_three_deep(loader, check) -> None:
    runs = [
        run("r0", 10, at="10:00", own=costs(1), call=starts(9, "r1")),
        run("r1", 9, at="10:01", own=costs(2), call=starts(7, "r2")),
        run("r2", 7, at="10:02", own=costs(3), call=starts(4, "r3")),
        run("r3", 4, at="10:03", own=costs(4)),
    ]
    for each in (runs[2], runs[0], runs[3], runs[1]):
        await loader.load(each)
    assert await check(*runs) == {"r0": 1, "r1": 2, "r2": 3, "r3": 4}


async def test_child_named_twice_counts_for_its_first_parent(loader, check) -> None:
    undated = run("a", 5, at=None, call=starts(3, "child"))
    late = run("b", 5, at="11:30", call=starts(3, "child"))
    early = run("c", 5, at="11:00", first=starts(3, "child"), again=starts(1, "child"))
    same = run("d", 5, at="11:00", call=starts(3, "child"))
    stored: list[Json] = []
    for each, first in ((CHILD, None), (undated, "a"), (late, "b"), (same, "d"), (early, "c")):
        stored.append(each)
        await loader.load(each)
        own = await check(*stored)
        assert [run_id for run_id, value in own.items() if value == 2] == ([first] if first else [])


async def test_changes_correct_the_parents(loader, check) -> None:
    other = run("other", 9, at="11:30", call=starts(9, "child"))
    await loader.load(PARENT, CHILD, other)
    later = {"updated_at": "2026-03-02T00:00:00Z"}
    cheaper = run("child", 1) | later
    await loader.load(cheaper)
    assert await check(PARENT, cheaper, other) == {"parent": 4, "child": 1, "other": 9}
    no_more = run("parent", 5, at="11:00", call=starts(3, "elsewhere")) | later
    await loader.load(no_more)
    assert await check(no_more, cheaper, other) == {"parent": 5, "child": 1, "other": 8}
    unknown = run("child", None) | later
    await loader.load(unknown)
    assert await check(no_more, unknown, other) == {"parent": 5, "child": None, "other": 9}


async def test_emptied_parent_keeps_its_children(loader, check, warehouse) -> None:
    """As if the API had deleted the payloads of a run."""
    due = {"retention_due_at": "2026-03-02T00:00:00Z"}
    await loader.load(PARENT | due, CHILD)
    emptied = {"output": None, "usage": PARENT["usage"] | {"total": 6}, "updated_at": "2026-03-02T00:00:00Z"}
    await loader.load(PARENT | due | emptied)
    assert await check(PARENT | {"usage": emptied["usage"]}, CHILD) == {"parent": 3, "child": 3}
    await loader.load(CHILD | {"usage": {"total": 2}, "updated_at": "2026-03-03T00:00:00Z"})
    assert await own_credits(warehouse) == {"parent": 4, "child": 2}


async def test_gone_child_still_counts(loader, check, warehouse) -> None:
    await loader.load(PARENT, CHILD)
    store, _ = await loader._stream("w")
    await store.load(Batch(gone=["child"]))
    assert await warehouse.fetchval("SELECT gone_at IS NOT NULL FROM runs WHERE id = 'child'")
    assert await check(PARENT, CHILD) == {"parent": 2, "child": 3}


async def test_erased_parent_keeps_its_own_credits(loader, warehouse) -> None:
    await loader.load(PARENT, CHILD)
    await erasing.forget(warehouse, ["parent"], [])
    assert await own_credits(warehouse) == {"parent": 2, "child": 3}
    assert await warehouse.fetchval("SELECT count(*) FROM child_runs") == 0
    later = {"updated_at": "2026-03-02T00:00:00Z"}
    await loader.load(run("child", 1) | later, PARENT | {"usage": {"total": 6}} | later)
    assert await own_credits(warehouse) == {"parent": 2, "child": 1}
    assert await warehouse.fetchval("SELECT credits FROM runs WHERE id = 'parent'") == 6
    again = await loader.rows(PARENT | {"usage": {"total": 6}} | later)
    store, _ = await loader._stream("w")
    loaded, _ = await store.load(Batch(changed=[again]))
    assert loaded.unchanged == 1


async def test_erasing_a_child_changes_nothing(loader, warehouse) -> None:
    await loader.load(PARENT, CHILD)
    await erasing.forget(warehouse, ["child"], [])
    assert await own_credits(warehouse) == {"parent": 2, "child": 3}
    await loader.load(CHILD | {"usage": {"total": 1}, "updated_at": "2026-03-02T00:00:00Z"})
    assert await own_credits(warehouse) == {"parent": 4, "child": 1}


@pytest.mark.parametrize(("erased", "at"), [("parent", "11:30"), ("parent", "08:30"), ("other", "11:30")])
async def test_erasing_one_of_two_parents_changes_no_sum(loader, warehouse, erased, at) -> None:
    other = run("other", 9, at=at, call=starts(9, "child"))
    await loader.load(PARENT, CHILD, other)
    before = await own_credits(warehouse)
    await erasing.forget(warehouse, [erased], [])
    assert await own_credits(warehouse) == before
    later = {"updated_at": "2026-03-02T00:00:00Z"}
    await loader.load(PARENT | later, other | later)
    assert await own_credits(warehouse) == before
    assert sum(filter(None, before.values())) == 14


async def test_killed_load_is_completed_by_the_next_one(loader, check, warehouse) -> None:
    await loader.load(CHILD)
    await loader.commit_only(PARENT)
    assert await own_credits(warehouse) == {"parent": 5, "child": 3}
    await loader.load(run("unrelated", 1))
    assert await check(PARENT, CHILD, run("unrelated", 1)) == {"parent": 2, "child": 3, "unrelated": 1}


async def test_idle_sync_completes_a_killed_load(database_url) -> None:
    async with trial(database_url, one_stream(3)) as t:
        await t.agrees()
        await t.connection.execute("""
            UPDATE runs SET credits = 5, own_credits = 5;
            INSERT INTO run_steps (run_id, step_key, ordinal, credits) SELECT min(id), 'call', 99, 4 FROM runs;
            INSERT INTO child_runs SELECT min(id), 'call', max(id) FROM runs;
            INSERT INTO etl_changed_credits (run_ids) SELECT ARRAY[max(id)] FROM runs
        """)
        assert (await t.run()).status == "succeeded"
        own = [row["own_credits"] for row in await t.connection.fetch("SELECT own_credits FROM runs ORDER BY id")]
        assert own == [1, 5, 5]


async def test_locked_parent_is_computed_later(loader, check, warehouse, database_url) -> None:
    await loader.load(PARENT)
    other = await connect(database_url, SCHEMA)
    async with other.transaction():
        await other.execute("UPDATE runs SET status = status WHERE id = 'parent'")
        await asyncio.wait_for(loader.load(CHILD), 10)
        assert await own_credits(warehouse) == {"parent": 5, "child": 3}
        assert not await update_own_credits(warehouse)
    await other.close()
    assert await update_own_credits(warehouse)
    await check(PARENT, CHILD)


@pytest.mark.parametrize("seed", range(8))
async def test_any_order_of_loading_and_changing_gives_the_same(loader, check, warehouse, seed) -> None:
    chance = Random(seed)
    stored: dict[str, Json] = {}
    for number in range(30):
        changed = {each["id"]: each for each in (_random_run(chance, number) for _ in range(chance.randrange(1, 5)))}
        await loader.load(*changed.values(), new=False)
        stored |= changed
        await check(*stored.values())
    remaining = list(stored.values())
    chance.shuffle(remaining)
    await warehouse.execute("TRUNCATE runs CASCADE")
    while remaining:
        many = chance.randrange(1, 5)
        await loader.load(*remaining[:many], new=chance.random() < 0.5)
        remaining = remaining[many:]
    await check(*stored.values())


def _random_run(chance: Random, version: int) -> Json:
    ids = [f"r{place}" for place in range(12)]

    def amount() -> float | None:
        return chance.choice([None, 0, 0.1, 0.2, 0.25, 1, 3, 7])

    def step() -> Json:
        children = chance.choices([*ids, "elsewhere"], k=chance.randrange(4))
        outputs = [{"run_id": child, "workflow_id": "w"} for child in children]
        if not outputs:
            return costs(amount())
        if chance.random() < 0.5:
            return {"type": "workflow", "credits": amount(), "output": outputs[0]}
        calls = [{"key": "s", "status": "COMPLETED", "output": output} for output in outputs]
        return {"type": "workflow", "credits": amount(), "output": outputs, "calls": calls}

    run_id = chance.choice(ids)
    at = chance.choice([None, "10:00", "10:30", "11:00"])
    steps = {f"s{place}": step() for place in range(chance.randrange(4))}
    made = run(run_id, amount(), workflow="vw"[ids.index(run_id) % 2], at=at, **steps)
    return made | {"updated_at": f"2026-03-01T13:{version:02}:00Z"}


@pytest.mark.parametrize("seed", range(3))
async def test_parents_and_children_loaded_at_the_same_time(database_url, warehouse, check, seed) -> None:
    """The credits of both are correct, whichever commits first, and there are no deadlocks."""
    chance = Random(seed)
    documents: dict[str, Json] = {}
    for number in range(60):
        names = [f"c{(number + offset) % 60}" for offset in (0, 1)]
        step = {"type": "workflow", "credits": 4, "output": [{"run_id": each, "workflow_id": "c"} for each in names]}
        documents[f"p{number}"] = run(f"p{number}", 5, workflow="p", at=f"10:{number:02}", own=costs(1), call=step)
        documents[f"c{number}"] = run(f"c{number}", 2, workflow="c", own=costs(2))
    async with loading(database_url) as parents, loading(database_url) as children:
        for version in range(4):
            for each in documents.values():
                each["updated_at"] = f"2026-03-01T13:{version:02}:00Z"
                each["usage"] = each["usage"] | {"total": chance.randrange(1, 9)}

            async def load(one: Loader, prefix: str) -> None:
                mine = [each for run_id, each in documents.items() if run_id[0] == prefix]
                chance.shuffle(mine)
                for start in range(0, len(mine), 7):
                    await one.load(*mine[start : start + 7])

            await asyncio.gather(load(parents, "p"), load(children, "c"))
            assert await update_own_credits(warehouse)  # as at the end of an invocation
            await check(*documents.values())


async def test_sum_over_all_runs_is_the_sum_over_the_roots(database_url) -> None:
    """In the sandbox, the credits of each step include those of the runs that it started."""
    world = World.generate(seed=3, runs=400, rough_edges=False)
    async with trial(database_url, world, max_take=100) as t:
        await t.agrees("backfill")
        sums = await t.connection.fetchrow("""
            SELECT
                count(*) FILTER (WHERE id IN (SELECT run_id FROM child_runs)) AS children,
                round(sum(own_credits), 12) AS own,
                round(sum(credits) FILTER (WHERE id NOT IN (SELECT run_id FROM child_runs)), 12) AS of_roots,
                round(sum(credits), 12) AS with_children
            FROM runs
        """)
        assert sums["children"] > 20
        assert sums["own"] == sums["of_roots"] < sums["with_children"]
