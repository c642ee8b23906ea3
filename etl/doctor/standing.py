"""Looks at what past syncs left: streams that stand still, locks of processes that hang, pauses the API asked for."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from etl.config import format_duration
from etl.db.standing import is_retired, stream_state
from etl.db.statements import statements
from etl.doctor.checks import Check, ok, warning

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    import asyncpg

    from etl.config import Settings

_NAMED = 5  # streams; `status` has the others
_SPARED = 0.9  # of what the API took before it asked for a pause, to stay below it

_SQL = statements("doctor")
_STREAMS = statements("reporting")["streams"]


async def examine_standing(connection: asyncpg.Connection, settings: Settings) -> AsyncIterator[Check]:
    """Yield the findings about the bookkeeping; the warehouse is up to date."""
    async for check in _streams(connection, settings):
        yield check
    yield await _locks(connection)
    yield await _allowance(connection, settings)


async def _streams(connection: asyncpg.Connection, settings: Settings) -> AsyncIterator[Check]:
    """Name the streams whose watermark does not move as it should, the worst of each."""
    rows = [row for row in await connection.fetch(_STREAMS) if not is_retired(row, settings.apps)]
    now = await connection.fetchval("SELECT now()")
    is_loading = any(not row["is_stale"] for row in await connection.fetch(_SQL["locks"]))
    newest = {tuple(row)[:2]: row["newest"] for row in await connection.fetch(_SQL["newest"])}
    troubled = [
        (row, *trouble)
        for row in rows
        if (trouble := _trouble(row, settings, newest.get((row["app_id"], row["workflow_id"])), now)) is not None
        and not (is_loading and trouble[0] in ("new", "loading"))
    ]
    for row, why, hint in troubled[:_NAMED]:
        mark = f"stands still at {row['watermark']:%Y-%m-%d %H:%M} UTC" if row["watermark"] else "has not begun"
        found = f"{row['app_id']}/{row['workflow_id']}: the watermark {mark}: {why}"
        yield warning("watermark", found, f"Run: {hint}")
    if len(troubled) > _NAMED:
        yield warning("watermark", f"{len(troubled) - _NAMED} more stand still", "Run: cortex-etl status --explain")
    if not troubled:
        yield ok("watermark", f"{len(rows)} stream{'' if len(rows) == 1 else 's'}, none stands still")


def _trouble(row: asyncpg.Record, settings: Settings, newest: datetime | None, now: datetime) -> tuple[str, str] | None:
    """Why a stream's watermark does not move, and what to type; None where all is well."""
    state, hint = stream_state(row, settings.apps)
    if row["last_error"] and state != "complete":
        return f"{state} since {row['last_error_at']:%Y-%m-%d %H:%M} UTC: {row['last_error']}", hint
    if state == "late":
        unread = (now - row["last_synced_at"]) // timedelta(hours=1)
        return f"no sync has read it for {format_duration(timedelta(hours=unread))}", hint
    if state != "complete":
        return state, hint
    if newest is not None and (row["watermark"] is None or row["watermark"] < newest):
        return (
            f"runs up to {newest:%Y-%m-%d %H:%M} UTC are here",
            f"cortex-etl reconcile --workflow {row['workflow_id']}",
        )
    return None


async def _locks(connection: asyncpg.Connection) -> Check:
    """Find a process that holds streams and does nothing."""
    held = await connection.fetch(_SQL["locks"])
    idle = next((row for row in held if row["is_stale"]), None)
    if idle is None:
        busy = len({row["pid"] for row in held})
        return ok("locks", f"{busy} other process{'' if busy == 1 else 'es'} at work" if busy else "none is held")
    place = f"process {idle['process']} on {idle['host']}, " if idle["process"] is not None else ""
    since = f"{idle['silent_since']:%Y-%m-%d %H:%M} UTC"
    found = f"a stale lock: {place}sync {idle['sync_id']} holds streams, silent since {since}"
    return warning("locks", found, f"End that process; or, in SQL: SELECT pg_terminate_backend({idle['pid']});")


async def _allowance(connection: asyncpg.Connection, settings: Settings) -> Check:
    """Tell whether the API took as many requests as are configured."""
    configured = settings.api.requests_per_minute
    row = await connection.fetchrow(_SQL["paused"], settings.api.host)
    if row is None or row["paused_at"] is None or row["paused_after"] >= configured:
        return ok("rate", f"the API has taken the {configured:,} requests a minute that are configured")
    found = (
        f"the API asked for a pause at {row['paused_at']:%Y-%m-%d %H:%M} UTC after {row['paused_after']:,} requests "
        f"in a minute; {configured:,} are configured"
    )
    fewer = max(1, int(row["paused_after"] * _SPARED))
    return warning("rate", found, f"Set api.requests_per_minute to {fewer:,}, or find who else uses this address.")
