"""Structured logs on stderr: one line per event, named `noun.verb_past`, with the event's fields.

Lines are text on a terminal and JSON otherwise. Level `debug` adds each request and page; `info` has each stream and a
final line with all counts; `warning` has problems that need attention. structlog is imported when the first line is
written, so that a sync without log lines starts faster.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from etl import events
from etl.text import colored, visible, visible_json

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    import structlog

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


@dataclass(frozen=True, slots=True)
class Logs:
    """A logger with a format and a minimum level.

    Attributes:
        form: `console` or `json`.
        level: the minimum level: debug, info, warning or error.
        mask: masks secrets in each line.
    """

    form: Format
    level: str
    mask: Mask

    def write(self, level: str, name: str, /, **values: Any) -> None:
        """Write one line if its level is enabled."""
        levels = logging.getLevelNamesMapping()
        if levels[level.upper()] >= levels[self.level.upper()]:
            getattr(self._logger(), level)(name, **values)

    def listen(self, event: events.Event) -> None:
        """Write a line for an event."""
        if isinstance(event, events.Notice):
            self.write(event.level, event.name, **event.fields)
            return
        name, level = _NAMES[type(event)]
        if isinstance(event, events.StreamFinished):
            level = _LEVEL_OF_OUTCOME.get(event.outcome, level)
        elif isinstance(event, events.SyncFinished):
            level = _LEVEL_OF_OUTCOME.get(str(event.summary.get("status")), level)
        self.write(level, name, **_values(event))

    def _logger(self) -> structlog.typing.FilteringBoundLogger:
        import structlog  # noqa: PLC0415 -- see the module docstring

        def hide(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
            hidden: dict[str, Any] = self.mask(line)
            return hidden

        def escape(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
            return {
                name: visible(str(each)) if isinstance(each, str | datetime) else each
                for name, each in line.items()
                if each is not None
            }

        def escape_json(_logger: object, _method: str, line: Any) -> str:
            return visible_json(line)

        renderers: list[structlog.typing.Processor] = [
            structlog.processors.JSONRenderer(ensure_ascii=False, default=lambda value: self.mask(str(value))),
            escape_json,
        ]
        if self.form == "console":
            console = structlog.dev.ConsoleRenderer(colors=colored(sys.stderr), pad_event_to=18, sort_keys=False)
            renderers = [escape, console]
        logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
            # Not cached: sys.stderr is replaced while a progress bar is shown.
            structlog.PrintLogger(sys.stderr),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                hide,
                *renderers,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        )
        return logger


class _ForwardingHandler(logging.Handler):
    """Writes messages of libraries and of Python itself as log lines."""

    def __init__(self, logs: Logs) -> None:
        super().__init__(logging.WARNING)
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        values = {"logger": record.name, "text": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            values["error"] = "".join(traceback.format_exception_only(record.exc_info[1])).strip()
            if self._logs.level == "debug":
                values["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        level = "error" if record.levelno >= logging.ERROR else "warning"
        self._logs.write(level, "message.logged", **values)


def take_over_stderr(logs: Logs) -> None:
    """Write messages of libraries, warnings and uncaught exceptions as log lines."""
    logging.basicConfig(handlers=[_ForwardingHandler(logs)], force=True)
    logging.captureWarnings(capture=True)
    logger = logging.getLogger("python")
    sys.excepthook = lambda _kind, error, _trace: logger.error("uncaught", exc_info=error)
    sys.unraisablehook = lambda found: logger.error("ignored in %r", found.object, exc_info=found.exc_value)
    threading.excepthook = lambda found: logger.error("uncaught in a thread", exc_info=found.exc_value)


def _values(event: events.Event) -> dict[str, Any]:
    """Return the fields of a log line, with a stream as two ids, and a summary without its streams."""
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
