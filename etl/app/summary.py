"""What an invocation came to: the numbers of its ledger row, its streams, and the exit code."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from etl.sync.intake import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable

    from etl.sync import Outcome

EXIT_OK = 0
EXIT_STREAMS_FAILED = 1
EXIT_ALL_HELD = 75
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """One stream of an invocation; `outcome` is succeeded, partial, failed, interrupted or skipped."""

    app_id: str
    workflow_id: str
    outcome: str
    api_count: int | None
    warehouse_count: int | None
    error: str
    hint: str


@dataclass(slots=True)
class SyncSummary:
    """An invocation; the counts are over all its streams, `seconds` by the wall clock."""

    mode: str
    dry_run: bool = False
    sync_id: int | None = None
    status: str = "running"
    exit_code: int = EXIT_OK
    requests: int = 0
    retries: int = 0
    pages: int = 0
    runs_seen: int = 0
    runs_inserted: int = 0
    runs_updated: int = 0
    runs_unchanged: int = 0
    runs_gone: int = 0
    rejects: int = 0
    seconds: float = 0.0
    error: str = ""
    hint: str = ""
    streams: list[StreamSummary] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Take in how a stream ended."""
        self.streams.append(
            StreamSummary(
                outcome.stream.app_id,
                outcome.stream.workflow_id,
                outcome.status,
                outcome.api_count,
                outcome.warehouse_count,
                outcome.error,
                outcome.hint,
            )
        )
        for each in fields(Tally):
            setattr(self, each.name, getattr(self, each.name) + getattr(outcome.tally, each.name))

    def count(self, outcomes: Iterable[str]) -> int:
        """How many streams ended in one of these ways."""
        wanted = set(outcomes)
        return sum(stream.outcome in wanted for stream in self.streams)

    def conclude(self) -> None:
        """Set status, error and exit code from the streams' outcomes."""
        bad = self.count(("failed", "partial"))
        if self.streams and self.count(("skipped",)) == len(self.streams):
            self.status, self.exit_code = "skipped", EXIT_ALL_HELD
            self.error = self.error or "other invocations hold all the streams asked for"
        elif self.count(("interrupted",)):
            self.status, self.exit_code = "interrupted", EXIT_INTERRUPTED
        elif bad:
            self.exit_code = EXIT_STREAMS_FAILED
            done = self.count(("succeeded", "partial"))
            self.status = "partial" if done else "failed"
        else:
            self.status, self.exit_code = "succeeded", EXIT_OK
        first = next((stream for stream in self.streams if stream.outcome in ("failed", "partial")), None)
        if first is not None and not self.error:
            self.error = f"{first.app_id}/{first.workflow_id}: {first.error}"
            self.hint = first.hint

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON and for the one line that ends a sync."""
        return asdict(self)
