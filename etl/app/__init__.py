"""The one place that puts the parts together: what each command calls."""

from etl.app.summary import StreamSummary, SyncSummary
from etl.app.syncing import run_sync

__all__ = ["StreamSummary", "SyncSummary", "run_sync"]
