"""Check the records of past syncs: streams that need attention, locks of hanging processes, pauses of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.db.health import is_healthy, read_health, read_listed, read_server_limits, record_named
from etl.db.statements import statements
from etl.doctor.checks import Check, ok, warning
from etl.limits import Work, near_limits
from etl.text import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from etl.config import Settings

_MAX_STREAMS = 5  # streams to name; `status` shows all
_FEWEST = 5  # fewer requests before a pause say nothing about the rate that the API accepts
_MARGIN = 0.9  # share of the requests that the API accepted before it requested a pause

_SQL = statements("doctor")


async def examine_bookkeeping(connection: asyncpg.Connection, settings: Settings) -> AsyncIterator[Check]:
    """Yield the findings about streams, locks and the request budget of a migrated warehouse."""
    await record_named(connection, settings)
    async for check in _streams(connection):
        yield check
    yield await _locks(connection)
    yield await _request_budget(connection, settings)
    async for check in _capacity(connection, settings):
        yield check


async def _streams(connection: asyncpg.Connection) -> AsyncIterator[Check]:
    """Yield a warning for each of the first streams that are neither complete nor being loaded."""
    rows = [row for row in await read_health(connection) if row["state"] != "retired"]
    unhealthy = [row for row in rows if not is_healthy(row)]
    for row in unhealthy[:_MAX_STREAMS]:
        found = f"{row['app_id']}/{row['workflow_id']} is {row['state']}: {row['blocker']}"
        if row["watermark"] is not None:
            found += f"; its watermark is {row['watermark']:%Y-%m-%d %H:%M} UTC"
        yield warning("streams", found, row["hint"] or "")
    if len(unhealthy) > _MAX_STREAMS:
        yield warning("streams", f"{len(unhealthy) - _MAX_STREAMS} more need attention", "Run: cortex-etl status")
    if not unhealthy:
        yield ok("streams", f"{counted(len(rows), 'stream')}, none needs attention")
    if quarantined := sum(row["quarantined"] or 0 for row in rows):
        yield warning(
            "quarantine", f"{counted(quarantined, 'run')} could not be loaded", "Run: cortex-etl rejects list"
        )


async def _locks(connection: asyncpg.Connection) -> Check:
    """Check for an invocation that holds streams but is idle."""
    held = await connection.fetch(_SQL["locks"])
    idle = next((row for row in held if row["is_stale"]), None)
    if idle is None:
        busy = len({row["pid"] for row in held})
        return ok("locks", f"{counted(busy, 'other invocation')} running" if busy else "no stream is locked")
    place = f"process {idle['process']} on {idle['host']}, " if idle["process"] is not None else ""
    since = f"{idle['silent_since']:%Y-%m-%d %H:%M} UTC"
    found = f"a stale lock: {place}sync {idle['sync_id']} holds streams, silent since {since}"
    return warning("locks", found, f"End that process, or run this SQL: SELECT pg_terminate_backend({idle['pid']});")


async def _request_budget(connection: asyncpg.Connection, settings: Settings) -> Check:
    """Check whether the API asked for a pause below the configured number of requests."""
    configured = settings.api.requests_per_minute
    row = await connection.fetchrow(_SQL["paused"], settings.api.host, settings.api.egress or "")
    if row is None:
        return ok("rate", "the API has not asked for a pause in the last 24 hours")
    taken = counted(row["paused_after"], "request")
    found = (
        f"the API asked for a pause at {row['paused_at']:%Y-%m-%d %H:%M} UTC after {taken} "
        f"in one minute; {configured:,} are configured"
    )
    if row["paused_after"] >= configured:
        return ok("rate", found)
    hint = "Find out who else uses this IP address, or why the API refuses requests."
    if row["paused_after"] >= _FEWEST:
        fewer = int(row["paused_after"] * _MARGIN)
        hint = f"Set api.requests_per_minute to {fewer:,}, or find out who else uses this IP address."
    return warning("rate", found, hint)


async def _capacity(connection: asyncpg.Connection, settings: Settings) -> AsyncIterator[Check]:
    """Check whether one IP address and this PostgreSQL suffice for the number of listed runs and processes."""
    listed, (connections, locks) = await read_listed(connection), await read_server_limits(connection)
    pages = -(-listed["runs"] // (listed["page_size"] or settings.api.usual_page_size))
    rate, processes = settings.api.requests_per_minute, settings.engine.processes
    work = Work(
        listed["runs"],
        listed["run_bytes"],
        0,
        pages,
        settings.sync.reconcile_every,
        rate,
        processes,
        listed["apps"] or 1,
    )
    for limit in near_limits(work, connections=connections, locks=locks):
        found, _, hint = limit.partition(": ")
        yield warning("capacity", found, f"{hint[0].upper()}{hint[1:]}.")
    if not near_limits(work, connections=connections, locks=locks):
        reading = f"{counted(listed['runs'], 'run')} are read in {pages / rate / 60:.1f} hours by one address"
        yield ok("capacity", f"{reading}; up to {work.connections} of {connections} connections are opened")
