"""Run a sync with traces, metrics and alerts."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from etl.cli.invocation import Invocation, run_async
from etl.errors import (
    EXIT_DATABASE,
    EXIT_INCOMPLETE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    DatabaseError,
    InterruptedSyncError,
    SettingsError,
    install_extra,
)
from etl.events import Notice, StreamStarted, tee

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import asyncpg

    from etl.app import SyncSummary
    from etl.config import Settings
    from etl.errors import EtlError
    from etl.events import Event, Listener, RuleChange
    from etl.observe.metrics import StreamCounters
    from etl.observe.traces import Traces
    from etl.observe.webhooks import Caller, Pings
    from etl.sync.stream import Mode


def run_watched(call: Invocation, mode: Mode, options: dict[str, Any], metrics_file: Path | None) -> SyncSummary:
    """Run a sync, backfill or reconcile, with traces, metrics and alerts; see `run_sync`.

    Args:
        call: the invocation.
        mode: which.
        options: passed on to `run_sync`.
        metrics_file: where metrics go; None takes that of the settings.
    """
    try:
        return _run_watched(call, mode, options, metrics_file)
    except SettingsError as error:
        ended: EtlError = error
    except KeyboardInterrupt:  # before or after the sync, which reports interruptions in its summary
        ended = InterruptedSyncError()
    return summary_of_error(mode, ended, dry_run=options["dry_run"])


def summary_of_error(mode: str, error: EtlError, *, dry_run: bool = False) -> SyncSummary:
    """Return the summary of an invocation that an error ended before it could do anything."""
    from etl.app import SyncSummary

    summary = SyncSummary(mode, dry_run=dry_run)
    summary.end_with(error)
    return summary


def _run_watched(call: Invocation, mode: Mode, options: dict[str, Any], metrics_file: Path | None) -> SyncSummary:
    settings = call.settings
    with call.listening(settings.api.requests_per_minute) as quiet, traced(call, settings, mode, quiet) as listener:
        watch = Watch(call, settings, metrics_file or settings.metrics.file, listener)
        return run_async(watch.run(mode, options))


@contextmanager
def traced(call: Invocation, settings: Settings, mode: Mode, listener: Listener) -> Iterator[Listener]:
    """Yield a listener that also records spans if OpenTelemetry variables are set. Errors do not fail the sync."""
    traces = _open_traces(call, settings, mode, listener)
    if traces is None:
        yield listener
        return
    try:
        yield tee(listener, traces.listen)
    finally:
        traces.close()


def _open_traces(call: Invocation, settings: Settings, mode: Mode, listener: Listener) -> Traces | None:
    variables = settings.telemetry
    if not variables:
        return None
    reason, hint = "", ""
    try:
        from etl.observe.traces import Traces, secrets_in

        for secret in secrets_in(variables):
            call.mask.add(secret)
        for name, value in variables.items():
            if name.endswith("ENDPOINT"):
                call.mask.add_password_of(value)
        return Traces(mode, variables, call.mask, listener)
    except ImportError:
        reason, hint = "OpenTelemetry is not installed", f"Run: {install_extra('otel')}"
    except Exception as error:  # noqa: BLE001 -- the sync runs without traces
        reason, hint = f"{type(error).__name__}: {error}", "Check the OTEL_ variables."
    listener(Notice("traces.failed", {"error": reason, "hint": hint}, level="warning"))
    return None


class Watch:
    """Runs one sync, then writes its metrics and sends its alerts."""

    def __init__(self, call: Invocation, settings: Settings, metrics_file: Path | None, listener: Listener) -> None:
        self._call = call
        self._settings = settings
        self._file = metrics_file
        self._listener = listener
        self._counters: StreamCounters | None = None
        self._pings: Pings | None = None

    async def run(self, mode: Mode, options: dict[str, Any]) -> SyncSummary:
        """Run the sync; see `run_sync`."""
        from etl.app import run_sync

        alerts = self._settings.alerts
        called = alerts.on_state_change is not None or alerts.ping_url is not None
        watched = self._file is not None or called or self._has_rules
        if not watched or options.get("dry_run"):
            return await run_sync(self._settings, mode, **options, listener=self._listener)
        summary = await run_sync(self._settings, mode, **options, listener=self._subscribe())
        await self._end(" ".join(sorted((*options["apps"], *options["workflows"]))), summary)
        return summary

    @property
    def _has_rules(self) -> bool:
        return bool(self._settings.alerts.enable or self._settings.alerts.rules)

    def _subscribe(self) -> Listener:
        """Return a listener that also feeds metrics and pings."""
        listeners = [self._listener]
        if self._file is not None:
            from etl.observe.metrics import StreamCounters

            self._counters = StreamCounters()
            listeners.append(self._counters.listen)
        if self._settings.alerts.ping_url is not None:
            from etl.observe.webhooks import Pings

            self._pings = Pings(self._settings.alerts.ping_url.get_secret_value(), self._caller())
            listeners.append(self._begin)
        return tee(*listeners)

    def _begin(self, event: Event) -> None:
        if self._pings is not None and isinstance(event, StreamStarted):
            self._pings.begin()

    def _caller(self) -> Caller:
        from etl.observe.webhooks import Caller

        return Caller(self._listener, self._call.mask, self._settings.network)

    async def _end(self, scope: str, summary: SyncSummary) -> None:
        """Write the metrics and send the alerts; a failure here does not fail the sync."""
        unavailable = summary.exit_code in {EXIT_INTERRUPTED, EXIT_DATABASE}
        connection = None if unavailable else await self._connection()
        try:
            if self._counters is not None and summary.status != "skipped":
                await self._write_metrics(summary.as_dict(), connection)
            await self._tell(scope, summary.as_dict(), connection)
            if self._has_rules and connection is not None and summary.exit_code in {EXIT_OK, EXIT_INCOMPLETE}:
                await self._check_rules(connection)
        except Exception as failure:  # noqa: BLE001 -- the exit code is that of the sync
            from etl.db.refusals import known_error

            error = known_error(failure)
            fields = {"error": f"not all metrics, alerts and pings of this sync could be made: {error.message}"}
            if isinstance(error, DatabaseError):
                fields["hint"] = error.hint
            self._listener(Notice("telemetry.failed", fields, level="error"))
        finally:
            if connection is not None:
                with suppress(Exception):
                    await connection.close(timeout=5)

    async def _connection(self) -> asyncpg.Connection | None:
        from etl.app.warehouse import database_url
        from etl.db.connect import connect

        try:
            url, database = await database_url(self._settings), self._settings.database
            connection = await connect(url, database.schema_name, timeout_s=database.timeout_s)
        except DatabaseError:
            return None
        if await connection.fetchval("SELECT to_regclass('etl_settings')") is not None:
            return connection
        await connection.close()
        return None

    async def _write_metrics(self, end: dict[str, Any], connection: asyncpg.Connection | None) -> None:
        from etl.observe.metrics import read_warehouse_health, write_metrics

        assert self._file is not None  # noqa: S101 -- there are counters only if there is a file
        assert self._counters is not None  # noqa: S101
        try:
            health = await read_warehouse_health(connection) if connection is not None else None
            write_metrics(self._file, end, self._counters, health)
        except OSError as error:
            fields = {"path": str(self._file), "error": error.strerror or str(error)}
            self._listener(Notice("metrics.failed", fields, level="warning"))

    async def _tell(self, scope: str, summary: dict[str, Any], connection: asyncpg.Connection | None) -> None:
        alerts = self._settings.alerts
        if alerts.on_state_change is None and self._pings is None:
            return
        from etl.observe.webhooks import StateAlerts, SyncEnd, count_late_streams

        late = await count_late_streams(connection) if connection is not None else 0
        end = SyncEnd(scope, summary, late)
        if self._pings is not None:
            await self._pings.finish(end)
        if alerts.on_state_change is not None:
            url = alerts.on_state_change.get_secret_value()
            marker = self._settings.data_dir / "alert-sent-without-warehouse"
            await StateAlerts(url, self._caller(), marker).send(end, connection)

    async def _check_rules(self, connection: asyncpg.Connection) -> None:
        from etl.app.alert_rules import check_rules
        from etl.observe.webhooks import rule_message

        hook = self._settings.alerts.on_state_change

        async def send(change: RuleChange) -> bool:
            if hook is None:
                return True  # already logged
            return await self._caller().send(hook.get_secret_value(), rule_message(change, self._call.mask))

        await check_rules(self._settings, connection, send, self._listener)
