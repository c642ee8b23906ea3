"""Logs on stderr by structlog: one line an event, named `noun.verb_past`, with its fields.

Lines are for people on a terminal and JSON elsewhere. Levels: `debug` shows each request and page, `info` each stream
and the canonical last line with every count, `warning` what someone should look at.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

import structlog

from etl import events

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from etl.observe.secrets import Mask

Format = Literal["console", "json"]

_NAMES: dict[type[events.Event], tuple[str, str]] = {
    events.SyncStarted: ("sync.started", "info"),
    events.StreamStarted: ("stream.started", "debug"),
    events.RequestSent: ("request.sent", "debug"),
    events.RequestRetried: ("request.retried", "warning"),
    events.RateLimited: ("requests.paused", "warning"),
    events.PageRead: ("page.read", "debug"),
    events.BatchLoaded: ("batch.loaded", "debug"),
    events.RunQuarantined: ("run.quarantined", "warning"),
    events.StreamFinished: ("stream.finished", "info"),
    events.SyncFinished: ("sync.finished", "info"),
}
_LEVEL_OF_OUTCOME = {"failed": "error", "partial": "warning", "interrupted": "warning"}


def configure(form: Format, level: str, mask: Mask) -> None:
    """Set up structlog for this process.

    Args:
        form: `console` or `json`.
        level: the least level shown: debug, info, warning, error.
        mask: takes secrets out of every line.
    """

    def hide(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        hidden: dict[str, Any] = mask(line)
        return hidden

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            hide,
            _console_renderer() if form == "console" else structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=_stderr_logger,
        cache_logger_on_first_use=False,
    )


def _console_renderer() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=18, sort_keys=False)


def _stderr_logger(*_: object) -> structlog.PrintLogger:
    """Look stderr up anew for each logger: a progress bar replaces it while it is shown."""
    return structlog.PrintLogger(sys.stderr)


def log_event(event: events.Event) -> None:
    """Write one event as one line; a listener."""
    logger = structlog.get_logger()
    if isinstance(event, events.Notice):
        getattr(logger, event.level)(event.name, **event.fields)
        return
    name, level = _NAMES[type(event)]
    values = _values(event)
    outcome = values.get("outcome") or values.get("status")
    if isinstance(event, events.StreamFinished | events.SyncFinished):
        level = _LEVEL_OF_OUTCOME.get(str(outcome), level)
    getattr(logger, level)(name, **values)


def _values(event: events.Event) -> dict[str, Any]:
    """The event's fields as a log line has them: streams as two ids, the summary flat and without its streams."""
    if isinstance(event, events.SyncFinished):
        return {name: value for name, value in event.summary.items() if name != "streams"}
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    stream = values.pop("stream", None)
    if stream is not None:
        values = {"app_id": stream.app_id, "workflow_id": stream.workflow_id} | values
    if isinstance(event, events.SyncStarted):
        values["streams"] = len(event.streams)
    return {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in values.items()
        if value not in (None, "")
    }
