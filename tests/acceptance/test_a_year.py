"""An unattended year: a sync every other day, with outages, a lost key, a week offline, retention and upgrades.

The simulated year ends now. No clock is faked: after each simulated week, all timestamps of the warehouse's bookkeeping
are moved back by a week, so that what depends on age (reconciling, pruning) becomes due.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from etl import tables
from etl.api.retry import RetryPolicy
from etl.app import run_sync, status_report
from etl.config import ApiSettings, AppSettings, DatabaseSettings, Settings, SyncSettings
from etl.errors import KeyRefusedError
from etl.sandbox import Sandbox, World
from etl.sandbox.faults import CutBody, Fault, Reset, Status, any_request, lists_runs
from etl.sandbox.run_documents import retention_due

DAYS = 365
DAY = timedelta(days=1)
RECONCILE_EVERY = timedelta(days=7)
HASTY = RetryPolicy(attempts=3, first_pause_s=0.001, longest_pause_s=0.002)

KEY_LOST, KEY_RENEWED = 100, 102
MACHINE_OFF = range(200, 207)
OUTAGES: dict[int, Fault] = {
    40: Status(503, html=True),
    41: Status(500),
    150: CutBody("half_json"),
    290: Reset(),
    291: Status(502),
}
"""Days on which all requests fail in this way."""
HICCUPS = (Status(502, html=True), Status(429), CutBody("length"), CutBody("chunked"), Reset(), Status(504))
HANGING = (5, 110, 310)
"""Days on which a run starts that stays open for weeks, and is then far down in the listing."""
POWER_CUTS = (70, 170, 270)
CORRUPTED, FIXED = 60, 75
UPGRADES = {80: "wf_ticket_triage", 240: "wf_account_digest"}
SYNCED = [
    day
    for day in range(DAYS)
    if day not in MACHINE_OFF and (day % 2 == 0 or day in {*OUTAGES, KEY_LOST + 1, CORRUPTED - 1})
]

REMEMBERED = {
    "etl_streams": ("last_synced_at", "last_reconciled_at", "counts_at", "last_error_at", "last_succeeded_at"),
    "etl_syncs": ("started_at", "ended_at"),
    "etl_rejects": ("created_at", "resolved_at"),
    "runs": ("first_synced_at", "last_synced_at", "gone_at"),
}
"""Timestamps of the bookkeeping, without the watermark of a stream, which is a time of the simulated world."""

OPEN = {"PENDING", "RUNNING"}
LEDGER_ROWS = 1000
"""The number of invocations older than 90 days that are kept."""
OLD_INVOCATIONS = """
INSERT INTO etl_syncs (mode, status, started_at, ended_at)
SELECT 'sync', 'succeeded', moment, moment + interval '3 s'
FROM generate_series(now() - interval '500 days', now(), interval '8 hours') AS moment
"""
"""The number of invocations before the year."""


class Year:
    """The simulated world, its API, and the warehouse."""

    def __init__(self, sandbox: Sandbox, database_url: str, warehouse: Any) -> None:
        self.sandbox, self.world, self.warehouse = sandbox, sandbox.world, warehouse
        self.settings = Settings(
            api=ApiSettings(
                base_url=sandbox.url, key=sandbox.key, requests_per_minute=100_000, page_size=20, concurrency=1
            ),
            database=DatabaseSettings(url=database_url),
            apps=[AppSettings(id=app_id) for app_id in self.world.apps],
            sync=SyncSettings(reconcile_every=RECONCILE_EVERY),
        )
        self.random = Random(7)
        self.ever_listed: set[str] = set()
        self.met: set[str] = set()
        self.ended: Counter[str] = Counter()
        self.corrupted: list[str] = []

    @property
    def listed(self) -> set[str]:
        return {run_id for runs in self.world.runs.values() for run_id in runs}

    async def sync(self) -> Any:
        summary = await run_sync(self.settings, "sync", policy=HASTY)
        self.ended[summary.status] += 1
        return summary

    async def pass_time(self, day: int) -> None:
        """Let a day pass in the world and, at the end of each week, a week in the bookkeeping."""
        self.world.advance(DAY)
        self.ever_listed |= self.listed
        if day in UPGRADES:
            self.world.publish(UPGRADES[day])
        if day % 7 == 6:
            for table, columns in REMEMBERED.items():
                moved = ", ".join(f"{column} = {column} - interval '7 days'" for column in columns)
                await self.warehouse.execute(f"UPDATE {table} SET {moved}")

    async def run_scheduled_sync(self, day: int) -> None:
        """Run the scheduled sync, with the events of the day."""
        faults = self.sandbox.faults
        if KEY_LOST <= day < KEY_RENEWED:
            assert isinstance((await self.sync()).cause, KeyRefusedError)
        elif day in OUTAGES:
            rule = faults.on(any_request if day % 2 else lists_runs, OUTAGES[day])
            assert (await self.sync()).exit_code == 1
            faults.rules.remove(rule)
        elif day in POWER_CUTS:
            await self.interrupt_sync()
        else:
            if self.random.random() < 0.1:
                faults.queue(*[None] * self.random.randrange(3), self.random.choice(HICCUPS))
            summary = await self.sync()
            assert (summary.status, summary.exit_code) == ("succeeded", 0), (day, summary)
            self.met |= self.listed
            await self.is_up_to_date(day)

    async def is_up_to_date(self, day: int) -> None:
        """Check that the warehouse has the listed runs with their current status, and no others."""
        rows = await self.warehouse.fetch("SELECT id, status FROM runs WHERE gone_at IS NULL")
        assert {row["id"] for row in rows} | set(self.corrupted) == self.listed | set(self.corrupted), day
        told = {row["id"] for row in rows if row["status"] in OPEN}
        runs = (run for listed in self.world.runs.values() for run in listed.values())
        assert told == {run["id"] for run in runs if run["status"] in OPEN}, day

    async def interrupt_sync(self) -> None:
        """Interrupt a sync while it waits for a response."""
        syncing = asyncio.create_task(self.sync())

        async def interrupt(path: str, _query: Any, _number: int) -> None:
            if path.endswith("/runs"):
                self.sandbox.faults.before_response = None
                syncing.cancel()

        self.sandbox.faults.before_response = interrupt
        assert (await syncing).exit_code == 130

    def apply_events(self, day: int) -> None:
        """Apply the events at the beginning of a day."""
        if day in HANGING:
            run = self.world.create_run("wf_ticket_triage", status="RUNNING")
            self.world.endings[run["id"]].due_ms += 25 * 86_400_000
        if day == KEY_LOST:
            self.sandbox.key = "sk-rotated"
        elif day == KEY_RENEWED:
            api = self.settings.api.model_copy(update={"key": SecretStr(self.sandbox.key)})
            self.settings = self.settings.model_copy(update={"api": api})
        elif day == CORRUPTED:
            self.corrupted = list(self.world.runs["wf_ticket_triage"])[-2:]
            for run_id in self.corrupted:
                self.world.corrupt(run_id, "bad_date")
            one_that_goes = self.world.runs["wf_ticket_triage"][self.corrupted[1]]
            one_that_goes["retention"] |= {"preserve_on_failure": False}  # a failure, too
            one_that_goes["retention_due_at"] = retention_due(one_that_goes)
        elif day == FIXED:  # the other one stays until retention deletes it
            del self.world.raw[self.corrupted[0]]


@pytest.fixture
async def year(sandbox: Any, database_url: str, warehouse: Any) -> Year:
    begin = datetime.now(UTC) - timedelta(days=DAYS)
    world = World.generate(
        seed=5, apps=1, workflows_per_app=2, runs=60, days=30, now=begin, open_runs=3, rough_edges=False
    )
    world.workflows["wf_ticket_triage"]["retention"] = {"max_age_in_seconds": 30 * 86_400, "preserve_on_failure": True}
    world.simulations["wf_ticket_triage"].per_day, world.simulations["wf_account_digest"].per_day = 0.8, 0.15
    return Year(await sandbox(world), database_url, warehouse)


@pytest.mark.timeout(600)  # 12 s on two idle cores
async def test_unattended_year(year: Year, command: Any) -> None:
    await year.warehouse.execute(OLD_INVOCATIONS)
    for day in range(DAYS):
        year.apply_events(day)
        await year.pass_time(day)
        if day in SYNCED:
            await year.run_scheduled_sync(day)

    faults = year.sandbox.faults.applied
    assert faults.keys() == {"Status", "CutBody", "Reset"}
    assert year.ended["interrupted"] == len(POWER_CUTS)
    assert year.ended["failed"] == len(OUTAGES) + KEY_RENEWED - KEY_LOST
    assert year.ended["succeeded"] == len(SYNCED) - year.ended["interrupted"] - year.ended["failed"]

    await check_metrics(year, command)
    await check_warehouse(year)
    await check_nothing_is_lost(year)
    await check_new_backfill_is_equal(year)
    await check_bookkeeping_is_bounded(year)


async def check_metrics(year: Year, command: Any) -> None:
    """Run the command and compare its metrics with the API."""
    url = year.settings.database.url.get_secret_value()
    command.environment |= {"CORTEX_API_KEY": year.sandbox.key, "DATABASE_URL": url}
    api = f"{{base_url: '{year.sandbox.url}', requests_per_minute: 100000}}"
    command.configure(f"api: {api}\napps: [{{id: {next(iter(year.world.apps))}}}]\n")
    ended = await command("reconcile", "--quiet", "--metrics-file", "year.prom")
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    told = {
        (sample.name, sample.labels.get("workflow_id", "")): sample.value
        for family in text_string_to_metric_families((command.folder / "year.prom").read_text())
        for sample in family.samples
    }
    assert datetime.now(UTC).timestamp() - told["cortex_etl_last_success_timestamp_seconds", ""] < 60
    for workflow_id, runs in year.world.runs.items():
        still_open = sum(run["status"] in OPEN for run in runs.values())
        wanted = {"api_runs": len(runs), "warehouse_runs": len(runs), "open_runs": still_open}
        wanted |= {"quarantined_runs": 0, "failing": 0, "backfill_done": 1}
        found = {name: told[f"cortex_etl_stream_{name}", workflow_id] for name in wanted}
        assert found == wanted, workflow_id


async def check_warehouse(year: Year) -> None:
    rows = await year.warehouse.fetch("SELECT id, status, updated_at FROM runs WHERE gone_at IS NULL")
    served = [run for runs in year.world.runs.values() for run in runs.values()]
    assert len(served) > 50
    assert {(row["id"], row["status"], row["updated_at"]) for row in rows} == {
        (run["id"], run["status"], datetime.fromisoformat(run["updated_at"])) for run in served
    }
    report = await status_report(year.settings)
    assert {each["workflow_id"]: (each["state"], each["watermark"]) for each in report.streams} == {
        workflow_id: ("complete", max(datetime.fromisoformat(run["updated_at"]) for run in runs.values()))
        for workflow_id, runs in year.world.runs.items()
    }
    assert sum(each["quarantined"] for each in report.streams) == 0
    assert await year.warehouse.fetchval("SELECT bool_and(api_count = warehouse_count) FROM sync_health")


async def check_nothing_is_lost(year: Year) -> None:
    """Check that every run listed at any sync is stored, and that those removed by retention have `gone_at`."""
    rows = await year.warehouse.fetch("SELECT id, gone_at IS NOT NULL AS gone FROM runs")
    assert year.met <= {row["id"] for row in rows} <= year.ever_listed
    assert {row["id"] for row in rows if row["gone"]} == {row["id"] for row in rows} - year.listed
    assert sum(row["gone"] for row in rows) > 200, "retention has deleted runs"
    versions = await year.warehouse.fetch(
        "SELECT DISTINCT workflow_id, version FROM workflow_versions WHERE NOT is_draft"
    )
    for workflow_id in UPGRADES.values():
        assert (workflow_id, len(year.world.versions[workflow_id])) in {tuple(row) for row in versions}


async def check_new_backfill_is_equal(year: Year) -> None:
    """Check that the rows of listed runs equal those of a new backfill."""
    fresh = year.settings.database.model_copy(update={"schema_name": "fresh"})
    summary = await run_sync(year.settings.model_copy(update={"database": fresh}), "backfill")
    assert summary.runs_inserted == len(year.listed)
    for table in tables.ENTITIES:
        # Own credits depend on children that may be gone.
        columns = ", ".join(name for name in table.names if name not in ("as_of", "own_credits"))
        listed = "(SELECT id FROM cortex.runs WHERE gone_at IS NULL)"
        kept = f"WHERE {table.key[0]} IN {listed}" if table in (tables.RUNS, *tables.RUN_CHILDREN) else ""
        ours, todays = f"SELECT {columns} FROM cortex.{table.name} {kept}", f"SELECT {columns} FROM fresh.{table.name}"
        assert await year.warehouse.fetch(f"{todays} EXCEPT ALL ({ours})") == [], table.name
        if kept or table.name in {"apps", "workflows"}:
            assert await year.warehouse.fetch(f"{ours} EXCEPT ALL {todays}") == [], table.name


async def check_bookkeeping_is_bounded(year: Year) -> None:
    """Check that the bookkeeping does not grow over the years."""
    count = {
        table: await year.warehouse.fetchval(f"SELECT count(*) FROM {table}")
        for table in ("etl_syncs", "etl_streams", "etl_rejects", "etl_rate_budgets", "etl_erased", "etl_settings")
    }
    assert count["etl_syncs"] <= LEDGER_ROWS
    assert await year.warehouse.fetchval("SELECT count(*) FROM etl_syncs WHERE status = 'running'") == 0
    recent = "SELECT count(*) FROM etl_syncs WHERE started_at > now() - interval '90 days'"
    assert await year.warehouse.fetchval(recent) > 40, "recent rows are kept"
    assert count["etl_streams"] == 2
    assert count["etl_rejects"] == 0, "old resolved rejects are deleted"
    assert (count["etl_rate_budgets"], count["etl_erased"]) == (1, 0)
    assert count["etl_settings"] <= 10
    assert await year.warehouse.fetchval("SELECT cardinality(granted_at) FROM etl_rate_budgets") < 10_000
