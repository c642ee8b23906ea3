"""Events of a sync and their listeners, such as logs, progress bars and metrics.

The core passes each event to one listener. Events contain no secrets. Events about data (`BatchLoaded`,
`RunQuarantined`) are emitted after the data is committed.
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
    """The id of a stream: the listing of one workflow's runs by one app."""

    app_id: str
    workflow_id: str

    def __str__(self) -> str:
        return f"{self.app_id}/{self.workflow_id}"


def stream_of(path: str) -> StreamId | None:
    """Return the stream in the path of a request for a listing or a run; None for other paths."""
    found = _STREAM_PATH.match(path)
    return StreamId(unquote(found[1]), unquote(found[2])) if found else None


@dataclass(frozen=True, slots=True)
class SyncStarted:
    """An invocation started. `sync_id` is its id in `etl_syncs`; None in a dry run."""

    mode: str
    streams: tuple[StreamId, ...]
    sync_id: int | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """A stream started. `count` is the number of listed runs in the last sync; None if unknown."""

    stream: StreamId
    count: int | None = None


@dataclass(frozen=True, slots=True)
class RequestSent:
    """A request was answered or failed. `status` is None if there was no response."""

    path: str
    status: int | None
    seconds: float
    size: int = 0
    is_retry: bool = False


@dataclass(frozen=True, slots=True)
class RequestRetried:
    """A request will be retried in `wait_s` seconds; `attempt` counts the attempts so far."""

    path: str
    attempt: int
    reason: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class RateLimited:
    """All requests pause for `wait_s` seconds at the API's request (429 or `Retry-After`)."""

    wait_s: float
    path: str = ""


@dataclass(frozen=True, slots=True)
class PageRead:
    """A page was read and its items were classified.

    `items` is how many of them no page before had shown. `count` and `pages_total` are None if the API sends no count.
    """

    stream: StreamId
    page: int
    items: int
    count: int | None = None
    pages_total: int | None = None


@dataclass(frozen=True, slots=True)
class BatchLoaded:
    """A transaction was committed. `rows` is the number of rows written to all tables."""

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
    """An item was quarantined in `etl_rejects`. `run_id` is None if the item has no id."""

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
    """The invocation ended. `summary` is `SyncSummary.as_dict()`."""

    summary: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Notice:
    """Any other message for the log. `name` has the form `migration.applied`; `level` is a level of `logging`."""

    name: str
    fields: Mapping[str, object] = field(default_factory=dict)
    level: str = "info"


@dataclass(frozen=True, slots=True)
class RuleChange:
    """An alert rule started firing or was resolved. This is the content of a message, not an event of a sync.

    Attributes:
        rule: name of the rule.
        firing: whether the rule is firing now.
        since: the first check since which all checks have found rows; None if the rule is resolved.
        columns: the columns of the query.
        rows: the first rows of the result.
        more: whether the result has more rows.
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
"""Called with each event, synchronously and in order. It must return quickly and must not raise exceptions."""


def ignore(event: Event) -> None:
    """Ignore an event."""


def tee(*listeners: Listener) -> Listener:
    """Return a listener that passes each event to all given listeners, in order."""

    def listener(event: Event) -> None:
        for each in listeners:
            each(event)

    return listener
