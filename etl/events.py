"""Events, as small frozen dataclasses, and the listeners that receive them.

The core calls its listener; logs, progress bars and metrics subscribe. An event never carries a secret. Events about
data (`BatchLoaded`, `RunQuarantined`) are emitted only after the data is committed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

if TYPE_CHECKING:
    from datetime import datetime

_STREAM_PATH = re.compile(r"/apps/([^/?]+)/workflows/([^/?]+)/runs")


class StreamId(NamedTuple):
    """Id of a stream: the runs of one workflow, as one app lists them."""

    app_id: str
    workflow_id: str

    def __str__(self) -> str:
        return f"{self.app_id}/{self.workflow_id}"


def stream_of(path: str) -> StreamId | None:
    """Return the stream whose listing or run a request path names; None for any other path."""
    found = _STREAM_PATH.match(path)
    return StreamId(unquote(found[1]), unquote(found[2])) if found else None


@dataclass(frozen=True, slots=True)
class SyncStarted:
    """An invocation started. `sync_id` is its row of `etl_syncs`, None in a dry run."""

    mode: str
    streams: tuple[StreamId, ...]
    sync_id: int | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """A stream started. `count` is the number of listed runs, as the last sync saw it; None while unknown."""

    stream: StreamId
    count: int | None = None


@dataclass(frozen=True, slots=True)
class RequestSent:
    """A request was answered or failed; `status` is None if there was no response. `path` contains no secret."""

    path: str
    status: int | None
    seconds: float
    size: int = 0


@dataclass(frozen=True, slots=True)
class RequestRetried:
    """A request will be retried in `wait_s` seconds; `attempt` counts the attempts so far."""

    path: str
    attempt: int
    reason: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class RateLimited:
    """All requests pause for `wait_s` seconds because the API asked for it (429 or `Retry-After`)."""

    wait_s: float
    path: str = ""


@dataclass(frozen=True, slots=True)
class PageRead:
    """A page was read and its items classified. `count` and `pages_total` are None if the API gives none."""

    stream: StreamId
    page: int
    items: int
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    rejected: int = 0
    count: int | None = None
    pages_total: int | None = None


@dataclass(frozen=True, slots=True)
class BatchLoaded:
    """A transaction was committed; `rows` counts the rows written to all tables."""

    stream: StreamId
    inserted: int
    updated: int
    unchanged: int
    gone: int = 0
    rejected: int = 0
    rows: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RunQuarantined:
    """An item was quarantined in `etl_rejects`. `run_id` is None if it is unknown."""

    stream: StreamId
    run_id: str | None
    reason: str
    error: str


@dataclass(frozen=True, slots=True)
class StreamFinished:
    """A stream ended. `outcome` is succeeded, partial, failed, interrupted or skipped."""

    stream: StreamId
    outcome: str
    api_count: int | None = None
    warehouse_count: int | None = None
    error: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class SyncFinished:
    """The invocation ended. `summary` is `SyncSummary.as_dict()`, with every count."""

    summary: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Notice:
    """Anything else worth a log line. `name` is like `migration.applied`, `level` as in logging."""

    name: str
    fields: Mapping[str, object] = field(default_factory=dict)
    level: str = "info"


@dataclass(frozen=True, slots=True)
class RuleChange:
    """An alert rule that starts firing or is resolved: what a message says, no event of a sync.

    Attributes:
        rule: its name.
        firing: which of the two.
        since: since when every check has found rows; None if it is resolved.
        columns: the columns of its query.
        rows: the first rows.
        more: whether there are more.
    """

    rule: str
    firing: bool
    since: datetime | None
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    more: bool


Event = (
    SyncStarted
    | StreamStarted
    | RequestSent
    | RequestRetried
    | RateLimited
    | PageRead
    | BatchLoaded
    | RunQuarantined
    | StreamFinished
    | SyncFinished
    | Notice
)

Listener = Callable[[Event], None]
"""Receives each event, synchronously and in order; it must be quick and must not raise."""


def ignore(event: Event) -> None:
    """Ignore an event."""


def tee(*listeners: Listener) -> Listener:
    """Combine listeners: each receives every event, in the order given."""

    def listener(event: Event) -> None:
        for each in listeners:
            each(event)

    return listener
