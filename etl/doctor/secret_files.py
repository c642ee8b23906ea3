"""Check whether other users can read or change the files with secrets."""

from __future__ import annotations

import os
import shlex
import stat
from typing import TYPE_CHECKING

from etl.doctor.checks import Check, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from etl.config import Settings

_CHANGED_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


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
