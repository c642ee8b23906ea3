"""`cortex-etl doctor`: check everything that a sync needs, with a hint for each problem."""

from __future__ import annotations

from contextlib import aclosing
from importlib.util import find_spec
from typing import TYPE_CHECKING

from etl.doctor.checks import Check, failed, ok, warning
from etl.doctor.database import Opened, examine_database, open_database
from etl.doctor.secret_files import examine_secret_files
from etl.doctor.source import examine_source
from etl.errors import SettingsError, install_extra
from etl.events import ignore
from etl.normalize.redaction import redactor_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from etl.config import Settings
    from etl.events import Listener

__all__ = ["Check", "examine"]


async def examine(settings: Settings, listener: Listener = ignore) -> AsyncGenerator[Check]:
    """Yield each check as soon as its result is known.

    Args:
        settings: the settings of a sync.
        listener: receives events about requests.
    """
    yield _settings(settings)
    for check in examine_secret_files(settings):
        yield check
    if settings.telemetry:
        yield _traces()
    opened = await open_database(settings)
    url = opened.url if isinstance(opened, Opened) else None
    try:
        for checks in (examine_source(settings, listener, url), examine_database(settings, opened)):
            async with aclosing(checks):
                async for check in checks:
                    yield check
    finally:
        if isinstance(opened, Opened):
            await opened.connection.close()


def _settings(settings: Settings) -> Check:
    try:
        redactor_of(settings.payloads)
    except SettingsError as error:
        return failed("settings", error.message, error.hint, error.exit_code)
    return ok("settings", str(settings.file or "environment variables, without a file"))


def _traces() -> Check:
    """Check whether spans can be sent, if OpenTelemetry's variables request it."""
    try:
        is_installed = find_spec("opentelemetry.exporter.otlp.proto.http") and find_spec("opentelemetry.sdk.trace")
    except ModuleNotFoundError:
        is_installed = None
    if is_installed:
        return ok("traces", "spans are sent to the collector in OTEL_EXPORTER_OTLP_ENDPOINT")
    return warning("traces", "OpenTelemetry is not installed, so no span is sent", install_extra("otel"))
