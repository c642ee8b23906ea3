"""Stream health: rows of the view `sync_health`, and the record of the streams that the settings request."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from etl.db.statements import statements

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    import asyncpg

    from etl.events import StreamId

_SQL = statements("health")
_SHORTEST_LATE_AFTER = timedelta(days=1)


async def record_requested(
    pool: asyncpg.Pool,
    streams: Sequence[StreamId],
    *,
    reconcile_every: timedelta,
    kept_apps: Sequence[str],
) -> None:
    """Record which streams the settings request; other streams are retired.

    Args:
        pool: connections to the warehouse.
        streams: the requested streams.
        reconcile_every: the setting. A stream is late after twice this time, but not before a day.
        kept_apps: apps whose other streams and errors stay unchanged, because their workflows could not be listed
            completely.
    """
    await pool.execute(
        _SQL["record_requested"],
        [stream.app_id for stream in streams],
        [stream.workflow_id for stream in streams],
        max(_SHORTEST_LATE_AFTER, 2 * reconcile_every),
        list(kept_apps),
    )
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
