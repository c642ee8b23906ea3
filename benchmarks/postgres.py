"""A temporary PostgreSQL server with default settings."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
import tempfile
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import asyncpg

from etl.db.connect import connect, embedded_url
from etl.db.embedded import programs_directory
from etl.db.migrate import migrate
from etl.db.rollups import roll_up
from etl.tables import CHILD_RUNS, RUN_CHILDREN, RUNS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

PROGRAMS = "CORTEX_BENCH_PG_BIN"
"""Environment variable: directory of initdb and pg_ctl; by default those of the embedded PostgreSQL."""

SCHEMA = "cortex"


def programs() -> Path:
    """Return the directory of initdb and pg_ctl."""
    if PROGRAMS in os.environ:
        return Path(os.environ[PROGRAMS])
    return programs_directory()


@contextmanager
def scratch_cluster() -> Iterator[Cluster]:
    """Run a server in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="cxb-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        with Cluster(directory) as cluster:
            yield cluster


class Cluster:
    """A server that runs while the context is active.

    Args:
        directory: an empty directory with a short path, because the length of a socket's path is limited.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "pg"
        self.account = pwd.getpwnam("postgres" if _known("postgres") else "nobody") if os.geteuid() == 0 else None

    def __enter__(self) -> Self:
        self.directory.mkdir(mode=0o700)
        if self.account:
            os.chown(self.directory, self.account.pw_uid, self.account.pw_gid)
        self._run("initdb", "-A", "trust", "-E", "UTF8", "--no-locale", "-U", "postgres", "-D", str(self.directory))
        options = f"-h '' -k {self.directory} {os.environ.get('CORTEX_BENCH_PG_OPTIONS', '')}"
        log = str(self.directory / "log")
        self._run("pg_ctl", "start", "-w", "-D", str(self.directory), "-l", log, "-o", options)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self.directory))

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(programs() / program), *arguments],
            check=True,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            user=self.account.pw_uid if self.account else None,
            group=self.account.pw_gid if self.account else None,
        )

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database."""
        return embedded_url(str(self.directory), "postgres", database)

    def fresh(self, database: str, *, migrated: bool = True) -> str:
        """Create a database, migrated or empty; run a checkpoint; return the database's URL."""
        self.ask(f'CREATE DATABASE "{database}"')
        if migrated:
            asyncio.run(_migrate(self.url(database)))
        self.ask("CHECKPOINT")
        return self.url(database)

    def loader(self, url: str) -> str:
        """Let a role only read and write the tables of a warehouse; return its URL."""
        if not self.ask("SELECT count(*) FROM pg_roles WHERE rolname = 'loader'"):
            self.ask("CREATE ROLE loader LOGIN")
        for privilege in ("USAGE ON SCHEMA", "ALL ON ALL TABLES IN SCHEMA", "ALL ON ALL SEQUENCES IN SCHEMA"):
            self.ask(f"GRANT {privilege} {SCHEMA} TO loader", database_of(url))
        return url.replace("postgres@", "loader@", 1)

    def drop(self, url: str) -> None:
        """Drop a database, so that autovacuum does not slow down later measurements."""
        self.ask(f'DROP DATABASE "{database_of(url)}" WITH (FORCE)')

    def ask(self, sql: str, database: str = "postgres") -> object:
        """Run a statement and return its first value."""
        return asyncio.run(_ask(self.url(database), sql))

    def multiply(self, database: str, app: str, name: str, days: int) -> None:
        """Copy an app's runs and their child rows, with other ids and `days` days earlier."""
        asyncio.run(_multiply(self.url(database), app, name, days))

    def count_days(self, database: str) -> None:
        """Roll up all changed days, as the syncs of a few hours would."""
        asyncio.run(_count_days(self.url(database)))

    def version(self) -> str:
        """Return the server's version."""
        return str(self.ask("SHOW server_version")).split()[0]

    def written(self) -> int:
        """Return the bytes of WAL written since initdb."""
        return int(str(self.ask("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")))

    def cpu_s(self) -> float:
        """Return the CPU seconds used by the server's processes, including those that have ended."""
        return cpu_s(self.directory)


def cpu_s(directory: Path) -> float:
    """Return the CPU seconds used by the processes of the server of a data directory on this machine."""
    postmaster = int((directory / "postmaster.pid").read_text().split()[0])
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat.parent.name) == postmaster:
            ticks += sum(map(int, fields[11:15]))
        elif int(fields[1]) == postmaster:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def database_of(url: str) -> str:
    """Return the database name of a URL."""
    return urlsplit(url).path[1:]


def _known(account: str) -> bool:
    try:
        pwd.getpwnam(account)
    except KeyError:
        return False
    return True


async def _migrate(url: str) -> None:
    connection = await connect(url, SCHEMA)
    await migrate(connection, SCHEMA)
    await connection.close()


async def _ask(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url, server_settings={"search_path": SCHEMA})
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def _multiply(url: str, app: str, name: str, days: int) -> None:
    connection = await connect(url, SCHEMA)
    await connection.execute("SET session_replication_role = replica")  # the rows are valid: skip the checks
    for table in (RUNS, *RUN_CHILDREN):
        key = table.key[0]
        values = {f'"{column}"': f'"{column}"' for column in table.names}
        values[f'"{key}"'] = f"'{name}-' || {key}"
        if table is RUNS:
            values['"stream_app_id"'] = f"'{name}'"
            values['"created_at"'] = f"created_at - interval '{days} days'"
        if table is CHILD_RUNS:
            values['"run_id"'] = f"'{name}-' || run_id"
        await connection.execute(
            f"INSERT INTO {table.name} ({', '.join(values)}) SELECT {', '.join(values.values())} "
            f"FROM {table.name} WHERE {key} LIKE '{app}-%'"
        )
    await connection.close()


async def _count_days(url: str) -> None:
    connection = await connect(url, SCHEMA)
    await roll_up(connection, seconds=inf)
    await connection.close()
