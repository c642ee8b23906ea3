"""Read the health of the streams from the warehouse, without requests to the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etl.app.warehouse import connected
from etl.db.health import is_healthy, read_health, record_named
from etl.db.statements import statements

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import asyncpg

    from etl.config import Settings

_SQL = statements("health")
_MAX_REJECTS = 3  # named for each stream


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The rows of `sync_health`, and the last row of `sync_history` that is not skipped (None if there is no row yet).

    With `explain`, each stream also has `explanation`, the list of reasons that block its watermark. `paused_until` is
    set while requests are paused, `now` is PostgreSQL's time, and `page_size` the setting `api.page_size`.
    """

    streams: Sequence[Mapping[str, Any]]
    last_sync: Mapping[str, Any] | None
    paused_until: datetime | None
    now: datetime
    page_size: int

    @property
    def is_healthy(self) -> bool:
        """Whether all streams are complete, retired, or being loaded by a running invocation.

        If no stream is known yet, whether the last invocation succeeded or is running; without one, nothing is loaded.
        """
        if not self.streams:
            return self.last_sync is not None and self.last_sync["status"] in {"succeeded", "running"}
        return all(map(is_healthy, self.streams))

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, for JSON."""
        return {"streams": self.streams, "last_sync": self.last_sync}


async def status_report(settings: Settings, *, explain: bool = False) -> StatusReport:
    """Read the health of the streams.

    Args:
        explain: whether to add the reasons that block each watermark.

    Raises:
        DatabaseError: the database cannot be reached or used.
    """
    async with connected(settings) as connection:
        await record_named(connection, settings)
        streams = await read_health(connection)
        if explain:
            streams = [stream | {"explanation": await _explain(connection, stream)} for stream in streams]
        last = await connection.fetchrow(_SQL["last_sync"])
        pause = await connection.fetchrow(_SQL["paused_until"])
    assert pause is not None  # noqa: S101 - an aggregate always returns one row
    return StatusReport(
        streams,
        dict(last) if last is not None else None,
        pause["paused_until"],
        pause["now"],
        settings.api.usual_page_size,
    )


async def _explain(connection: asyncpg.Connection, stream: Mapping[str, Any]) -> list[str]:
    """Return the reasons that block the watermark of a stream: its blocker, rejected runs, open runs."""
    if stream["state"] == "retired":
        return []
    key = (stream["app_id"], stream["workflow_id"])
    reasons = [stream["blocker"]] if stream["blocker"] else []
    if stream["quarantined"]:
        rejects = await connection.fetch(_SQL["newest_rejects"], *key, _MAX_REJECTS)
        reasons += [
            f"rejected run {row['run_id'] or 'without an id'}: {row['reason']}: {row['error']}" for row in rejects
        ]
        if stream["quarantined"] > len(rejects):
            reasons.append(f"{stream['quarantined'] - len(rejects)} more rejected runs: cortex-etl rejects list")
    if stream["open_runs"]:
        oldest = await connection.fetchrow(_SQL["oldest_open_run"], *key)
        if oldest is not None:
            since = f" since {oldest['created_at']:%Y-%m-%d %H:%M} UTC" if oldest["created_at"] else ""
            reasons.append(f"open run {oldest['id']}: {oldest['status']}{since} ({stream['open_runs']} open in all)")
    return reasons
