"""`cortex-etl doctor`: check everything that a sync needs, with a hint for each problem.

The checks of this machine are here: settings, access to the files with secrets, tracing.
"""

from __future__ import annotations

import os
import shlex
import stat
from contextlib import aclosing
from importlib.util import find_spec
from typing import TYPE_CHECKING

from etl.doctor.checks import Check, failed, ok, warning
from etl.doctor.database import Opened, examine_database, open_database
from etl.doctor.source import examine_source
from etl.errors import SettingsError, install_extra
from etl.events import ignore
from etl.normalize.redaction import redactor_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from pathlib import Path

    from etl.config import Settings
    from etl.events import Listener

__all__ = ["Check", "examine"]

_CHANGED_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


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


def examine_secret_files(settings: Settings) -> Iterator[Check]:
    """Yield a warning for each file with secrets, and each of their directories, that is accessible to other users."""
    with_secrets = {path.absolute() for path in settings.secret_files()}
    others = {path.parent for path in with_secrets}
    if not _belongs_to_server(settings.data_dir):
        others.add(settings.data_dir.absolute())
    if settings.file is not None:
        others |= {settings.file.absolute(), settings.file.absolute().parent} - with_secrets
    checks = [_exposed(path, has_secret=path in with_secrets) for path in sorted(with_secrets | others)]
    found = [check for check in checks if check is not None]
    yield from found
    if not found:
        yield ok("files", "nobody else can read the secrets or change the settings")


def _belongs_to_server(folder: Path) -> bool:
    """Return whether a command run by root gave the folder to the account of the embedded PostgreSQL."""
    try:
        return os.geteuid() == 0 and folder.stat().st_uid == (folder / "postgres").stat().st_uid
    except OSError:
        return False


def _exposed(path: Path, *, has_secret: bool) -> Check | None:
    try:
        status = path.stat()
    except OSError:
        return None  # other checks report a missing file
    quoted = shlex.quote(str(path))
    if status.st_uid not in {0, os.geteuid()}:
        return warning(
            "files", f"{path} belongs to another user, who can change it", f"Run: chown {os.geteuid()} {quoted}"
        )
    if status.st_mode & _CHANGED_BY_OTHERS and not status.st_mode & stat.S_ISVTX:
        return warning("files", f"others can change {path}", f"Run: chmod go-w {quoted}")
    if has_secret and status.st_mode & stat.S_IROTH:
        return warning("files", f"others can read {path}, which contains a secret", f"Run: chmod 600 {quoted}")
    return None


def _traces() -> Check:
    """Check whether spans can be sent, if OpenTelemetry's variables request it."""
    try:
        is_installed = find_spec("opentelemetry.exporter.otlp.proto.http") and find_spec("opentelemetry.sdk.trace")
    except ModuleNotFoundError:
        is_installed = None
    if is_installed:
        return ok("traces", "spans are sent to the collector in OTEL_EXPORTER_OTLP_ENDPOINT")
    return warning("traces", "OpenTelemetry is not installed, so no span is sent", install_extra("otel"))
