"""Metrics for Prometheus: a text file, replaced as a whole after each sync, that the node exporter's collector reads.

Nothing runs between syncs, so all are gauges: how each stream stands, and what the last sync did. `docs/operations.md`
lists them. Where the warehouse cannot be asked, what is said of the streams stays as it was in the file.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from etl import __version__, events
from etl.db.standing import is_retired
from etl.db.statements import statements
from etl.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import asyncpg

    from etl.config import AppSettings

_SQL = statements("metrics")
_READABLE = 0o644  # the exporter runs as another user
_STREAM = "cortex_etl_stream_"
_LAST_SUCCESS = "cortex_etl_last_success_timestamp_seconds"

_OF_STREAMS = (
    ("last_success_timestamp_seconds", "last_succeeded_at", "When all that the API counts was last accounted for."),
    ("last_sync_timestamp_seconds", "last_synced_at", "When a sync last read the stream to its end."),
    ("last_reconcile_timestamp_seconds", "last_reconciled_at", "When all was last compared with the API."),
    ("lag_seconds", "lag_s", "Seconds from the watermark to the end of the last sync."),
    ("api_runs", "api_count", "Runs that the API counted."),
    ("warehouse_runs", "warehouse_count", "Runs in the warehouse that have not left the API."),
    ("quarantined_runs", "quarantined", "Runs in quarantine."),
    ("forgotten_runs", "forgotten", "Runs erased for good that the API still lists."),
    ("open_runs", "open_runs", "Runs that were pending or running when last seen."),
    ("backfill_done", "backfill_done", "1 once the whole history has been read."),
    ("failing", "is_failing", "1 where the last sync of the stream failed or its counts disagreed."),
)
_OF_LAST_SYNC = (
    ("rows", "Rows that the last sync wrote, over all tables."),
    ("runs", "Runs that the last sync inserted or changed."),
    ("rejects", "Runs that the last sync put into quarantine."),
    ("requests", "Requests that the last sync sent."),
    ("retries", "Requests that the last sync sent again."),
)


@dataclass(slots=True)
class Tally:
    """Counts, by stream, what one sync does; `listen` is its listener."""

    counts: dict[str, Counter[events.StreamId]] = field(
        default_factory=lambda: {name: Counter() for name, _ in _OF_LAST_SYNC}
    )

    def listen(self, event: events.Event) -> None:
        """Take in an event."""
        match event:
            case events.BatchLoaded():
                self.counts["rows"][event.stream] += event.rows
                self.counts["runs"][event.stream] += event.inserted + event.updated
            case events.RunQuarantined():
                self.counts["rejects"][event.stream] += 1
            case events.RequestSent() | events.RequestRetried():
                stream = events.stream_of(event.path)
                if stream is not None:
                    self.counts["requests" if isinstance(event, events.RequestSent) else "retries"][stream] += 1


@dataclass(frozen=True, slots=True)
class Standing:
    """How the warehouse stands: a row of `sync_health` a stream, and when all was last well (Unix time, or None)."""

    streams: Sequence[Mapping[str, Any]]
    last_success: float | None


async def read_standing(connection: asyncpg.Connection, apps: Sequence[AppSettings]) -> Standing:
    """Ask the warehouse how it stands; what is read no more by these apps is left out, lest it alarm for ever."""
    last = await connection.fetchval(_SQL["last_success"])
    rows = [dict(row) for row in await connection.fetch(_SQL["streams"]) if not is_retired(row, apps)]
    return Standing(rows, last.timestamp() if last is not None else None)


def write_metrics(path: Path, end: Mapping[str, Any], tally: Tally, standing: Standing | None) -> None:
    """Replace the file.

    Args:
        path: of the file; another user may read it.
        end: how the sync ended: `mode`, `exit_code`, and of `SyncSummary.as_dict()` what there is.
        tally: what it did, by stream.
        standing: how the warehouse stands; None where it cannot be asked.

    Raises:
        OSError: the file cannot be written.
    """
    families = [*_of_the_sync(end), *(_carried(path) if standing is None else _of_the_streams(standing, tally))]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    write_whole(path, generate_latest(registry), mode=_READABLE)


class _Families:
    """A collector of families made before."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _of_the_sync(end: Mapping[str, Any]) -> Iterator[Metric]:
    mode = str(end["mode"])
    values = (
        ("end_timestamp_seconds", "When the last sync ended.", time.time()),
        ("exit_code", "Exit code of the last sync; 0 is all done.", end["exit_code"]),
        ("duration_seconds", "How long the last sync took.", end.get("seconds", 0.0)),
        ("requests", "Requests that the last sync sent, retries among them.", end.get("requests", 0)),
        ("retries", "Requests that the last sync sent again.", end.get("retries", 0)),
        ("pages", "Pages that the last sync read.", end.get("pages", 0)),
        ("rejects", "Runs in the listing that could not be loaded.", end.get("rejects", 0)),
    )
    for name, text, value in values:
        family = GaugeMetricFamily(f"cortex_etl_sync_{name}", text, labels=("mode",))
        family.add_metric((mode,), float(value))
        yield family
    runs = GaugeMetricFamily("cortex_etl_sync_runs", "Runs of the last sync.", labels=("mode", "change"))
    for change in ("inserted", "updated", "unchanged", "gone"):
        runs.add_metric((mode, change), float(end.get(f"runs_{change}", 0)))
    yield runs
    build = GaugeMetricFamily("cortex_etl_build_info", "The program.", labels=("version",))
    build.add_metric((__version__,), 1.0)
    yield build


def _of_the_streams(standing: Standing, tally: Tally) -> Iterator[Metric]:
    success = GaugeMetricFamily(_LAST_SUCCESS, "When a sync last ended with all its streams complete.")
    if standing.last_success is not None:
        success.add_metric((), standing.last_success)
    yield success
    labels = ("app_id", "workflow_id")
    for name, column, text in _OF_STREAMS:
        family = GaugeMetricFamily(_STREAM + name, text, labels=labels)
        for row in standing.streams:
            value = row[column]
            if value is not None:
                number = value.timestamp() if hasattr(value, "timestamp") else float(value)
                family.add_metric((row["app_id"], row["workflow_id"]), number)
        yield family
    for name, text in _OF_LAST_SYNC:
        family = GaugeMetricFamily(f"{_STREAM}sync_{name}", text, labels=labels)
        for row in standing.streams:
            stream = events.StreamId(row["app_id"], row["workflow_id"])
            family.add_metric(tuple(stream), float(tally.counts[name][stream]))
        yield family


def _carried(path: Path) -> list[Metric]:
    """What the file says of the streams; nothing where there is no such file."""
    if not path.is_file():
        return []
    try:
        families = list(text_string_to_metric_families(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []
    return [each for each in families if each.name.startswith(_STREAM) or each.name == _LAST_SUCCESS]
