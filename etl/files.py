"""Files that are written as a whole."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

_NEW = 0o666  # less what the umask takes, as of any new file


def write_whole(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write a file so that whoever reads it finds the old content or the new, never a part.

    A link is followed, and stays. A pipe, a device and what stands under /dev, as /dev/stdout, are written into: they
    cannot be replaced.

    Args:
        path: of the file.
        content: all of it.
        mode: who may read and write it; None leaves that as it is, or as it is for any new file.

    Raises:
        OSError: it cannot be written; where the file was, it is as it was.
    """
    found = None
    with suppress(FileNotFoundError):
        found = path.stat()
    if found is not None and (not stat.S_ISREG(found.st_mode) or path.absolute().is_relative_to("/dev")):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)  # ENXIO where nobody reads a pipe
        with os.fdopen(opened, "wb") as file:
            os.set_blocking(file.fileno(), True)
            file.write(content)
        return
    if mode is None:
        mode = _usual_mode() if found is None else stat.S_IMODE(found.st_mode)
    target = path.resolve()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _usual_mode() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return _NEW & ~mask
