"""How a stream stands, told from its row of the statement `streams` in reporting.sql."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncpg


def stream_state(row: asyncpg.Record) -> tuple[str, str]:
    """The state of a stream (complete, incomplete, loading, failing or new) and the command that mends it."""
    workflow = row["workflow_id"]
    if not row["backfill_done"]:
        state = "failing" if row["last_error"] else "loading" if row["backfill_cursor"] else "new"
        return state, f"cortex-etl backfill --workflow {workflow}"
    if row["api_count"] is not None and row["api_count"] != row["accounted_for"]:
        return "incomplete", f"cortex-etl reconcile --workflow {workflow}"
    if row["last_error"]:
        return "failing", f"cortex-etl sync --workflow {workflow}"
    return "complete", "cortex-etl rejects list" if row["quarantined"] else ""
