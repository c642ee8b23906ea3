"""Prometheus metrics: a file for the node exporter's textfile collector, replaced atomically after each sync.

All metrics are gauges, because no process runs between syncs: the health of each stream and the result of the last
sync. They are listed in `docs/operations.md`. If the warehouse is unreachable, the file keeps the metrics of streams.
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
from etl.db.health import read_health
from etl.db.statements import statements
from etl.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import asyncpg

_SQL = statements("health")
_FILE_MODE = 0o644  # the exporter runs as another user
_STREAM = "cortex_etl_stream_"
_LAST_SUCCESS = "cortex_etl_last_success_timestamp_seconds"

_STREAM_HEALTH = (
    ("last_success_timestamp_seconds", "last_succeeded_at", "When a sync of the stream last succeeded."),
    ("last_sync_timestamp_seconds", "last_synced_at", "When a sync last read the stream to its end."),
    ("last_reconcile_timestamp_seconds", "last_reconciled_at", "When the whole stream was last compared with the API."),
    ("lag_seconds", "lag_s", "Seconds since a sync last read the stream to its end."),
    ("api_runs", "api_count", "Runs counted by the API."),
    ("warehouse_runs", "warehouse_count", "Runs in the warehouse that are not gone from the API."),
    ("quarantined_runs", "quarantined", "Runs in quarantine."),
    ("open_runs", "open_runs", "Runs that were pending or running when last read."),
    ("backfill_done", "backfill_done", "1 once the whole history has been read."),
    ("failing", "is_failing", "1 if the last sync of the stream failed or its counts differed."),
)
_STREAM_ACTIVITY = (
    ("rows", "Rows written by the last sync, over all tables."),
    ("runs", "Runs inserted or updated by the last sync."),
    ("rejects", "Runs quarantined by the last sync."),
    ("requests", "Requests sent by the last sync."),
    ("retries", "Requests retried by the last sync."),
)


@dataclass(slots=True)
class StreamCounters:
    """Counters of one sync by stream; `listen` is the listener."""

    counts: dict[str, Counter[events.StreamId]] = field(
        default_factory=lambda: {name: Counter() for name, _ in _STREAM_ACTIVITY}
    )

    def listen(self, event: events.Event) -> None:
        """Count an event."""
        match event:
            case events.BatchLoaded():
                self.counts["rows"][event.stream] += event.rows
                self.counts["runs"][event.stream] += event.inserted + event.updated
            case events.RunQuarantined():
                self.counts["rejects"][event.stream] += 1
            case events.RequestSent():
                stream = events.stream_of(event.path)
                if stream is not None:
                    self.counts["requests"][stream] += 1
                    self.counts["retries"][stream] += event.is_retry


@dataclass(frozen=True, slots=True)
class WarehouseHealth:
    """The rows of `sync_health`, and the Unix time of the last sync that succeeded (None if there is none)."""

    streams: Sequence[Mapping[str, Any]]
    last_success: float | None


async def read_warehouse_health(connection: asyncpg.Connection) -> WarehouseHealth:
    """Read the health of the streams, except retired ones, whose alerts would never end."""
    last = await connection.fetchval(_SQL["last_success"])
    rows = [row for row in await read_health(connection) if row["state"] != "retired"]
    for row in rows:
        row["is_failing"] = row["state"] in {"incomplete", "failing"}
    return WarehouseHealth(rows, last.timestamp() if last is not None else None)


def write_metrics(path: Path, end: Mapping[str, Any], counters: StreamCounters, health: WarehouseHealth | None) -> None:
    """Replace the metrics file.

    Args:
        path: path of the file, which all users may read.
        end: `SyncSummary.as_dict()`.
        counters: the counters of the sync.
        health: the health of the streams; None if the warehouse is unreachable.

    Raises:
        OSError: the file cannot be written.
    """
    families = [*_sync_metrics(end), *(_previous(path) if health is None else _stream_metrics(health, counters))]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    write_atomically(path, generate_latest(registry), mode=_FILE_MODE)


class _Families:
    """A collector that returns the given metric families."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _sync_metrics(end: Mapping[str, Any]) -> Iterator[Metric]:
    mode = str(end["mode"])
    values = (
        ("end_timestamp_seconds", "When the last sync ended.", time.time()),
        ("exit_code", "Exit code of the last sync; 0 means success.", end["exit_code"]),
        ("duration_seconds", "Duration of the last sync.", end["seconds"]),
        ("requests", "Requests sent by the last sync, including retries.", end["requests"]),
        ("retries", "Requests retried by the last sync.", end["retries"]),
        ("pages", "Pages read by the last sync.", end["pages"]),
        ("rejects", "Runs quarantined by the last sync.", end["rejects"]),
    )
    for name, text, value in values:
        family = GaugeMetricFamily(f"cortex_etl_sync_{name}", text, labels=("mode",))
        family.add_metric((mode,), float(value))
        yield family
    runs = GaugeMetricFamily("cortex_etl_sync_runs", "Runs of the last sync.", labels=("mode", "change"))
    for change in ("inserted", "updated", "unchanged", "gone"):
        runs.add_metric((mode, change), float(end[f"runs_{change}"]))
    yield runs
    build = GaugeMetricFamily("cortex_etl_build_info", "Version of cortex-etl.", labels=("version",))
    build.add_metric((__version__,), 1.0)
    yield build


def _stream_metrics(health: WarehouseHealth, counters: StreamCounters) -> Iterator[Metric]:
    success = GaugeMetricFamily(_LAST_SUCCESS, "When a sync last succeeded for all its streams.")
    if health.last_success is not None:
        success.add_metric((), health.last_success)
    yield success
    labels = ("app_id", "workflow_id")
    for name, column, text in _STREAM_HEALTH:
        family = GaugeMetricFamily(_STREAM + name, text, labels=labels)
        for row in health.streams:
            value = row[column]
            if value is not None:
                number = value.timestamp() if hasattr(value, "timestamp") else float(value)
                family.add_metric((row["app_id"], row["workflow_id"]), number)
        yield family
    states = GaugeMetricFamily(f"{_STREAM}state", "1 for the state of the stream.", labels=(*labels, "state"))
    for row in health.streams:
        states.add_metric((row["app_id"], row["workflow_id"], row["state"]), 1.0)
    yield states
    for name, text in _STREAM_ACTIVITY:
        family = GaugeMetricFamily(f"{_STREAM}sync_{name}", text, labels=labels)
        for row in health.streams:
            stream = events.StreamId(row["app_id"], row["workflow_id"])
            family.add_metric(tuple(stream), float(counters.counts[name][stream]))
        yield family


def _previous(path: Path) -> list[Metric]:
    """Return the metrics of streams in the existing file; empty if there is no valid file."""
    if not path.is_file():
        return []
    try:
        families = list(text_string_to_metric_families(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []
    return [each for each in families if each.name.startswith(_STREAM) or each.name == _LAST_SUCCESS]
