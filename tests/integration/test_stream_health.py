"""The states of streams (`sync_health`): requested, failing, retired, held."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from api_clients import QUICK
from postgres_fixtures import add_owners
from pydantic import SecretStr
from sync_trials import SCHEMA

import etl.plan
import etl.sync
from etl.app import run_sync, status_report
from etl.config import ApiSettings, AppSettings, DatabaseSettings, Settings, SyncSettings
from etl.db.connect import create_pool
from etl.db.health import record_requested
from etl.db.queue import Queue
from etl.db.session import Session
from etl.db.statements import statements
from etl.errors import TRY_LATER
from etl.events import StreamId
from etl.observe.metrics import read_warehouse_health
from etl.sandbox import World
from etl.sandbox.faults import HTML_OK, Status

COMPLETE = {
    "backfill_done": "true",
    "api_count": "2",
    "last_synced_at": "now() - interval '90 seconds'",
    "last_succeeded_at": "now() - interval '90 seconds'",
}
LONG_AGO = "now() - interval '25 hours'"
IN_A_YEAR = "now() + interval '1 year'"
TIMES = ("last_synced_at", "last_succeeded_at", "last_reconciled_at")


@pytest.mark.parametrize(
    ("state", "changes"),
    [
        ("complete", {}),
        ("complete", {"last_succeeded_at": LONG_AGO, "late_after": "interval '48 hours'"}),
        ("late", {"last_succeeded_at": LONG_AGO}),
        ("late", {"last_succeeded_at": IN_A_YEAR}),
        ("failing", {"last_error": "'no answer'", "last_succeeded_at": LONG_AGO}),
        ("incomplete", {"api_count": "3", "last_error": "'no answer'"}),
        ("incomplete", {"api_count": "3", "last_error": "'full'", "last_hint": "'Free disk space.'"}),
        ("incomplete", {"api_count": "1"}),
        ("loading", {"backfill_done": "false", "last_error": "'no answer'", "api_count": "3"}),
        ("retired", {"requested": "false", "backfill_done": "false"}),
    ],
)
async def test_first_state_that_applies(warehouse: asyncpg.Connection, state: str, changes: dict[str, str]) -> None:
    values = COMPLETE | changes
    await warehouse.execute(
        f"INSERT INTO etl_streams (app_id, workflow_id, {', '.join(values)}) VALUES ('a', 'w', {', '.join(values.values())})"
    )
    await warehouse.execute("INSERT INTO workflows (id, name) VALUES ('w', 'Invoices')")
    for run_id in ("r1", "r2"):
        await warehouse.execute(
            "INSERT INTO runs (id, stream_app_id, workflow_id, status) VALUES ($1, 'a', 'w', 'COMPLETED')", run_id
        )
    row = await warehouse.fetchrow("SELECT * FROM sync_health")
    assert (row["state"], row["workflow_name"], row["warehouse_count"]) == (state, "Invoices", 2)
    assert row["lag_s"] == pytest.approx(90, abs=1)
    assert (row["blocker"] is None) == (state in {"complete", "retired"})
    assert (row["hint"] is None) == (state in {"complete", "retired"})
    assert (row["hint"] == "Free disk space.") == ("last_hint" in changes)


async def test_stream_is_new_until_it_is_read(warehouse: asyncpg.Connection, database_url: str) -> None:
    await warehouse.execute("INSERT INTO etl_streams (app_id, workflow_id) VALUES ('a', 'w')")
    assert await warehouse.fetchval("SELECT state FROM sync_health") == "new"
    await warehouse.execute("""UPDATE etl_streams SET backfill_cursor = '{}'""")
    row = await warehouse.fetchrow("SELECT state, hint, held_by FROM sync_health")
    assert tuple(row) == ("loading", "Run: cortex-etl backfill --workflow w", None)


async def test_stream_is_loading_while_an_invocation_holds_it(warehouse: asyncpg.Connection, database_url: str) -> None:
    session = await Session.open(database_url, SCHEMA)
    sync_id = (await session.start_sync("backfill"))["id"]
    await session.lock(StreamId("a", "w"))
    row = await warehouse.fetchrow("SELECT state, held_by, hint FROM sync_health")
    assert row["state"] == "loading"
    assert row["held_by"].startswith(f"backfill {sync_id} (process ")
    assert row["hint"].endswith("If the number of runs no longer grows, end that process: held_by names it.")
    assert await warehouse.fetchval("SELECT status FROM sync_history") == "running"
    await session.close()
    row = await warehouse.fetchrow("SELECT state, held_by FROM sync_health")
    assert tuple(row) == ("new", None)
    assert await warehouse.fetchval("SELECT status FROM etl_syncs") == "running"
    assert await warehouse.fetchval("SELECT status FROM sync_history") == "interrupted"


async def test_stream_in_the_queue_of_an_invocation_is_loading(
    warehouse: asyncpg.Connection, database_url: str
) -> None:
    await warehouse.execute("INSERT INTO etl_streams (app_id, workflow_id) VALUES ('a', 'w')")
    session = await Session.open(database_url, SCHEMA)
    sync_id = (await session.start_sync("backfill"))["id"]
    await Queue(lambda question: question(session), sync_id, "me").fill([StreamId("a", "w")])
    row = await warehouse.fetchrow("SELECT state, held_by FROM sync_health")
    assert row["state"] == "loading"
    assert row["held_by"].startswith(f"backfill {sync_id} (process ")
    await session.close()
    assert tuple(await warehouse.fetchrow("SELECT state, held_by FROM sync_health")) == ("new", None)


async def test_row_locked_by_a_commit_is_left_to_the_next_sync(
    warehouse: asyncpg.Connection, database_url: str
) -> None:
    await warehouse.execute("INSERT INTO etl_streams (app_id, workflow_id) VALUES ('a', 'w1'), ('a', 'w2')")
    async with await create_pool(database_url, SCHEMA, size=1) as pool:
        for seen in ({"w1"}, {"w1", "w2"}):
            blocking = warehouse.transaction()
            await blocking.start()
            if "w2" not in seen:
                await warehouse.execute("SELECT FROM etl_streams WHERE workflow_id = 'w2' FOR UPDATE")
            await record_requested(pool, [], reconcile_every=timedelta(hours=24), kept_apps=[])
            await blocking.rollback()
            retired = await warehouse.fetch("SELECT workflow_id FROM etl_streams WHERE NOT requested")
            assert {row["workflow_id"] for row in retired} == seen


def world_of(**apps: list[str]) -> World:
    world = World(1)
    for app_id, workflows in apps.items():
        for workflow_id in workflows:
            world.add_workflow(app_id, workflow_id)
            world.create_run(workflow_id)
    return world


class Settled:
    """A sandbox and a warehouse; `apps` are the settings' apps and their workflows."""

    def __init__(self, source: Any, url: str, warehouse: asyncpg.Connection) -> None:
        self.source, self.url, self.warehouse = source, url, warehouse
        self.reconcile_every = timedelta(hours=24)

    def settings(self, apps: dict[str, Any]) -> Settings:
        return Settings(
            api=ApiSettings(base_url=self.source.url, key=self.source.key, requests_per_minute=10_000),
            database=DatabaseSettings(url=self.url),
            apps=[AppSettings(id=app_id, workflows=workflows) for app_id, workflows in apps.items()],
            sync=SyncSettings(reconcile_every=self.reconcile_every),
        )

    async def sync(self, mode: Any = "sync", *, workflows: Any = (), **apps: Any) -> str:
        return (await run_sync(self.settings(apps), mode, workflows=workflows)).status

    async def states(self) -> dict[str, str]:
        rows = await self.warehouse.fetch("SELECT app_id || '/' || workflow_id AS name, state FROM sync_health")
        return {row["name"]: row["state"] for row in rows}


@asynccontextmanager
async def settled(sandbox: Any, url: str, warehouse: asyncpg.Connection, **apps: list[str]) -> AsyncIterator[Settled]:
    yield Settled(await sandbox(world_of(**apps)), url, warehouse)


async def test_streams_that_are_no_longer_requested_are_retired(
    sandbox: Any, warehouse: Any, database_url: str
) -> None:
    async with settled(sandbox, database_url, warehouse, a=["w1", "w2"], b=["w3"]) as t:
        assert await t.sync(a="all", b="all") == "succeeded"
        assert await t.states() == {"a/w1": "complete", "a/w2": "complete", "b/w3": "complete"}
        assert await t.sync(a=["w1"]) == "succeeded"
        assert await t.states() == {"a/w1": "complete", "a/w2": "retired", "b/w3": "retired"}
        assert await warehouse.fetchval("SELECT count(*) FROM workflows WHERE gone_at IS NOT NULL") == 0
        assert (await status_report(t.settings({"a": ["w1"]}))).is_healthy
        assert await t.sync(a="all", b="all") == "succeeded"
        assert set((await t.states()).values()) == {"complete"}


async def test_sync_of_one_workflow_retires_no_other(sandbox: Any, warehouse: Any, database_url: str) -> None:
    async with settled(sandbox, database_url, warehouse, a=["w1", "w2"], b=["w3"]) as t:
        assert await t.sync(a="all", b="all", workflows=["w1"]) == "succeeded"
        assert await t.states() == {"a/w1": "complete", "a/w2": "new", "b/w3": "new"}
        summary = await run_sync(t.settings({"a": "all", "b": "all"}), "sync", apps=["a"])
        assert summary.status == "succeeded"
        assert await t.states() == {"a/w1": "complete", "a/w2": "complete", "b/w3": "new"}
        assert not (await status_report(t.settings({"a": "all", "b": "all"}))).is_healthy


async def test_status_knows_a_change_of_the_settings_before_the_next_sync(
    sandbox: Any, warehouse: Any, database_url: str
) -> None:
    async with settled(sandbox, database_url, warehouse, a=["w1", "w2"], b=["w3"]) as t:
        assert await t.sync(a=["w1"]) == "succeeded"
        for apps, states in (
            ({"a": ["w1", "w2"]}, {"a/w1": "complete", "a/w2": "new"}),
            ({"a": ["w1"], "b": ["w3"]}, {"a/w1": "complete", "b/w3": "new"}),
            ({"a": "all"}, {"a/w1": "complete"}),
            ({"a": ["w2"]}, {"a/w1": "retired", "a/w2": "new"}),
            ({"a": ["w1"]}, {"a/w1": "complete"}),
            ({}, {"a/w1": "complete"}),
        ):
            report = await status_report(t.settings(apps))
            assert {f"{row['app_id']}/{row['workflow_id']}": row["state"] for row in report.streams} == states
            assert report.is_healthy == ("new" not in states.values())
        role = f"reader_{secrets.token_hex(4)}"
        await warehouse.execute(
            f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA cortex TO {role};"
            f"GRANT SELECT ON ALL TABLES IN SCHEMA cortex TO {role}"
        )
        settings = t.settings({"a": ["w1", "w2"]})
        url = SecretStr(database_url.replace("postgres@", f"{role}@"))
        reading = settings.model_copy(update={"database": settings.database.model_copy(update={"url": url})})
        assert (await status_report(reading)).is_healthy, "it cannot record the change"
        assert not (await status_report(settings)).is_healthy
        await warehouse.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


REFUSALS = [
    pytest.param(Status(401, message="expired"), 3, id="401"),
    pytest.param(Status(403, message="not yours"), 1, id="403"),
    pytest.param(Status(500, message="broken"), 1, id="500"),
    pytest.param(HTML_OK, 1, id="HTML"),
]


def of_app(app_id: str) -> Any:
    return lambda request: request.path.startswith(f"/apps/{app_id}/workflows")


@pytest.mark.parametrize(("fault", "exit_code"), REFUSALS)
async def test_failed_discovery_keeps_the_streams_and_marks_them_as_failing(
    sandbox: Any, warehouse: Any, database_url: str, fault: Any, exit_code: int
) -> None:
    async with settled(sandbox, database_url, warehouse, a=["w1"], b=["w2"]) as t:
        assert await t.sync(a="all", b="all") == "succeeded"
        t.source.faults.on(of_app("a"), fault)
        summary = await run_sync(t.settings({"a": "all", "b": "all"}), "sync", policy=QUICK)
        assert summary.exit_code == exit_code
        streams = await t.states()
        stopped = exit_code == 3
        whole = {"a/*": "failing"} | ({"b/*": "failing"} if stopped else {})
        assert streams == {"a/w1": "failing", "b/w2": "failing" if stopped else "complete"} | whole
        for row in await warehouse.fetch("SELECT last_error, hint FROM sync_health WHERE app_id = 'a'"):
            assert row["last_error"] == summary.error.removeprefix("a/*: ")
            assert row["hint"] == summary.hint or (not summary.hint and row["hint"].startswith("Run: cortex-etl sync"))
        report = await status_report(t.settings({"a": "all"}))
        assert not report.is_healthy
        await warehouse.execute("UPDATE etl_streams SET api_count = 7 WHERE app_id = 'a'")
        shown = await warehouse.fetchrow("SELECT state, hint FROM sync_health WHERE workflow_id = 'w1'")
        assert tuple(shown) == ("incomplete", summary.hint or "Run: cortex-etl reconcile --workflow w1")
        t.source.faults.clear()
        assert await t.sync(a="all", b="all") == "succeeded"
        assert await t.states() == {"a/w1": "complete", "b/w2": "complete"}
        assert (await status_report(t.settings({"a": "all"}))).is_healthy


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
async def test_workflow_that_moves_to_another_app(
    sandbox: Any, warehouse: Any, database_url: str, order: tuple[str, str]
) -> None:
    async with settled(sandbox, database_url, warehouse, a=["w1", "stays"], b=["w2"]) as t:
        apps = dict.fromkeys(order, "all")
        assert await t.sync(**apps) == "succeeded"
        world = t.source.world
        world.workflows["w1"]["app"] = world.workflows["w2"]["app"]
        moved = world.create_run("w1")["id"]
        assert await t.sync(**apps) == "succeeded"
        assert await t.states() == {"a/stays": "complete", "a/w1": "retired", "b/w1": "complete", "b/w2": "complete"}
        row = await warehouse.fetchrow("SELECT * FROM sync_health WHERE app_id = 'b' AND workflow_id = 'w1'")
        assert (row["api_count"], row["warehouse_count"]) == (2, 2)
        assert await warehouse.fetchval("SELECT gone_at FROM workflows WHERE id = 'w1'") is None
        world.delete_run(next(run_id for run_id in world.runs["w1"] if run_id != moved))
        assert await t.sync("reconcile", **apps) == "succeeded"
        assert await warehouse.fetchval("SELECT count(*) FROM runs WHERE gone_at IS NOT NULL") == 1
        assert (await t.states())["b/w1"] == "complete"


MOVED = {"a/stays": "complete", "b/w1": "complete", "b/w2": "complete"}


@pytest.mark.parametrize(
    ("before", "after", "states"),
    [
        pytest.param(
            {"a": ["w1", "stays"], "b": ["w2"]},
            {"a": ["stays"], "b": ["w1", "w2"]},
            MOVED | {"a/w1": "retired"},
            id="ids, corrected in the settings",
        ),
        pytest.param(
            {"a": ["w1", "stays"], "b": "all"},
            {"a": ["w1", "stays"], "b": "all"},
            MOVED | {"a/w1": "failing"},
            id="ids, still in the settings",
        ),
        pytest.param(
            {"a": "all", "b": "all"}, {"b": "all"}, MOVED | {"a/stays": "retired", "a/w1": "retired"}, id="app removed"
        ),
    ],
)
async def test_workflow_that_moves_between_apps_of_the_settings(
    sandbox: Any, warehouse: Any, database_url: str, before: Any, after: Any, states: Any
) -> None:
    async with settled(sandbox, database_url, warehouse, a=["w1", "stays"], b=["w2"]) as t:
        assert await t.sync(**before) == "succeeded"
        world = t.source.world
        world.workflows["w1"]["app"] = world.workflows["w2"]["app"]
        world.create_run("w1")
        for _ in range(2):
            summary = await run_sync(t.settings(after), "sync")
            assert await t.states() == states
            row = await warehouse.fetchrow("SELECT * FROM sync_health WHERE app_id = 'b' AND workflow_id = 'w1'")
            assert (row["api_count"], row["warehouse_count"]) == (2, 2)
            is_failing = "failing" in states.values()
            assert summary.exit_code == is_failing
            assert (await status_report(t.settings(after))).is_healthy == (not is_failing)
            if is_failing:
                hint = "If the workflow has moved to the app b, remove it from a in config.yaml."
                assert summary.hint == hint
                assert await warehouse.fetchval("SELECT hint FROM sync_health WHERE state = 'failing'") == hint


async def test_workflow_that_moves_while_its_old_app_cannot_be_listed(
    sandbox: Any, warehouse: Any, database_url: str
) -> None:
    async with settled(sandbox, database_url, warehouse, a=["w1", "stays"], b=["w2"]) as t:
        assert await t.sync(a="all", b="all") == "succeeded"
        world = t.source.world
        world.workflows["w1"]["app"] = world.workflows["w2"]["app"]
        world.create_run("w1")
        t.source.faults.on(of_app("a"), Status(403))
        assert await t.sync(a="all", b="all") == "partial"
        failing = dict.fromkeys(("a/*", "a/stays", "a/w1"), "failing")
        assert await t.states() == failing | {"b/w1": "complete", "b/w2": "complete"}
        t.source.faults.clear()
        assert await t.sync(a="all", b="all") == "succeeded"
        assert await t.states() == MOVED | {"a/w1": "retired"}


async def test_late_after_follows_the_setting(sandbox: Any, warehouse: Any, database_url: str) -> None:
    async with settled(sandbox, database_url, warehouse, a=["w1"]) as t:
        for hours, late_after in ((0, 24), (6, 24), (36, 72)):
            t.reconcile_every = timedelta(hours=hours)
            assert await t.sync(a="all") == "succeeded"
            assert await warehouse.fetchval("SELECT late_after FROM etl_streams") == timedelta(hours=late_after)


async def test_a_reconcile_is_due_after_its_time(sandbox: Any, warehouse: Any, database_url: str) -> None:
    async with settled(sandbox, database_url, warehouse, a=["w1"]) as t:
        for _ in range(200):  # enough runs to observe the order
            t.source.world.create_run("w1")
        assert await t.sync(a="all") == "succeeded"
        for ago, is_due in (("1 hour", False), ("25 hours", True)):
            await warehouse.execute("UPDATE etl_streams SET last_reconciled_at = now() - $1::text::interval", ago)
            assert await t.sync(a="all") == "succeeded"
            age = await warehouse.fetchval("SELECT now() - last_reconciled_at FROM etl_streams")
            assert (timedelta(0) <= age < timedelta(minutes=1)) is is_due


LISTED = (
    "The app lists the workflow, but the API has no runs of it: it may have been deleted meanwhile. Run it again; "
    "if it lasts, ask whoever runs the API."
)
NAMED = "Check the ids under apps in the settings, and that the key belongs to that app."
ALONE = "Check api.base_url; if other requests succeed, ask whoever runs the API."


@pytest.mark.parametrize(
    ("fault", "workflows", "hint"),
    [
        pytest.param(Status(403), "all", "Give the key permission to read this app's runs.", id="403"),
        pytest.param(Status(404), "all", LISTED, id="404 of a listed workflow"),
        pytest.param(Status(404), ["w1", "w2"], NAMED, id="404 of a workflow in the settings"),
        pytest.param(Status(404, html=True), "all", ALONE, id="404 of a proxy"),
        pytest.param(Status(500), "all", TRY_LATER, id="500"),
        pytest.param(HTML_OK, "all", "Check api.base_url: something other than the API answers there.", id="HTML"),
    ],
)
async def test_failing_stream_has_an_error_and_a_hint(
    sandbox: Any, warehouse: Any, database_url: str, fault: Any, workflows: Any, hint: str
) -> None:
    async with settled(sandbox, database_url, warehouse, a=["w1", "w2"]) as t:
        for state in ("new", "failing"):
            t.source.faults.on(lambda request: "/w1/runs" in request.path, fault)
            summary = await run_sync(t.settings({"a": workflows}), "sync", policy=QUICK)
            assert (summary.status, summary.exit_code) == ("partial", 1)
            assert {each.workflow_id: each.status for each in summary.streams} == {"w1": "failed", "w2": "succeeded"}
            row = await warehouse.fetchrow("SELECT state, last_error, hint FROM sync_health WHERE workflow_id = 'w1'")
            assert tuple(row) == (state, summary.error.removeprefix("a/w1: "), hint)
            assert summary.hint == hint
            assert (await t.states())["a/w2"] == "complete"
            t.source.faults.clear()
            assert await t.sync(a=workflows) == "succeeded"
            assert set((await t.states()).values()) == {"complete"}


async def test_open_run_that_cannot_be_looked_up_leaves_its_stream_failing(
    sandbox: Any, warehouse: Any, database_url: str
) -> None:
    async with settled(sandbox, database_url, warehouse, a=["w1", "w2"]) as t:
        opened = t.source.world.create_run("w1", status="RUNNING")["id"]
        assert await t.sync(a="all") == "succeeded"
        del t.source.world.runs["w1"][opened]
        t.source.world.create_run("w1")  # the count is unchanged
        t.source.faults.on(lambda request: request.path.endswith(opened), Status(500, message="broken"))
        summary = await run_sync(t.settings({"a": "all"}), "sync", policy=QUICK)
        assert (summary.status, summary.exit_code) == ("partial", 1)
        assert {each.workflow_id: each.status for each in summary.streams} == {"w1": "partial", "w2": "succeeded"}
        row = await warehouse.fetchrow("SELECT state, last_error, hint FROM sync_health WHERE workflow_id = 'w1'")
        assert row["hint"] == "Run: cortex-etl reconcile --workflow w1"
        assert await warehouse.fetchval("SELECT gone_at FROM runs WHERE id = $1", opened) is None
        t.source.faults.clear()
        assert await t.sync(a="all") == "succeeded"
        assert await warehouse.fetchval("SELECT gone_at FROM runs WHERE id = $1", opened) is not None


async def test_times_in_the_future_count_as_due(sandbox: Any, warehouse: Any, database_url: str) -> None:
    """PostgreSQL's clock was ahead for a while: times written then must not disable anything."""
    async with settled(sandbox, database_url, warehouse, a=["w1", "w2"]) as t:
        for number in range(40):
            t.source.world.create_run("w1", created_at=f"2026-01-01T00:{number:02}:00Z")
        assert await t.sync(a="all") == "succeeded"
        await warehouse.execute(f"UPDATE etl_streams SET {', '.join(f'{name} = {IN_A_YEAR}' for name in TIMES)}")
        await warehouse.execute(f"UPDATE etl_syncs SET ended_at = {IN_A_YEAR}")
        row = await warehouse.fetchrow("SELECT state, blocker FROM sync_health WHERE workflow_id = 'w1'")
        assert row["state"] == "late"
        assert row["blocker"].endswith("in the future")
        assert (await read_warehouse_health(warehouse)).last_success is None
        changed = next(iter(t.source.world.runs["w1"]))
        t.source.world.replay_run(changed)
        assert (await run_sync(t.settings({"a": "all"}), "sync")).runs_updated == 1, "it compared all runs"
        assert set((await t.states()).values()) == {"complete"}
        times = await warehouse.fetchrow(
            f"SELECT {', '.join(f'max({name})' for name in TIMES)}, now() FROM etl_streams"
        )
        assert max(times) == times[-1]
        assert (await read_warehouse_health(warehouse)).last_success <= times[-1].timestamp()


async def test_stream_listed_by_another_app_keeps_its_runs_despite_a_wrong_clock(
    sandbox: Any, warehouse: Any, database_url: str
) -> None:
    async with settled(sandbox, database_url, warehouse, a=["w1"]) as t:
        assert await t.sync(a="all", c="all") == "succeeded"
        await warehouse.execute(f"UPDATE etl_streams SET last_reconciled_at = {IN_A_YEAR} WHERE app_id = 'a'")
        (run_id,) = t.source.world.runs["w1"]
        row = await warehouse.fetchrow(statements("load")["mark_gone"], [run_id], "a", "w1")
        assert row["gone_at"] is None


def test_core_never_uses_the_local_clock() -> None:
    for path in (Path(etl.sync.__file__).parent, Path(etl.plan.__file__).parent):
        assert not [each.name for each in path.glob("*.py") if "datetime.now" in each.read_text()]


async def test_ids_in_hints_are_quoted_for_shells(warehouse) -> None:
    """Users copy the hint into a shell: an id with spaces or quotes must stay one word."""
    words = [
        "wf_1",
        "a b",
        "it's",
        '"x"',
        "$(reboot)",
        "`id`",
        "a;b",
        "é",
        "a\nb",
        "-x",
        "a@%+=:,./-_Z9",
        "\\",
        "''",
        "*",
    ]
    for word in words:
        assert await warehouse.fetchval("SELECT shell_word($1)", word) == shlex.quote(word)
    await add_owners(warehouse, *words, apps=["a"])
    await warehouse.execute(
        "INSERT INTO etl_streams (app_id, workflow_id, backfill_cursor) SELECT 'a', unnest($1::text[]), '{}'", words
    )
    hints = await warehouse.fetch("SELECT workflow_id, hint FROM sync_health")
    assert {tuple(shlex.split(row["hint"])[-2:]) for row in hints} == {("--workflow", word) for word in words}
