"""The embedded PostgreSQL: start, stop, recovery, and errors."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from etl.db import embedded
from etl.db.connect import connect
from etl.errors import DatabaseError


@pytest.fixture
def data_dir() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="ce-"))
    yield directory / "data"
    embedded.stop(directory / "data")
    shutil.rmtree(directory, ignore_errors=True)


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


async def one(url: str, sql: str) -> object:
    connection = await connect(url, "public")
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_server_starts_once_stays_and_stops(data_dir: Path) -> None:
    # The server keeps running after the process that started it has ended.
    program = f"from pathlib import Path; from etl.db import embedded; print(embedded.start(Path({str(data_dir)!r})))"
    starters = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    urls = {starter.communicate()[0].strip() for starter in starters}
    assert urls == {f"postgresql://postgres@/cortex?host={data_dir.resolve()}/postgres&port=5432"}
    url = urls.pop()
    pid = postmaster(data_dir)
    assert embedded.start(data_dir) == url
    assert postmaster(data_dir) == pid
    assert await one(url, "SHOW synchronous_commit") == "on"
    assert await one(url, "SHOW fsync") == "on"
    assert await one(url, "SELECT lower('É')") == "é"
    assert (data_dir / "postgres").stat().st_mode & 0o077 == 0  # others cannot access the socket
    assert embedded.stop(data_dir)
    assert not embedded.stop(data_dir)


async def test_server_recovers_from_a_kill(data_dir: Path) -> None:
    url = embedded.start(data_dir)
    await one(url, "CREATE TABLE kept AS SELECT 1 AS one")
    os.kill(pid := postmaster(data_dir), signal.SIGKILL)
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        time.sleep(0.01)
    assert embedded.start(data_dir) == url
    assert await one(url, "SELECT one FROM kept") == 1


async def test_long_path_moves_the_socket(data_dir: Path) -> None:
    long = data_dir / ("x" * 100)
    url = embedded.start(long)
    try:
        assert await one(url, "SHOW data_directory") == str(long.resolve() / "postgres")
        assert len(url) < 130
        socket_dir = Path(url.partition("host=")[2].removesuffix("&port=5432"))
        assert socket_dir.stat().st_mode & 0o077 == 0
        assert embedded.start(long) == url
    finally:
        embedded.stop(long)
    assert not socket_dir.exists()


async def test_killed_start_is_repeated(data_dir: Path) -> None:
    (data_dir / "postgres.building" / "base").mkdir(parents=True)
    assert await one(embedded.start(data_dir), "SELECT 1") == 1


@pytest.mark.parametrize(("below", "reason"), [("", "File exists"), ("folder", "Not a directory")])
def test_data_dir_where_there_is_a_file(data_dir: Path, below: str, reason: str) -> None:
    data_dir.write_text("a file in the way")
    with pytest.raises(DatabaseError, match=rf"cannot use .*/data.*: {reason}") as caught:
        embedded.start(data_dir / below)
    assert caught.value.hint == "Set data_dir to a directory, or set database.url: there is a file in the way."
    data_dir.unlink()


def test_broken_cluster_reports_the_server_log(data_dir: Path) -> None:
    embedded.start(data_dir)
    embedded.stop(data_dir)
    with (data_dir / "postgres" / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    with pytest.raises(DatabaseError, match=r"pg_ctl failed: .*no_such_setting") as caught:
        embedded.start(data_dir)
    assert caught.value.exit_code == 4


def test_stop_without_a_server(data_dir: Path) -> None:
    assert not embedded.stop(data_dir)
    assert not data_dir.exists()


async def test_server_listens_only_on_its_socket(data_dir: Path) -> None:
    url = embedded.start(data_dir)
    assert await one(url, "SHOW listen_addresses") == ""
    with pytest.raises((OSError, asyncpg.PostgresError)):
        await asyncpg.connect("postgresql://postgres@127.0.0.1:5432/cortex?sslmode=disable", timeout=2)


async def test_removed_data_dir_is_created_again(data_dir) -> None:
    embedded.start(data_dir)
    orphan = postmaster(data_dir)
    while (data_dir / "postgres").exists():  # the server may still be writing files into it
        shutil.rmtree(data_dir / "postgres", ignore_errors=True)
    assert await one(embedded.start(data_dir), "SELECT 1") == 1
    assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE


async def test_server_does_not_inherit_the_environment(data_dir, monkeypatch) -> None:
    secrets = {"CORTEX_API_KEY": "sk-never-there", "PGPORT": "6543", "PGDATA": "/nowhere", "PGUSER": "someone"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    url = embedded.start(data_dir)
    assert await one(url, "SHOW port") == "5432"
    assert await one(url, "SELECT current_user") == "postgres"
    assert embedded.start(data_dir) == url
    names = set(psutil.Process(postmaster(data_dir)).environ())
    assert "PATH" in names
    assert not names & {"CORTEX_API_KEY", "PGPORT", "PGUSER"}
    assert embedded.stop(data_dir)


async def test_moved_data_dir_is_found_again(data_dir) -> None:
    embedded.start(data_dir)
    pid = postmaster(data_dir)
    moved = data_dir.with_name("moved")
    data_dir.rename(moved)
    try:
        assert await one(embedded.start(moved), "SELECT 1") == 1
        assert postmaster(moved) == pid
    finally:
        assert embedded.stop(moved)


@pytest.mark.parametrize("name", ["a, b", "it's", "a b", "né"])
async def test_unusual_directory_names(data_dir, name) -> None:
    odd = data_dir / name
    url = embedded.start(odd)
    try:
        assert await one(url, "SHOW data_directory") == str(odd.resolve() / "postgres")
        socket_dir = Path(str(await one(url, "SHOW unix_socket_directories")).strip('"'))
        assert embedded.start(odd) == url
    finally:
        embedded.stop(odd)
    assert socket_dir.exists() == socket_dir.is_relative_to(
        data_dir.resolve()
    )  # a temporary directory is removed again


@pytest.mark.parametrize("name", ["$HOME", "`id`", 'a"b', "a\\b", "a\nb"])
def test_directory_name_with_shell_characters(data_dir, name) -> None:
    with pytest.raises(DatabaseError, match="data_dir") as caught:
        embedded.start(data_dir / name)
    assert "data_dir" in caught.value.hint
    assert not data_dir.exists()


def kill(data_dir: Path) -> int:
    """Kill the server, and wait until its other processes have ended too."""
    os.kill(pid := postmaster(data_dir), signal.SIGKILL)
    others = [
        each for each in psutil.process_iter(["cmdline"]) if str(data_dir) in " ".join(each.info["cmdline"] or [])
    ]
    psutil.wait_procs(others, timeout=10)
    return pid


async def test_server_starts_although_another_process_has_its_pid(data_dir) -> None:
    url = embedded.start(data_dir)
    await one(url, "CREATE TABLE kept AS SELECT 1 AS one")
    pid = kill(data_dir)
    owner = (data_dir / "postgres").stat()
    account = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    other = subprocess.Popen(["sleep", "60"], **account)
    try:
        for path in (data_dir / "postgres" / "postmaster.pid", data_dir / "postgres" / ".s.PGSQL.5432.lock"):
            if path.exists():
                path.write_text(path.read_text().replace(f"{pid}\n", f"{other.pid}\n", 1))
        assert await one(embedded.start(data_dir), "SELECT one FROM kept") == 1
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_start_does_not_wait_forever_for_another(data_dir, monkeypatch) -> None:
    monkeypatch.setattr(embedded, "_LOCK_TIMEOUT_S", 0.2)
    data_dir.mkdir()
    starting = pytest.raises(DatabaseError, match="another process has been starting or stopping")
    with embedded._one_at_a_time(data_dir), starting as caught:
        embedded.start(data_dir)
    assert "fuser" in caught.value.hint


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 100 MB, which only root can create."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100M", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("cannot mount a small disk")
    tmp_path.chmod(0o755)
    yield disk
    embedded.stop(disk / "data")
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path, *, but: int) -> None:
    (disk / "filler").write_bytes(b"0" * max(0, shutil.disk_usage(disk).free - but))


@pytest.mark.parametrize("moment", ["created", "started"])
def test_full_disk_is_named_when_the_server_is(small_disk, moment) -> None:
    data_dir = small_disk / "data"
    if moment == "started":
        embedded.start(data_dir)
        embedded.stop(data_dir)
    fill(small_disk, but=0 if moment == "started" else 10 << 20)
    with pytest.raises(DatabaseError, match=r"disk .* is full|No space left on device") as caught:
        embedded.start(data_dir)
    assert caught.value.hint.startswith("Free disk space")
    (small_disk / "filler").unlink()
    embedded.start(data_dir)


async def test_full_disk_is_named_by_commands(small_disk, command, sandbox) -> None:
    running = await sandbox()
    command.environment["CORTEX_API_KEY"] = running.key
    command.configure(
        f"api:\n  base_url: {running.url}\ndata_dir: {small_disk / 'data'}\napps: [{{id: {next(iter(running.world.apps))}}}]\n"
    )
    assert (await command("sync")).code == 0
    fill(small_disk, but=100_000)
    for arguments in (
        ("sql", "SELECT repeat('x', 100) || n FROM generate_series(1, 3000000) AS n ORDER BY 1 DESC LIMIT 1"),
        ("export", str(small_disk / "files")),
        ("report", "--output", str(small_disk / "report.html")),
    ):
        ended = await command(*arguments)
        assert ended.code == (4 if arguments[0] == "sql" else 1), (arguments, ended)
        assert "disk" in ended.err, (arguments, ended.err)
        assert "full" in ended.err or "No space left on device" in ended.err, (arguments, ended.err)
        assert "hint: Free disk space" in ended.err, (arguments, ended.err)


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


async def test_others_cannot_enter_the_data_dir(data_dir, umask) -> None:
    inner = data_dir / "demo"
    try:
        assert await one(embedded.start(inner), "SELECT 1") == 1
        for each in (data_dir, inner, inner / "postgres"):
            assert stat.S_IMODE(each.stat().st_mode) == 0o700, each
        assert stat.S_IMODE((inner / "postgres.lock").stat().st_mode) & 0o077 == 0
    finally:
        embedded.stop(inner)


async def test_settings_are_written_by_initdb(data_dir) -> None:
    url = embedded.start(data_dir)
    for name, value in embedded._TUNING.items():
        assert await one(url, f"SHOW {name}") == value


async def test_programs_of_the_system_are_used_where_the_package_has_no_wheel(data_dir, monkeypatch) -> None:
    of_package = embedded.programs_directory()
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    monkeypatch.setattr(embedded, "_SYSTEM", ())
    monkeypatch.setenv("PATH", f"{of_package}:{os.environ['PATH']}")
    assert embedded.programs_directory() == of_package.resolve()
    url = embedded.start(data_dir)
    assert await one(url, "SELECT 1") == 1


def test_programs_that_are_missing_or_too_old_are_not_used(data_dir, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    monkeypatch.setattr(embedded, "_SYSTEM", (str(tmp_path)[1:],))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, version in (("initdb", 16), ("pg_ctl", 16), ("postgres", 16)):
        (tmp_path / name).write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}.1'\n")
        (tmp_path / name).chmod(0o755)
        with pytest.raises(DatabaseError, match="not available on this platform") as refused:
            embedded.start(data_dir)
        assert "database.url" in refused.value.hint


@pytest.mark.parametrize("name", ["postgres.lock", "postgres.building"])
def test_links_in_the_data_dir_are_not_followed(data_dir, tmp_path, name) -> None:
    """Once, the target of a link was truncated as a lock file, and a directory changed its owner."""
    victim = tmp_path / "victim"
    if name == "postgres.building":
        victim.mkdir()
    else:
        victim.write_text("precious")
    owner = victim.stat().st_uid
    data_dir.mkdir()
    (data_dir / name).symlink_to(victim)
    with pytest.raises(DatabaseError, match="cannot use"):
        embedded.start(data_dir)
    assert victim.stat().st_uid == owner
    assert victim.is_dir() or victim.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another account")
@pytest.mark.parametrize("name", ["postgres.building", "postgres"])
def test_root_does_not_give_directories_of_other_users_to_the_server(data_dir, tmp_path, monkeypatch, name) -> None:
    """Another user replaces the new directory before its owner is changed."""
    victim = tmp_path / "victim"
    victim.mkdir()
    os.chown(victim, 12345, 12345)
    data_dir.mkdir(mode=0o777)
    if name == "postgres":
        (data_dir / name).symlink_to(victim)
        os.lchown(data_dir / name, 12345, 12345)
    else:
        monkeypatch.setattr(Path, "mkdir", lambda self, **_: victim.rename(self) if self.name == name else None)
    with pytest.raises(DatabaseError, match="another user"):
        embedded.start(data_dir)
    left = victim if name == "postgres" else data_dir / name
    assert left.stat().st_uid == 12345


def test_log_of_the_server_is_not_read_through_a_link(data_dir, tmp_path) -> None:
    embedded.start(data_dir)
    embedded.stop(data_dir)
    (tmp_path / "shadow").write_text("root:secret\n")
    cluster = data_dir / "postgres"
    (cluster / "server.log").unlink()
    (cluster / "server.log").symlink_to(tmp_path / "shadow")
    (cluster / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(DatabaseError) as failed:
        embedded.start(data_dir)
    assert "root:secret" not in failed.value.message
