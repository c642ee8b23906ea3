"""PostgreSQL for the tests: one server per test run, one database per test, created from a migrated template.

`CORTEX_TEST_PG` (a URL) selects an existing server; `CORTEX_TEST_PG_BIN` (a directory with initdb and pg_ctl) selects
the PostgreSQL to start; by default, the embedded one is started.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from etl.db import embedded
from etl.db.connect import connect, embedded_url
from etl.db.load import hold_owners
from etl.db.migrate import migrate, migrations

RUN_DIR = "CORTEX_TEST_RUN_DIR"  # set by the controlling process, inherited by the xdist workers
SCHEMA = "cortex"
FAST = ("fsync = off", "full_page_writes = off", "wal_level = minimal", "max_wal_senders = 0", "autovacuum = off")
MIN_FREE_BYTES = 4 << 30

T = TypeVar("T")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        directory = tempfile.mkdtemp(
            prefix="cx-", dir=_fastest_directory()
        )  # short: the length of socket paths is limited
        Path(directory).chmod(0o755)
        os.environ[RUN_DIR] = directory


def _fastest_directory() -> str | None:
    """Return /dev/shm if it has enough space: copying a database takes ten times as long on disk."""
    memory = Path("/dev/shm")  # noqa: S108 - only used as the parent of a new private directory
    usable = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= MIN_FREE_BYTES
    return str(memory) if usable else None


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or RUN_DIR not in os.environ:
        return
    directory = Path(os.environ.pop(RUN_DIR))
    installed = _Installed(directory)
    if installed.data.exists():
        installed.run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(installed.data))
    embedded.stop(directory)
    shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True)
class _Installed:
    """A server in `directory`, started from an installed PostgreSQL."""

    directory: Path

    @property
    def data(self) -> Path:
        return self.directory / "installed"

    def start(self) -> str:
        with (self.directory / "installed.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self.data / "ready").exists():
                self.data.mkdir(mode=0o700)
                if account := self._account():
                    shutil.chown(self.data, account)
                self.run(
                    "initdb",
                    "-A",
                    "trust",
                    "-E",
                    "UTF8",
                    "--lc-collate=C",
                    "--lc-ctype=C.UTF-8",
                    "-N",
                    "-U",
                    "postgres",
                    "-D",
                    str(self.data),
                )
                self.run(
                    "pg_ctl", "start", "-w", "-D", str(self.data), "-l", str(self.data / "log"),
                    "-o", " ".join([f"-h '' -k {self.data}", *(f"-c {each.replace(' ', '')}" for each in FAST)]),
                )  # fmt: skip
                (self.data / "ready").touch()
        return embedded_url(str(self.data), "postgres", "postgres")

    def run(self, program: str, *arguments: str) -> None:
        path, account = str(Path(os.environ["CORTEX_TEST_PG_BIN"]) / program), self._account()
        subprocess.run(
            [path, *arguments], check=True, cwd=self.data, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            user=account, group=account and pwd.getpwnam(account).pw_gid,
        )  # fmt: skip

    @staticmethod
    def _account() -> str | None:
        return "postgres" if os.geteuid() == 0 else None


def in_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine from code that may be inside an event loop."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, coroutine).result()


def with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def _at(url: str, do: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
    connection = await asyncpg.connect(url)
    try:
        return await do(connection)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def pg_server() -> str:
    """The URL of a server on which databases can be created."""
    if url := os.environ.get("CORTEX_TEST_PG"):
        return url
    directory = Path(os.environ[RUN_DIR])
    if "CORTEX_TEST_PG_BIN" in os.environ:
        return _Installed(directory).start()
    with (directory / "fast.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "fast").exists():
            in_thread(_at(embedded.start(directory), trade_safety_for_speed))
            embedded.stop(directory)
            (directory / "fast").touch()
        return embedded.start(directory)


async def trade_safety_for_speed(connection: asyncpg.Connection) -> None:
    """Disable durability, so that databases are copied quickly; requires a restart."""
    for setting in FAST:
        await connection.execute(f"ALTER SYSTEM SET {setting}")


@pytest.fixture(scope="session")
def migrated_template(pg_server: str) -> str:
    """The name of a database with all migrations applied to the schema `cortex`."""
    stamp = sha256("".join(migration.checksum for migration in migrations()).encode()).hexdigest()[:12]
    name = f"cortex_template_{stamp}"

    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute("SELECT pg_advisory_lock(hashtext($1))", name)
        if await connection.fetchval("SELECT datistemplate FROM pg_database WHERE datname = $1", name):
            return
        await connection.execute(f"DROP DATABASE IF EXISTS {name}")  # left incomplete by a killed test run
        await connection.execute(f"CREATE DATABASE {name}")
        inside = await connect(with_database(pg_server, name), SCHEMA)
        await migrate(inside, SCHEMA)
        # Not just now: after that, requests that were not counted count as sent.
        await inside.execute("UPDATE etl_migrations SET applied_at = now() - interval '1 hour'")
        await inside.close()
        await connection.execute(f"ALTER DATABASE {name} IS_TEMPLATE true")

    in_thread(_at(pg_server, make))
    return name


class Databases:
    """Creates and drops databases over a persistent connection, because connecting takes as long as a copy.

    The connection has its own event loop and thread, because the loop of a test ends with the test.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever)
        self._thread.start()
        self._connection = self._wait_for(asyncpg.connect(server))

    def _wait_for(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def fresh(self, options: str = "") -> Iterator[str]:
        """Yield the URL of a new database, and drop it afterwards."""
        name = f"cortex_test_{uuid4().hex[:12]}"
        strategy = "STRATEGY file_copy" if self._connection.get_server_version().major >= 15 else ""
        self._wait_for(self._connection.execute(f"CREATE DATABASE {name} {options} {strategy}"))
        yield with_database(self._server, name)
        self._wait_for(self._connection.execute(f"DROP DATABASE {name} WITH (FORCE)"))

    def close(self) -> None:
        self._wait_for(self._connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="session")
def databases(pg_server: str) -> Iterator[Databases]:
    """Creates databases."""
    databases = Databases(pg_server)
    yield databases
    databases.close()


@pytest.fixture
def database_url(databases: Databases, migrated_template: str) -> Iterator[str]:
    """The URL of a new database with an empty warehouse in the schema `cortex`."""
    yield from databases.fresh(f"TEMPLATE {migrated_template}")


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    """The URL of a new, empty database."""
    yield from databases.fresh()


@pytest.fixture
async def warehouse(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the warehouse at `database_url`."""
    connection = await connect(database_url, SCHEMA)
    yield connection
    await connection.close()


@pytest.fixture
async def empty_database(empty_database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the database at `empty_database_url`, for the schema `cortex`."""
    connection = await connect(empty_database_url, SCHEMA)
    yield connection
    await connection.close()


async def add_owners(connection: asyncpg.Connection, *workflows: str | None, apps: Sequence[str] = ()) -> None:
    """Add the workflows and apps that runs refer to, as rows of nulls."""
    async with connection.transaction():
        await hold_owners(connection, apps, workflows)
