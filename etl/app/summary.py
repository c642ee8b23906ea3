"""The outcomes of an invocation's streams, and the summary that they make: its row of `etl_syncs` and its exit code."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from etl.db.session import Session
from etl.errors import EXIT_HELD, EXIT_INCOMPLETE, EXIT_OK, InterruptedSyncError, gravest
from etl.events import Notice, RequestSent
from etl.sync import Outcome
from etl.sync.intake import Tally
from etl.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from etl.app.warehouse import Warehouse
    from etl.errors import EtlError
    from etl.events import Event, Listener, StreamId

_CHANGES = ("inserted", "updated", "unchanged", "gone")
_INTERNAL = ("dry_run", "cause")


@dataclass(slots=True)
class Outcomes:
    """The streams of an invocation, and the outcomes of those that have ended."""

    streams: Sequence[StreamId] = ()
    ended: dict[StreamId, Outcome] = field(default_factory=dict)
    _unrecorded: list[Outcome] = field(default_factory=list)

    async def compare_again(self, warehouse: Warehouse, listener: Listener) -> None:
        """Compare all counts again, because a stream may have loaded runs that another stream had counted before."""
        succeeded = [each for each in self.ended.values() if each.status == "succeeded" and each.api_count is not None]
        counted = {each.stream: each.state for each in succeeded if each.state is not None}
        if not counted:
            return
        for stream, row in (await warehouse.ask(lambda session: session.compare_again(counted))).items():
            error, hint = row["last_error"], row["last_hint"]
            changes = {"warehouse_count": row["accounted_for"], "error": error, "hint": hint}
            self.ended[stream] = replace(self.ended[stream], status="partial", **changes)
            listener(Notice("stream.incomplete", {"stream": str(stream), **changes}, level="warning"))

    def end_with(self, error: EtlError) -> None:
        """Set the outcomes of streams that have not ended, from the error that ended the invocation."""
        status = "interrupted" if isinstance(error, InterruptedSyncError) else "failed"
        for stream in self.streams:
            ended = self.ended.get(stream)
            if ended is None or ended.status == "interrupted":
                tally, state = (Tally(), None) if ended is None else (ended.tally, ended.state)
                outcome = Outcome(stream, status, error=error.message, hint=error.hint, tally=tally, state=state)
                self.ended[stream] = outcome
                self._unrecorded += [outcome] if status == "failed" else []

    async def record_failures(self, warehouse: Warehouse) -> None:
        """Store the errors of streams that `end_with` has marked as failed."""
        for each in self._unrecorded:
            fence = None if each.state is None else each.state.fence
            failure: dict[str, Any] = {"stream": each.stream, "fence": fence, "error": each.error, "hint": each.hint}
            await warehouse.ask(partial(Session.fail_stream, **failure))


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """One stream of an invocation; `status` is succeeded, partial, failed, interrupted or skipped."""

    app_id: str
    workflow_id: str
    status: str
    api_count: int | None
    warehouse_count: int | None
    error: str
    hint: str


@dataclass(slots=True)
class SyncSummary:
    """The result of one invocation: the columns of its row in `etl_syncs`, and its streams.

    Counts are totals over all streams. `id`, the times and the process come from the row; they are None if no row was
    written. `seconds` is wall-clock time. `cause` is the error that ended the invocation early; None if it completed.
    """

    mode: str
    id: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    status: str = "running"
    requests: int = 0
    retries: int = 0
    pages: int = 0
    runs_seen: int = 0
    runs_inserted: int = 0
    runs_updated: int = 0
    runs_unchanged: int = 0
    runs_gone: int = 0
    rejects: int = 0
    error: str = ""
    host: str | None = None
    pid: int | None = None
    version: str | None = None
    exit_code: int = EXIT_OK
    seconds: float = 0.0
    hint: str = ""
    streams: list[StreamSummary] = field(default_factory=list)
    dry_run: bool = False
    cause: EtlError | None = None

    @classmethod
    def from_json(cls, text: str) -> SyncSummary:
        """Return the summary that another process has encoded with `as_dict`."""
        values = _or_empty(msgspec.json.decode(text))
        for name in ("started_at", "ended_at"):
            values[name] = datetime.fromisoformat(values[name]) if values[name] else None
        streams = [StreamSummary(**_or_empty(each)) for each in values.pop("streams")]
        return cls(**values, streams=streams)

    def begin(self, row: Mapping[str, Any]) -> None:
        """Copy the values of the invocation's row in `etl_syncs`."""
        for name, value in row.items():
            setattr(self, name, value)

    def listen(self, event: Event) -> None:
        """Count a request."""
        if isinstance(event, RequestSent):
            self.requests += 1
            self.retries += event.is_retry

    def add(self, outcome: Outcome) -> None:
        """Add the outcome of a stream."""
        counts = (outcome.api_count, outcome.warehouse_count)
        self.streams.append(StreamSummary(*outcome.stream, outcome.status, *counts, outcome.error, outcome.hint))
        for name in ("runs_seen", *(each.name for each in fields(Tally))):
            setattr(self, name, getattr(self, name) + getattr(outcome.tally, name))

    def count(self, *statuses: str) -> int:
        """Return the number of streams with one of these statuses."""
        return sum(stream.status in statuses for stream in self.streams)

    def conclude(self) -> None:
        """Set status, error, hint and exit code from the streams."""
        done, bad, skipped = self.count("succeeded", "partial"), self.count("partial", "failed"), self.count("skipped")
        if skipped and skipped == len(self.streams):
            self.status = "partial" if self.pages else "skipped"
        elif bad or skipped:
            self.status = "partial" if done else "failed"
        else:
            self.status = "succeeded"
        self.exit_code = EXIT_INCOMPLETE if bad else EXIT_HELD if skipped else EXIT_OK
        if bad:
            first = next(stream for stream in self.streams if stream.status in {"partial", "failed"})
            self.error, self.hint = f"{first.app_id}/{first.workflow_id}: {first.error}", first.hint
        elif skipped:
            self.error = f"other invocations hold {skipped} of {counted(len(self.streams), 'stream')}"
            self.hint = "See who holds them with: cortex-etl status"

    def end_with(self, error: EtlError) -> None:
        """Record an error that ended the invocation, unless an earlier one takes precedence (see `gravest`)."""
        if self.cause is None or gravest([self.cause, error]) is error:
            self.status = "interrupted" if isinstance(error, InterruptedSyncError) else "failed"
            self.cause, self.error, self.hint, self.exit_code = error, error.message, error.hint, error.exit_code

    def row_values(self) -> tuple[object, ...]:
        """Return the parameters of the statement `finish_sync`, in its order."""
        counts = ("requests", "retries", "pages", "runs_seen", *(f"runs_{kind}" for kind in _CHANGES), "rejects")
        return (self.id, self.status, *(getattr(self, name) for name in counts), self.error or None)

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain values, for JSON and the final log line; empty texts become None."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _INTERNAL}
        values["streams"] = [_or_none(asdict(stream)) for stream in self.streams]
        return {"id": self.id} | _or_none(values)


def _or_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if value == "" else value for name, value in values.items()}


def _or_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: "" if value is None and name in ("error", "hint") else value for name, value in values.items()}
