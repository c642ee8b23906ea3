"""The data of the report, read with bounded queries so that it stays fast in large warehouses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from etl.db.statements import statements

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    import asyncpg

    Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy[Any]

MAX_DETAILED_RUNS = 40_000
"""Steps and models cover only the most recent days that hold at most this many runs."""

_FRESH_DAYS = 7  # if the last run is older, the report ends with its day instead of today
_PERIODS = ((31, 1), (100, 3), (10_000, 7))  # longest span, days of one point in its duration curves

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Span:
    """The UTC days `first` to `last` of the report; the data of steps and models starts at `detail_first`.

    `period_days` is the number of days per point of a duration curve; `undated` counts runs without `created_at`.
    """

    now: datetime
    first: date
    last: date
    detail_first: date
    period_days: int
    undated: int

    @property
    def days(self) -> list[date]:
        """All days, oldest first."""
        return [self.first + timedelta(days=index) for index in range((self.last - self.first).days + 1)]


@dataclass(frozen=True, slots=True)
class DailyRuns:
    """Runs of one day, workflow and status, with their credits."""

    day: date
    workflow_id: str | None
    status: str | None
    runs: int
    credits: Decimal


@dataclass(frozen=True, slots=True)
class Durations:
    """Median and 95th percentile of a workflow's durations in one period, or in total if `period` is None."""

    workflow_id: str | None
    period: int | None
    p50_s: float
    p95_s: float


@dataclass(frozen=True, slots=True)
class VersionChange:
    """A version of a workflow and when it was published."""

    workflow_id: str
    version: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class DailyModel:
    """Calls of one model on one day."""

    day: date
    provider: str | None
    model: str | None
    calls: int
    failed: int
    credits: Decimal


@dataclass(frozen=True, slots=True)
class StepFacts:
    """Runs, failures and durations of one step since `Span.detail_first`."""

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
class Failure:
    """A failed run."""

    run_id: str
    workflow_id: str | None
    failed_at: datetime | None
    step_key: str | None
    step_type: str | None
    error: str | None
    origin: str | None
    version: int | None


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that has not ended; `open_in_all` is the number of all open runs."""

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

    id: int
    mode: str
    status: str
    started_at: datetime
    ended_at: datetime | None
    requests: int
    runs_inserted: int
    runs_updated: int
    runs_gone: int
    rejects: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Facts:
    """All data of the report. `names` maps the ids of workflows to their names, if known."""

    span: Span
    names: dict[str, str]
    daily: list[DailyRuns]
    durations: list[Durations]
    versions: list[VersionChange]
    models: list[DailyModel]
    steps: list[StepFacts]
    failures: list[Failure]
    open_runs: list[OpenRun]
    streams: list[Stream]
    syncs: list[Sync]


async def read_facts(connection: Connection, days: int) -> Facts:
    """Read the data of the report.

    Args:
        connection: a connection whose search path is the schema, preferably inside a read-only transaction.
        days: maximum number of UTC days to cover.
    """
    await connection.execute(statements("report")["tune"])
    span = await _span(connection, days)
    daily = await _rows(connection, DailyRuns, "daily", span.first, span.last)
    detail_first = _detail_first(span, daily)
    span = Span(span.now, span.first, span.last, detail_first, span.period_days, span.undated)
    return Facts(
        span=span,
        names={row["id"]: row["name"] for row in await connection.fetch(statements("report")["names"])},
        daily=daily,
        durations=await _rows(connection, Durations, "durations", span.first, span.last, span.period_days),
        versions=await _rows(connection, VersionChange, "versions", span.first, span.last),
        models=await _rows(connection, DailyModel, "models", detail_first, span.last),
        steps=await _rows(connection, StepFacts, "steps", detail_first, span.last),
        failures=await _rows(connection, Failure, "failures"),
        open_runs=await _rows(connection, OpenRun, "open_runs"),
        streams=await _rows(connection, Stream, "streams"),
        syncs=await _rows(connection, Sync, "syncs"),
    )


async def _rows(connection: Connection, kind: type[Row], statement: str, *values: Any) -> list[Row]:
    """Run a statement whose columns are the fields of `kind`."""
    return [kind(**row) for row in await connection.fetch(statements("report")[statement], *values)]


async def _span(connection: Connection, days: int) -> Span:
    row = await connection.fetchrow(statements("report")["span"])
    if row is None:
        raise AssertionError("a query without FROM returns one row")
    today = row["now"].date()
    last = today if row["last_day"] is None or (today - row["last_day"]).days <= _FRESH_DAYS else row["last_day"]
    first = max(last - timedelta(days=days - 1), row["first_day"] or last)
    length = (last - first).days + 1
    period = next(each for longest, each in _PERIODS if length <= longest)
    return Span(row["now"], first, last, first, period, row["undated"])


def _detail_first(span: Span, daily: Sequence[DailyRuns]) -> date:
    """Return the earliest day from which on there are at most `MAX_DETAILED_RUNS` runs, or the last day."""
    by_day: dict[date, int] = {}
    for each in daily:
        by_day[each.day] = by_day.get(each.day, 0) + each.runs
    left = MAX_DETAILED_RUNS
    earliest = span.last
    for day in reversed(span.days):
        left -= by_day.get(day, 0)
        if left < 0:
            break
        earliest = day
    return earliest
