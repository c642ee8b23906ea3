"""How the streams stand, from the warehouse alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from etl.app.warehouse import bring_up_to_date, database_url
from etl.db.connect import connect
from etl.db.standing import stream_state
from etl.db.statements import statements
from etl.events import StreamId, ignore
from etl.plan import Checkpoint

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from etl.config import Settings

_SQL = statements("reporting")
_NAMED_REJECTS = 3


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream; times UTC, `lag_s` in seconds.

    `state` is complete, incomplete, loading, failing, late, new or retired (read no more).
    `holds` says what keeps its watermark back (with --explain), `hint` what to type.
    """

    app_id: str
    workflow_id: str
    workflow_name: str | None
    state: str
    watermark: datetime | None
    lag_s: float | None
    last_synced_at: datetime | None
    last_reconciled_at: datetime | None
    backfill_done: bool
    api_count: int | None
    warehouse_count: int
    quarantined: int
    open_runs: int
    listing_order: str | None
    last_error: str | None
    last_error_at: datetime | None
    hint: str = ""
    holds: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StatusReport:
    """All streams, and the last invocation (its row of `etl_syncs`; None before the first).

    `paused_until` is set while the API wants no requests.
    """

    streams: list[StreamStatus]
    last_sync: dict[str, Any] | None
    quarantined: int
    paused_until: datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        return asdict(self)


async def status_report(settings: Settings, *, explain: bool = False) -> StatusReport:
    """Tell how the streams stand.

    Args:
        settings: where the warehouse is; configured workflows that were never read are listed as new.
        explain: also say what holds each watermark back.

    Raises:
        DatabaseError: the database cannot be reached or used.
    """
    url = await database_url(settings)
    await bring_up_to_date(url, settings, ignore)
    connection = await connect(url, settings.database.schema_name)
    try:
        rows = await connection.fetch(_SQL["streams"])
        streams = [await _stream(connection, row, settings, explain=explain) for row in rows]
        last = await connection.fetchrow(_SQL["last_sync"])
        paused_until = await connection.fetchval(_SQL["paused_until"])
    finally:
        await connection.close()
    streams += _never_read(settings, {StreamId(each.app_id, each.workflow_id) for each in streams})
    quarantined = sum(each.quarantined for each in streams)
    return StatusReport(streams, dict(last) if last is not None else None, quarantined, paused_until)


def _never_read(settings: Settings, known: set[StreamId]) -> list[StreamStatus]:
    return [
        StreamStatus(
            *(app.id, workflow_id, None, "new", None, None, None, None),
            backfill_done=False,
            api_count=None,
            warehouse_count=0,
            quarantined=0,
            open_runs=0,
            listing_order=None,
            last_error=None,
            last_error_at=None,
            hint="cortex-etl sync",
        )
        for app in settings.apps
        if app.workflows != "all"
        for workflow_id in app.workflows
        if StreamId(app.id, workflow_id) not in known
    ]


async def _stream(
    connection: asyncpg.Connection, row: asyncpg.Record, settings: Settings, *, explain: bool
) -> StreamStatus:
    values = dict(row)
    for helper in ("backfill_cursor", "accounted_for", "workflow_gone_at"):
        values.pop(helper)
    state, hint = stream_state(row, settings.apps)
    holds = await _holds(connection, row) if explain and state != "retired" else []
    return StreamStatus(**values, state=state, hint=hint, holds=holds)


async def _holds(connection: asyncpg.Connection, row: asyncpg.Record) -> list[str]:
    stream = (row["app_id"], row["workflow_id"])
    holds = []
    if not row["backfill_done"]:
        holds.append(_unread(row["backfill_cursor"]))
    elif row["api_count"] is not None and row["api_count"] != row["accounted_for"]:
        counts = f"the API counted {row['api_count']} runs, here are {row['accounted_for']}"
        holds.append(f"a page not yet read: {counts}")
    if row["quarantined"]:
        rejects = [each for each in await connection.fetch(_SQL["rejects"], False) if tuple(each)[1:3] == stream]  # noqa: FBT003 - the statement's parameter
        holds += [
            f"a rejected run: {each['run_id'] or 'without an id'} ({each['reason']}: {each['error']})"
            for each in rejects[:_NAMED_REJECTS]
        ]
        if len(rejects) > _NAMED_REJECTS:
            holds.append(f"{len(rejects) - _NAMED_REJECTS} more rejected runs: cortex-etl rejects list")
    if row["open_runs"]:
        oldest = await connection.fetchrow(_SQL["oldest_open_run"], *stream)
        if oldest is not None:
            since = f" since {oldest['created_at']:%Y-%m-%d %H:%M} UTC" if oldest["created_at"] else ""
            holds.append(f"an open run: {oldest['id']} is {oldest['status']}{since} ({row['open_runs']} open in all)")
    if row["last_error"]:
        holds.append(f"the last failure: {row['last_error']}")
    return holds


def _unread(cursor: str | None) -> str:
    if cursor is None:
        return "a page not yet read: the history load has not begun"
    point = msgspec.json.decode(cursor, type=Checkpoint)
    # The offset ends with a page, which the last run need not.
    read = point.offset if point.count is None else f"{min(point.offset, point.count)} of {point.count}"
    return f"a page not yet read: the history load has committed the first {read} listed runs"
