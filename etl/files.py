"""Atomic file writes."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEW = 0o666  # before the umask


def write_atomically(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write a file so that readers see either the old content or the new, never a part; see `replacing`."""
    with replacing(path, mode=mode) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, *, mode: int | None = None) -> Iterator[BinaryIO]:
    """Open a new file that replaces another at the end of the block, unless an exception ends it.

    Symbolic links are followed and kept. Pipes, devices and paths under /dev, such as /dev/stdout, cannot be replaced
    and are written to directly.

    Args:
        path: path of the file.
        mode: permissions; None keeps those of an existing file and uses the default for a new one.

    Raises:
        OSError: the file cannot be written; an existing one is unchanged.
    """
    found = None
    with suppress(FileNotFoundError):
        found = path.stat()
    if found is not None and (not stat.S_ISREG(found.st_mode) or path.absolute().is_relative_to("/dev")):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)  # ENXIO if a pipe has no reader
        with os.fdopen(opened, "wb") as file:
            os.set_blocking(file.fileno(), True)
            yield file
        return
    if mode is None:
        mode = _default_mode() if found is None else stat.S_IMODE(found.st_mode)
    target = path.resolve()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _default_mode() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return _NEW & ~mask
