"""Safe file operations in directories that other users may write to: atomic replacement and explicit modes.

Another user may replace a file or directory between two operations. Therefore files are opened relative to an open
directory, new files are created with O_EXCL, and symbolic links of other users are not followed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NEW = 0o666  # before the umask
_PRIVATE = 0o600
_LOCK_PAUSE_S = 0.05
_MAX_LINKS = 40  # as in Linux
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_STREAM = re.compile(r"/dev/(stdout|stderr|fd/\d+)|/proc/(self|\d+)/fd/\d+")


def write_atomically(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Replace the content of a file atomically: readers see either the old or the new content. See `replacing`."""
    with replacing(path, mode=mode) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, *, mode: int | None = None) -> Iterator[BinaryIO]:
    """Yield a file that replaces the one at `path` when the block ends without an error.

    Symbolic links are kept and followed, unless another user created them. Pipes, devices and paths such as /dev/stdout
    cannot be replaced; they are written to directly.

    Args:
        path: path of the file.
        mode: permissions; None for those of the existing file, or the default for a new file.

    Raises:
        OSError: the file cannot be written; an existing file is unchanged.
    """
    for _ in range(_MAX_LINKS):
        if _STREAM.fullmatch(os.path.abspath(path)):  # noqa: PTH100 -- unlike resolve, abspath follows no links
            with _opened_directly(path, None) as file:
                yield file
            return
        with _opened_folder(path) as folder:
            found = _status(path.name, folder)
            if found is not None and stat.S_ISLNK(found.st_mode):
                _refuse_foreign(found, folder, path)
                path = path.parent / os.readlink(path.name, dir_fd=folder)
                continue
            is_regular = found is None or stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
            if mode is None:
                mode = _default_mode() if found is None else stat.S_IMODE(found.st_mode)
            with _renamed(path, folder, mode) if is_regular else _opened_directly(path, folder) as file:
                yield file
            return
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


@contextmanager
def _renamed(path: Path, folder: int, mode: int) -> Iterator[BinaryIO]:
    """Yield a temporary file, and rename it to `path` at the end."""
    name = f".{path.name}.{secrets.token_hex(8)}"
    handle = os.open(name, _CREATE, _PRIVATE, dir_fd=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
        os.replace(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        raise


@contextmanager
def _opened_directly(path: Path, folder: int | None) -> Iterator[BinaryIO]:
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC  # ENXIO if a pipe has no reader
    handle = os.open(path, flags) if folder is None else os.open(path.name, flags | os.O_NOFOLLOW, dir_fd=folder)
    with os.fdopen(handle, "wb") as file:
        os.set_blocking(handle, True)
        yield file


def create_private(path: Path, content: str) -> None:
    """Create a file that only its owner can read, regardless of the umask.

    Raises:
        FileExistsError: the path exists.
    """
    with os.fdopen(os.open(path, _CREATE, _PRIVATE), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), _PRIVATE)
        file.write(content)


def make_private_folder(path: Path) -> list[Path]:
    """Create a directory and its parents so that only their owner can enter them; return the created ones."""
    missing = [each for each in (path, *path.parents) if not os.path.lexists(each)]
    mask = os.umask(0o077)
    try:
        path.mkdir(parents=True, exist_ok=True)
    finally:
        os.umask(mask)
    return missing[::-1]


@contextmanager
def locked(path: Path, *, wait_s: float = 0) -> Iterator[None]:
    """Hold a lock on a file, creating the file if it does not exist. The kernel releases the lock if the process dies.

    Raises:
        BlockingIOError: another process still held the lock after `wait_s` seconds.
    """
    handle = _open_plain(path, os.O_RDWR | os.O_CREAT)
    try:
        give_up = monotonic() + wait_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() >= give_up:
                    raise
                sleep(_LOCK_PAUSE_S)
        yield
    finally:
        os.close(handle)


def touch(path: Path) -> None:
    """Create an empty file if it does not exist."""
    os.close(_open_plain(path, os.O_WRONLY | os.O_CREAT))


def read_plain(path: Path, start: int = 0) -> str:
    """Return the text of a regular file from the byte `start` on, in a directory that another account may write to."""
    with os.fdopen(_open_plain(path, os.O_RDONLY), "rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")


def _open_plain(path: Path, flags: int) -> int:
    """Open a regular file, but no symbolic link, pipe or device.

    Raises:
        OSError: the path is not a regular file, or cannot be opened.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, _PRIVATE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a symbolic link", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return handle


def refuse_foreign_link(path: Path) -> None:
    """Refuse a path that is a symbolic link of another user.

    Raises:
        OSError: the path is such a link.
    """
    with suppress(FileNotFoundError), _opened_folder(path) as folder:
        found = _status(path.name, folder)
        if found is not None and stat.S_ISLNK(found.st_mode):
            _refuse_foreign(found, folder, path)


@contextmanager
def _opened_folder(path: Path) -> Iterator[int]:
    folder = os.open(path.parent, _FOLDER)
    try:
        yield folder
    finally:
        os.close(folder)


def _status(name: str, folder: int) -> os.stat_result | None:
    with suppress(FileNotFoundError):
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    return None


def _refuse_foreign(link: os.stat_result, folder: int, path: Path) -> None:
    """Refuse a symbolic link of an untrusted user.

    Root and the current user are trusted, and, except by root, the owner of the directory, as in Linux
    (`fs.protected_symlinks`).

    Raises:
        OSError: another user created the link.
    """
    me = os.geteuid()
    trusted = {0, me} if me == 0 else {0, me, os.fstat(folder).st_uid}
    if link.st_uid not in trusted:
        raise OSError(errno.ELOOP, "is a symbolic link of another user", str(path))


def _default_mode() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return _NEW & ~mask
