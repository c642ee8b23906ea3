"""How a stream stands, told from its row of the statement `streams` in reporting.sql."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from etl.config import AppSettings


LATE = timedelta(days=1)
"""Without a sync that reads a stream to its end, which no schedule is meant to let pass."""


def is_retired(row: asyncpg.Record, apps: Sequence[AppSettings]) -> bool:
    """Whether no sync reads a stream any more: the settings name it no longer, or the API lists it no longer."""
    found = next((app.workflows for app in apps if app.id == row["app_id"]), [])
    is_read = row["workflow_gone_at"] is None if found == "all" else row["workflow_id"] in found
    return bool(apps) and not is_read


def stream_state(row: asyncpg.Record, apps: Sequence[AppSettings]) -> tuple[str, str]:
    """A stream's state (complete, incomplete, loading, failing, late, new or retired) and the command that fixes it."""
    workflow = row["workflow_id"]
    if is_retired(row, apps):
        return "retired", ""
    if not row["backfill_done"]:
        state = "failing" if row["last_error"] else "loading" if row["backfill_cursor"] else "new"
        return state, f"cortex-etl backfill --workflow {workflow}"
    if row["api_count"] is not None and row["api_count"] != row["accounted_for"]:
        return "incomplete", f"cortex-etl reconcile --workflow {workflow}"
    if row["last_error"]:
        return "failing", f"cortex-etl sync --workflow {workflow}"
    if row["last_synced_at"] is not None and datetime.now(UTC) - row["last_synced_at"] > LATE:
        return "late", "cortex-etl sync, and see that something schedules it: cortex-etl schedule cron"
    return "complete", "cortex-etl rejects list" if row["quarantined"] else ""
