"""`cortex-etl doctor`: looks at everything that a sync needs, and says for each what to do where it lacks."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from etl.doctor.checks import Check, failed, ok, warning
from etl.doctor.source import examine_source
from etl.doctor.warehouse import examine_warehouse
from etl.errors import SettingsError
from etl.normalize import redactor_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from etl.config import Settings

__all__ = ["Check", "examine"]


async def examine(settings: Settings, settings_file: str) -> AsyncIterator[Check]:
    """Yield one finding after the other, as soon as each is known.

    Args:
        settings: what the sync would use.
        settings_file: where they came from, for the first line.
    """
    yield _settings(settings, settings_file)
    if settings.telemetry:
        yield _traces()
    async for check in examine_source(settings):
        yield check
    async for check in examine_warehouse(settings):
        yield check


def _settings(settings: Settings, settings_file: str) -> Check:
    try:
        redactor_of(settings.payloads)
    except SettingsError as error:
        return failed("settings", error.message, error.hint, error.exit_code)
    return ok("settings", settings_file)


def _traces() -> Check:
    """Whether the spans that OpenTelemetry's variables ask for can be sent."""
    try:
        there = find_spec("opentelemetry.exporter.otlp.proto.http") and find_spec("opentelemetry.sdk.trace")
    except ModuleNotFoundError:
        there = None
    if there:
        return ok("traces", "spans go to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names")
    return warning("traces", "OpenTelemetry is not installed, so no span is sent", 'pip install "cortex-etl[otel]"')
