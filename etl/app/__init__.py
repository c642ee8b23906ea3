"""The functions that commands call. This package combines the parts; no other package does."""

from etl.app.access import count_to_forget, forget, reader_grants
from etl.app.estimate import Plan, StreamPlan, make_plan
from etl.app.rejected_items import RetryReport, list_rejects, retry_rejects
from etl.app.stream_health import StatusReport, status_report
from etl.app.summary import StreamSummary, SyncSummary
from etl.app.sync_invocation import run_sync

__all__ = [
    "Plan",
    "RetryReport",
    "StatusReport",
    "StreamPlan",
    "StreamSummary",
    "SyncSummary",
    "count_to_forget",
    "forget",
    "list_rejects",
    "make_plan",
    "reader_grants",
    "retry_rejects",
    "run_sync",
    "status_report",
]
