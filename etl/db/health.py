"""Stream health: rows of the view `sync_health`, and the record of the streams that the settings request."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg

from etl.db.statements import statements
from etl.events import StreamId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from etl.config import Settings

_SQL = statements("health")
_SHORTEST_LATE_AFTER = timedelta(days=1)


async def record_requested(
    server: asyncpg.Pool | asyncpg.Connection,
    streams: Sequence[StreamId],
    *,
    reconcile_every: timedelta,
    kept_apps: Sequence[str],
) -> None:
    """Record which streams the settings request; other streams are retired.

    Args:
        server: a connection to the warehouse, or a pool of them.
        streams: the requested streams.
        reconcile_every: the setting. A stream is late after twice this time, but not before a day.
        kept_apps: apps whose other streams stay unchanged, because their workflows are not known completely.
    """
    await server.execute(
        _SQL["record_requested"],
        [stream.app_id for stream in streams],
        [stream.workflow_id for stream in streams],
        max(_SHORTEST_LATE_AFTER, 2 * reconcile_every),
        list(kept_apps),
    )


async def record_named(connection: asyncpg.Connection, settings: Settings) -> None:
    """Record which streams the settings request, as far as they name workflows; the next sync lists the others.

    Without this, a workflow that has just been added to the settings would be unknown until the next sync. If the role
    can only read, nothing is recorded.
    """
    if not settings.apps:
        return
    streams = [StreamId(app.id, each) for app in settings.apps if app.workflows != "all" for each in app.workflows]
    whole = [app.id for app in settings.apps if app.workflows == "all"]
    with suppress(asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError):
        await record_requested(connection, streams, reconcile_every=settings.sync.reconcile_every, kept_apps=whole)
        await connection.execute(_SQL["forget_unread"])


async def clear_app_errors(pool: asyncpg.Pool, kept_apps: Sequence[str]) -> None:
    """Delete the errors of all apps except for `kept_apps`: they have been listed, or are not in the settings."""
    await pool.execute(_SQL["clear_app_errors"], list(kept_apps))


async def record_app_errors(pool: asyncpg.Pool, errors: Iterable[tuple[str, str, str]]) -> None:
    """Record why the workflows of apps could not be listed completely: (app id, error, hint) of each app."""
    await pool.executemany(_SQL["record_app_error"], sorted(errors))


async def read_health(connection: asyncpg.Connection) -> list[dict[str, Any]]:
    """Return the rows of `sync_health`, ordered by app and workflow name."""
    return [dict(row) for row in await connection.fetch(_SQL["streams"])]


async def read_server_limits(server: asyncpg.Pool | asyncpg.Connection) -> tuple[int | None, int | None]:
    """Return how many connections the server accepts, and how many locks; None where there is no server yet."""
    rows = await server.fetch(_SQL["server_limits"])
    return tuple(rows[0]) if rows else (None, None)


async def read_listed(connection: asyncpg.Connection) -> dict[str, Any]:
    """Return what the streams of the settings listed when they were last read; see the statement."""
    (row,) = await connection.fetch(_SQL["listed"])
    return dict(row)


def is_healthy(stream: Mapping[str, Any]) -> bool:
    """Return whether a stream is complete, retired, or being loaded by a live invocation."""
    return stream["state"] in {"complete", "retired"} or (stream["state"] == "loading" and bool(stream["held_by"]))
