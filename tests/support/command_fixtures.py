"""The command as users run it: a process of its own, in a folder of its own, with nothing of ours in its environment."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from etl.db import embedded

SERVER = Path(__file__).with_name("command_server.py")
SCRUBBED = ("CORTEX_", "DATABASE_URL", "PG", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "COVERAGE")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Running:
    """A command that a `WarmStarts` has started, with its output in files of `folder`."""

    def __init__(self, folder: tempfile.TemporaryDirectory[str]) -> None:
        self.folder = folder
        self.pid: Future[int] = Future()
        self.code: Future[int] = Future()

    def path(self, stream: str) -> Path:
        return Path(self.folder.name) / stream

    async def end(self) -> Ended:
        """Wait for the end and read what it said."""
        code = await asyncio.wrap_future(self.code)
        said = Ended(code, self.path("stdout").read_text(), self.path("stderr").read_text())
        self.folder.cleanup()
        return said


class WarmStarts:
    """Commands started by a `command_server.py`, which begins with the first of them."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._listener: Thread | None = None
        self._running: dict[int, Running] = {}
        self._places = count()

    def start(self, *arguments: str, folder: Path, environment: dict[str, str], stdin: str = "") -> Running:
        """Start a command in a folder, with this environment and nothing else in it."""
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            self._listener = Thread(target=self._listen, args=(self._server,))
            self._listener.start()
        place, running = next(self._places), Running(tempfile.TemporaryDirectory())
        self._running[place] = running
        running.path("stdin").write_text(stdin)
        request = {"place": place, "arguments": arguments, "folder": str(folder), "environment": environment}
        request |= {each: str(running.path(each)) for each in ("stdin", "stdout", "stderr")}
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        return running

    def _listen(self, server: subprocess.Popen[bytes]) -> None:
        assert server.stdout is not None
        for line in server.stdout:
            told = json.loads(line)
            if "pid" in told:
                self._running[told["place"]].pid.set_result(told["pid"])
            else:
                self._running.pop(told["place"]).code.set_result(told["code"])

    def stop(self) -> None:
        """End the server, and commands that hang."""
        if self._server is None or self._listener is None:
            return
        os.killpg(self._server.pid, signal.SIGKILL)
        self._listener.join()
        self._server.communicate()
        self._server = None


WARM = WarmStarts()


def clean_environment() -> dict[str, str]:
    """The environment of the tests without what would steer a command."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SCRUBBED)}


def pytest_unconfigure() -> None:
    WARM.stop()


@dataclass
class Command:
    """Runs `cortex-etl` in `folder`; `environment` is added to the scrubbed one."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def _environment(self) -> dict[str, str]:
        return clean_environment() | self.environment

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start it in a Python of its own."""
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "etl", *arguments,
            cwd=self.folder, env=self._environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def __call__(self, *arguments: str, stdin: str | None = None) -> Ended:
        """Run it to its end."""
        if any(name.startswith("PYTHON") for name in self.environment):
            assert stdin is None
            return await ended(await self.start(*arguments))
        running = WARM.start(*arguments, folder=self.folder, environment=self._environment, stdin=stdin or "")
        try:
            return _checked(await asyncio.wait_for(running.end(), 90))
        except TimeoutError:
            WARM.stop()
            raise

    def configure(self, text: str) -> Path:
        path = self.folder / "config.yaml"
        path.write_text(text)
        return path

    def read_in_small_steps(self) -> None:
        """Let it read one small page after another."""
        path = self.folder / "config.yaml"
        path.write_text(path.read_text().replace("api:\n", "api:\n  page_size: 5\n  concurrency: 1\n"))


async def ended(process: asyncio.subprocess.Process) -> Ended:
    """Wait for the end; a command that hangs is killed and fails the test."""
    try:
        out, err = await asyncio.wait_for(process.communicate(), 90)
    except TimeoutError:
        process.kill()
        raise
    return _checked(Ended(process.returncode or 0, out.decode(), err.decode()))


def _checked(end: Ended) -> Ended:
    assert "Traceback" not in end.err, end.err
    return end


@pytest.fixture
async def command(tmp_path: Path) -> AsyncIterator[Command]:
    """The command in an empty folder; an embedded PostgreSQL that it starts there is stopped afterwards."""
    yield Command(tmp_path)
    for data_dir in (tmp_path / ".cortex-etl", tmp_path / ".cortex-etl" / "demo"):
        await asyncio.to_thread(embedded.stop, data_dir)


@pytest.fixture
async def at_work(command: Command, sandbox: Any, database_url: str) -> Any:
    """The command set up for a small sandbox and a fresh database: (command, the running sandbox)."""
    running = await sandbox()
    apps = "".join(f"  - id: {app_id}\n" for app_id in running.world.apps)
    command.configure(f"api:\n  base_url: {running.url}\ndatabase:\n  url: {database_url}\napps:\n{apps}")
    command.environment["CORTEX_API_KEY"] = running.key
    return command, running
