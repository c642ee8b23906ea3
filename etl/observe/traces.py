"""OpenTelemetry traces (extra `otel`): one span per sync, stream, request and loaded batch.

They are configured by OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and others). A thread sends the
spans. A slow or unreachable collector delays the end of a sync by `FLUSH_TIMEOUT_S` at most.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

from etl import __version__, events

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

FLUSH_TIMEOUT_S = 3.0
"""How long the end of a sync waits for the collector, in seconds."""

_PREFIX = "cortex_etl."
_UNSUCCESSFUL = ("failed", "partial")


class Traces:
    """The trace of one sync; `listen` is the listener.

    Args:
        mode: sync, backfill or reconcile.
        variables: the OTEL_ variables from the settings.
        mask: masks secrets in texts.
        listener: receives a notice if spans cannot be sent.
        exporter: sends the spans; None for the exporter that the variables configure.

    Raises:
        ValueError: a variable is invalid.
    """

    def __init__(
        self,
        mode: str,
        variables: Mapping[str, str],
        mask: Callable[[Any], Any],
        listener: events.Listener,
        exporter: SpanExporter | None = None,
    ) -> None:
        protocol = variables.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or variables.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        if protocol not in (None, "", "http/protobuf"):
            raise ValueError(f"unsupported protocol {protocol}; use http/protobuf (usually port 4318)")
        os.environ.update(variables)  # OpenTelemetry reads only the environment; some variables may come from `.env`
        self._mask = mask
        self._listener = listener
        self._warnings = _WarningCapture()
        named = "OTEL_SERVICE_NAME" in variables or "service.name=" in variables.get("OTEL_RESOURCE_ATTRIBUTES", "")
        resource = {"service.version": __version__} | ({} if named else {"service.name": "cortex-etl"})
        self._provider = TracerProvider(resource=Resource.create(resource), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter(session=_Session())))
        self._tracer = self._provider.get_tracer("cortex-etl", __version__)
        self._sync = self._tracer.start_span(f"cortex-etl {mode}", attributes={f"{_PREFIX}mode": mode})
        self._sync_context: Context = set_span_in_context(self._sync)
        self._streams: dict[events.StreamId, Span] = {}

    def listen(self, event: events.Event) -> None:
        """Convert an event to a span, or to attributes or events of a span."""
        match event:
            case events.SyncStarted():
                self._set(self._sync, sync_id=event.sync_id, streams=len(event.streams), dry_run=event.dry_run)
            case events.StreamStarted():
                self._stream(event.stream)
                self._set(self._stream(event.stream), api_count=event.count)
            case events.RequestSent():
                self._request(event)
            case events.BatchLoaded():
                counts = {name: getattr(event, name) for name in ("inserted", "updated", "unchanged", "gone", "rows")}
                self._completed_span("load batch", event.stream, event.seconds, counts)
            case events.RequestRetried():
                note = {"attempt": event.attempt, "reason": event.reason, "wait_s": event.wait_s}
                self._note(self._span_of(event.path), "request.retried", note)
            case events.RateLimited():
                self._note(self._sync, "requests.paused", {"wait_s": event.wait_s})
            case events.RunQuarantined():
                note = {"run_id": event.run_id or "", "reason": event.reason}
                self._note(self._stream(event.stream), "run.quarantined", note)
            case events.StreamFinished():
                self._finish(event)
            case events.SyncFinished():
                self._summarize(event.summary)

    def close(self) -> None:
        """End all spans and send them; give up after `FLUSH_TIMEOUT_S`."""
        for span in (*self._streams.values(), self._sync):
            span.end()
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(FLUSH_TIMEOUT_S)
        reason = self._warnings.first
        if sending.is_alive():
            reason = reason or f"no response from the collector within {FLUSH_TIMEOUT_S:g} s"
        self._warnings.close()
        if reason:
            self._listener(events.Notice("traces.failed", {"error": reason}, level="warning"))

    def _stream(self, stream: events.StreamId) -> Span:
        if stream not in self._streams:
            names = {f"{_PREFIX}app_id": stream.app_id, f"{_PREFIX}workflow_id": stream.workflow_id}
            self._streams[stream] = self._tracer.start_span("stream", self._sync_context, attributes=self._mask(names))
        return self._streams[stream]

    def _span_of(self, path: str) -> Span:
        """Return the parent span of a request: the span of its stream if it has started, else that of the sync."""
        stream = events.stream_of(path)
        return self._streams.get(stream, self._sync) if stream is not None else self._sync

    def _request(self, event: events.RequestSent) -> None:
        now = time.time_ns()
        span = self._tracer.start_span(
            "GET",
            set_span_in_context(self._span_of(event.path)),
            kind=SpanKind.CLIENT,
            start_time=now - int(event.seconds * 1e9),
            attributes={"http.request.method": "GET", "url.path": self._mask(event.path)},
        )
        if event.status is not None:
            span.set_attributes({"http.response.status_code": event.status, "http.response.body.size": event.size})
        if event.status is None or event.status >= 400:
            span.set_status(StatusCode.ERROR)
        span.end(now)

    def _completed_span(self, name: str, stream: events.StreamId, seconds: float, values: Mapping[str, int]) -> None:
        """Record a span that ends now."""
        now = time.time_ns()
        parent = set_span_in_context(self._stream(stream))
        span = self._tracer.start_span(name, parent, start_time=now - int(seconds * 1e9))
        self._set(span, **values)
        span.end(now)

    def _finish(self, event: events.StreamFinished) -> None:
        span = self._stream(event.stream)
        self._set(span, outcome=event.outcome, api_count=event.api_count, warehouse_count=event.warehouse_count)
        if event.outcome in _UNSUCCESSFUL:
            span.set_status(StatusCode.ERROR, self._mask(event.error))
        span.end()

    def _summarize(self, summary: Mapping[str, object]) -> None:
        plain = {name: value for name, value in summary.items() if isinstance(value, int | float | str)}
        self._set(self._sync, **{name: value for name, value in plain.items() if value != ""})
        if summary.get("status") in _UNSUCCESSFUL:
            self._sync.set_status(StatusCode.ERROR, self._mask(str(summary.get("error"))))

    def _set(self, span: Span, **values: Any) -> None:
        span.set_attributes(
            {f"{_PREFIX}{name}": self._mask(value) for name, value in values.items() if value is not None}
        )

    def _note(self, span: Span, name: str, values: Mapping[str, Any]) -> None:
        span.add_event(name, self._mask(values))


class _Session(requests.Session):
    """A session that follows no redirects, which would send the headers with their secrets to another host."""

    def get_redirect_target(self, resp: object) -> None:
        """Return None: do not follow a redirect."""


class _WarningCapture(logging.Handler):
    """Captures OpenTelemetry's warnings instead of writing them to stderr; keeps the first one for the log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first = ""
        self._logger = logging.getLogger("opentelemetry")
        self._logger.addHandler(self)
        self._logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first line of the first warning."""
        self.first = self.first or record.getMessage().splitlines()[0][:200]


def secrets_in(variables: Mapping[str, str]) -> list[str]:
    """Return the secrets in OpenTelemetry's variables: the values of headers for the collector."""
    headers = [value for name, value in variables.items() if name.endswith("HEADERS")]
    values = [pair.partition("=")[2].strip() for text in headers for pair in text.split(",")]
    return [form for value in values for form in (value, unquote(value), *unquote(value).split()[-1:])]
