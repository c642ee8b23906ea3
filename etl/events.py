"""What happened, as small frozen dataclasses, and a listener that does nothing by default.

The core calls its listener; logs, progress bars and metrics subscribe. An event never carries a secret, and one that
tells of data (`BatchLoaded`, `RunQuarantined`) is emitted only after the data is committed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote

_STREAM_PATH = re.compile(r"/apps/([^/?]+)/workflows/([^/?]+)/runs")


class StreamId(NamedTuple):
    """Names a stream: the runs of one workflow, as listed for one app."""

    app_id: str
    workflow_id: str

    def __str__(self) -> str:
        return f"{self.app_id}/{self.workflow_id}"


def stream_of(path: str) -> StreamId | None:
    """The stream whose listing or run a request asks for; None for any other path."""
    found = _STREAM_PATH.match(path)
    return StreamId(unquote(found[1]), unquote(found[2])) if found else None


@dataclass(frozen=True, slots=True)
class SyncStarted:
    """An invocation begins. `sync_id` is its row in `etl_syncs`, None where none is written (a dry run)."""

    mode: str
    streams: tuple[StreamId, ...]
    sync_id: int | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """A stream begins. `count` is what the API lists (None: not known yet), `pages` the pages expected for it."""

    stream: StreamId
    count: int | None = None
    pages: int | None = None


@dataclass(frozen=True, slots=True)
class RequestSent:
    """A request left and its answer came in. `status` is None where none came; `path` holds no secret."""

    path: str
    status: int | None
    seconds: float
    size: int = 0


@dataclass(frozen=True, slots=True)
class RequestRetried:
    """A request is tried again after `wait_s` seconds; `attempt` counts the tries so far."""

    path: str
    attempt: int
    reason: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class RateLimited:
    """All requests pause for `wait_s` seconds because the API said so (429 or `Retry-After`)."""

    wait_s: float
    path: str = ""


@dataclass(frozen=True, slots=True)
class PageRead:
    """A page was read and its items were told apart. `count` and `pages_total` are None where the API tells none."""

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
    """One transaction was committed: runs by what became of them, and the rows written over all tables."""

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
    """One item went to `etl_rejects`. `run_id` is None where it could not be told."""

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
    """The invocation ended. `summary` is `SyncSummary.as_dict()`: the one canonical line with every count."""

    summary: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Notice:
    """Anything else worth a log line. `name` is `noun.verb_past`, e.g. `migration.applied`; `level` as in logging."""

    name: str
    fields: Mapping[str, object] = field(default_factory=dict)
    level: str = "info"


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
"""Receives each event, at once and in order; it must be quick and must not raise."""


def ignore(event: Event) -> None:
    """The listener that does nothing."""


def tee(*listeners: Listener) -> Listener:
    """Make one listener of several; each receives every event, in the order given."""

    def listener(event: Event) -> None:
        for each in listeners:
            each(event)

    return listener
