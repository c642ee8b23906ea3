"""Read the data of the report, with queries whose results are limited so that they stay fast in large warehouses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from etl.db.statements import statements
from etl.report.formatting import shortened

if TYPE_CHECKING:
    from decimal import Decimal

    import asyncpg

    Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy[Any]

MAX_FAILURES = 20_000
"""Maximum number of failed runs (the latest) whose causes are counted."""

MIN_TIMED = 5
"""Minimum number of durations in a period for a point in the duration curves."""

_FRESH_DAYS = 7  # if the last run is older, the report ends on the day of that run
_PERIODS = ((14, 1), (100, 3), (10_000, 7))  # (maximum days of the report, days per point of duration curves)

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Span:
    """The UTC days `first` to `last` of the report.

    `first_run` is the time of the first run in the warehouse, `read_until` the end of the last sync of any stream, and
    `undated` the number of runs without `created_at`.
    """

    now: datetime
    first: date
    last: date
    first_run: datetime | None
    read_until: datetime
    undated: int

    @property
    def days(self) -> list[date]:
        """All days, oldest first."""
        return [self.first + timedelta(days=index) for index in range((self.last - self.first).days + 1)]

    @property
    def period_days(self) -> int:
        """Number of days per point of a duration curve."""
        return next(each for longest, each in _PERIODS if len(self.days) <= longest)

    @property
    def starts_late(self) -> bool:
        """Whether the first day may be partial, because it is the day of the first run in the warehouse."""
        return self.first_run is not None and self.first_run.date() == self.first

    @property
    def full_days(self) -> list[date]:
        """The days without partial ones: the day of the first run, and days that are not completely synced."""
        return [day for day in self.days[self.starts_late :] if day < self.read_until.date()]


@dataclass(frozen=True, slots=True)
class DailyRuns:
    """Number and credits of the runs of one day, workflow and status."""

    day: date
    workflow_id: str | None
    status: str | None
    runs: int
    credits: Decimal


@dataclass(frozen=True, slots=True)
class Durations:
    """Durations of the completed and failed runs of a workflow in one period.

    Periods are numbered backwards from 0; None stands for the whole report.
    """

    workflow_id: str | None
    period: int | None
    runs: int
    p50_s: float
    p95_s: float


@dataclass(frozen=True, slots=True)
class VersionRuns:
    """Runs of one version of a workflow; `quartiles_s` is None if no run has a duration."""

    workflow_id: str | None
    version: int
    first_run: datetime
    ended: int
    failed: int
    timed: int
    quartiles_s: list[float] | None


@dataclass(frozen=True, slots=True)
class DailyModel:
    """Calls of one model by one workflow on one day."""

    day: date
    workflow_id: str | None
    provider: str | None
    model: str | None
    calls: int
    credits: Decimal


@dataclass(frozen=True, slots=True)
class StepFacts:
    """Runs, failures and durations of one step."""

    workflow_id: str | None
    step_key: str
    type: str | None
    runs: int
    ended: int
    failed: int
    p50_s: float | None
    p95_s: float | None
    credits: Decimal


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Runs that failed in the same step with the same message. `runs_in_all` is the number of runs in all groups."""

    workflow_id: str | None
    step_key: str | None
    message: str | None
    runs: int
    runs_in_all: int
    first_seen: datetime
    last_seen: datetime
    versions: list[int] | None
    last_run_id: str


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that has not ended. `open_in_all` is the number of all open runs."""

    run_id: str
    workflow_id: str | None
    status: str
    created_at: datetime | None
    age_s: float | None
    last_synced_at: datetime
    open_in_all: int


@dataclass(frozen=True, slots=True)
class Stream:
    """Sync health of one stream."""

    app_id: str
    workflow_id: str
    state: str
    last_synced_at: datetime | None
    last_reconciled_at: datetime | None
    api_count: int | None
    warehouse_count: int
    quarantined: int
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Sync:
    """One of the latest syncs."""

    mode: str
    status: str
    started_at: datetime
    duration_s: float | None
    requests: int
    runs_inserted: int
    runs_updated: int
    runs_gone: int
    rejects: int


@dataclass(frozen=True, slots=True)
class Facts:
    """All data of the report. `labels` maps ids of workflows to their names, if known."""

    span: Span
    labels: dict[str, str]
    daily: list[DailyRuns]
    durations: list[Durations]
    versions: list[VersionRuns]
    models: list[DailyModel]
    steps: list[StepFacts]
    failures: list[FailureGroup]
    open_runs: list[OpenRun]
    streams: list[Stream]
    syncs: list[Sync]

    def label(self, workflow_id: str | None) -> str:
        """Return the label of a workflow, on one line of at most 80 characters."""
        if workflow_id is None:
            return "(no workflow)"
        return shortened(self.labels.get(workflow_id) or workflow_id, 80) or "(no name)"


async def read_facts(connection: Connection, days: int) -> Facts:
    """Read the data of the report.

    Args:
        connection: a connection with the schema as search_path, preferably in a read-only transaction.
        days: maximum number of UTC days to cover.
    """
    await connection.execute(statements("report")["tune"])
    span = await _span(connection, days)
    bounds = span.first, span.last
    return Facts(
        span=span,
        labels={row["id"]: row["label"] for row in await connection.fetch(statements("report")["labels"])},
        daily=await _rows(connection, DailyRuns, "daily", *bounds),
        durations=await _rows(connection, Durations, "durations", *bounds, span.period_days, MIN_TIMED),
        versions=await _rows(connection, VersionRuns, "versions", *bounds),
        models=await _rows(connection, DailyModel, "models", *bounds),
        steps=await _rows(connection, StepFacts, "steps", *bounds),
        failures=await _rows(connection, FailureGroup, "failures", *bounds, MAX_FAILURES),
        open_runs=await _rows(connection, OpenRun, "open_runs"),
        streams=await _rows(connection, Stream, "streams"),
        syncs=await _rows(connection, Sync, "syncs"),
    )


async def _rows(connection: Connection, kind: type[Row], statement: str, *values: Any) -> list[Row]:
    """Run a statement, whose columns are the fields of `kind`, and return its rows."""
    return [kind(**row) for row in await connection.fetch(statements("report")[statement], *values)]


async def _span(connection: Connection, days: int) -> Span:
    row = await connection.fetchrow(statements("report")["span"])
    if row is None:
        raise AssertionError("a query without FROM returns one row")
    first_run, last_run, read_until = row["first_run"], row["last_run"], row["read_until"] or row["now"]
    last = max(read_until, last_run or read_until).date()
    if last_run is not None and (last - last_run.date()).days > _FRESH_DAYS:
        last = last_run.date()
    first = max(last - timedelta(days=days - 1), first_run.date() if first_run else last)
    return Span(row["now"], first, last, first_run, read_until, row["undated"])
