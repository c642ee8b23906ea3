"""Health of the streams: rows of the view `sync_health`, and which streams the settings ask for."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from etl.db.statements import statements

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
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
    errors: Mapping[str, str],
) -> None:
    """Record which streams the settings ask for; other streams are retired.

    Args:
        pool: connections to the warehouse.
        streams: those asked for.
        reconcile_every: the setting; a stream is late after twice that, or a day.
        kept_apps: apps whose other streams stay as they were, because their workflows were not, or not all, listed.
        errors: why the workflows of an app could not be listed, by app id.
    """
    await pool.execute(
        _SQL["record_requested"],
        [stream.app_id for stream in streams],
        [stream.workflow_id for stream in streams],
        max(_SHORTEST_LATE_AFTER, 2 * reconcile_every),
        list(kept_apps),
        list(errors),
        list(errors.values()),
    )


async def read_health(connection: asyncpg.Connection) -> list[dict[str, Any]]:
    """Return the rows of `sync_health`, by app and name of the workflow."""
    return [dict(row) for row in await connection.fetch(_SQL["streams"])]


def is_healthy(stream: Mapping[str, Any]) -> bool:
    """Return whether a stream is complete, retired, or being loaded by a live invocation."""
    return stream["state"] in {"complete", "retired"} or (stream["state"] == "loading" and bool(stream["held_by"]))
