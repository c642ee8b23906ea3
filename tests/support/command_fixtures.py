"""The command as users run it: a separate process in an empty folder, with a clean environment."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from etl.db import embedded

SERVER = Path(__file__).with_name("command_server.py")
SCRUBBED = (
    "CORTEX_", "DATABASE_URL", "PG", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "COVERAGE",
    "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
)  # fmt: skip


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
    """A command started by `WarmStarts`, with its output in files of `folder`."""

    def __init__(self, folder: tempfile.TemporaryDirectory[str]) -> None:
        self.folder = folder
        self.pid: Future[int] = Future()
        self.code: Future[int] = Future()

    def path(self, stream: str) -> Path:
        return Path(self.folder.name) / stream

    async def end(self) -> Ended:
        """Wait for the end and read the output."""
        code = await asyncio.wrap_future(self.code)
        ended = Ended(code, self.path("stdout").read_text(), self.path("stderr").read_text())
        self.folder.cleanup()
        return ended


class WarmStarts:
    """Starts commands with `command_server.py`, which starts with the first command."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._listener: Thread | None = None
        self._running: dict[int, Running] = {}
        self._numbers = count()

    def start(
        self, *arguments: str, folder: Path, environment: dict[str, str], stdin: str = "", terminal: str = ""
    ) -> Running:
        """Start a command in a folder with exactly this environment, on a terminal if `terminal` is given."""
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            self._listener = Thread(target=self._listen, args=(self._server,))
            self._listener.start()
        number, running = next(self._numbers), Running(tempfile.TemporaryDirectory())
        self._running[number] = running
        running.path("stdin").write_text(stdin)
        request = {"number": number, "arguments": arguments, "folder": str(folder), "environment": environment}
        request |= {each: terminal or str(running.path(each)) for each in ("stdin", "stdout", "stderr")}
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        return running

    def _listen(self, server: subprocess.Popen[bytes]) -> None:
        assert server.stdout is not None
        for line in server.stdout:
            event = json.loads(line)
            if "pid" in event:
                future, value = self._running[event["number"]].pid, event["pid"]
            else:
                future, value = self._running.pop(event["number"]).code, event["code"]
            if future.set_running_or_notify_cancel():  # a test that waited for it may have timed out
                future.set_result(value)

    def stop(self) -> None:
        """Kill the server and its commands."""
        if self._server is None or self._listener is None:
            return
        os.killpg(self._server.pid, signal.SIGKILL)
        self._listener.join()
        self._server.communicate()
        self._server = None


WARM = WarmStarts()


def clean_environment() -> dict[str, str]:
    """Return the environment of the tests without variables that affect the command."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(SCRUBBED)}


def pytest_unconfigure() -> None:
    WARM.stop()


@dataclass
class Command:
    """Runs `cortex-etl` in `folder`; `environment` is added to a clean environment.

    `options` come before the arguments: messages are text, as on a terminal; without one, JSON is the default.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ("--log-format", "console")

    @property
    def _environment(self) -> dict[str, str]:
        return clean_environment() | {"XDG_CONFIG_HOME": "/nonexistent"} | self.environment

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start the command in a new Python process."""
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "etl", *self.options, *arguments,
            cwd=self.folder, env=self._environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def __call__(self, *arguments: str, stdin: str | None = None) -> Ended:
        """Run the command to its end."""
        if any(name.startswith("PYTHON") for name in self.environment):
            assert stdin is None
            return await ended(await self.start(*arguments))
        running = WARM.start(
            *self.options, *arguments, folder=self.folder, environment=self._environment, stdin=stdin or ""
        )
        try:
            return _checked(await asyncio.wait_for(running.end(), 90))
        except TimeoutError:
            WARM.stop()
            raise

    async def on_terminal(self, *arguments: str, answers: Sequence[str] = ()) -> tuple[int, str]:
        """Run the command on a terminal of its own; return its exit code and what it wrote there.

        Args:
            arguments: the arguments of the command.
            answers: lines to type, each after a prompt that ends with a colon and a space.
        """
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 300, 0, 0))  # rows and columns
        environment = self._environment | {"TERM": "xterm"}
        running = WARM.start(*arguments, folder=self.folder, environment=environment, terminal=os.ttyname(theirs))
        reading = asyncio.get_running_loop().run_in_executor(None, _converse, ours, list(answers))
        code = await asyncio.wait_for(asyncio.wrap_future(running.code), 90)
        running.folder.cleanup()
        os.close(theirs)
        written = await reading
        os.close(ours)
        return code, written

    def configure(self, text: str) -> Path:
        path = self.folder / "config.yaml"
        path.write_text(text)
        path.chmod(0o600)
        return path

    def read_in_small_steps(self) -> None:
        """Configure small pages, read one after another."""
        path = self.folder / "config.yaml"
        path.write_text(path.read_text().replace("api:\n", "api:\n  page_size: 5\n  concurrency: 1\n"))


def _converse(terminal: int, answers: list[str]) -> str:
    written = b""
    try:
        while some := os.read(terminal, 65536):
            written += some
            if answers and written.endswith(b": "):
                time.sleep(0.3)  # input that is typed before the prompt is complete may be dropped
                os.write(terminal, f"{answers.pop(0)}\n".encode())
    except OSError:
        pass  # the other end is closed
    return written.decode()


async def ended(process: asyncio.subprocess.Process) -> Ended:
    """Wait for the end; kill a command that hangs and fail the test."""
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
    """The command in an empty folder; stops an embedded PostgreSQL that it started."""
    yield Command(tmp_path)
    for data_dir in (tmp_path / ".cortex-etl", tmp_path / ".cortex-etl" / "demo"):
        await asyncio.to_thread(embedded.stop, data_dir)


@pytest.fixture
async def at_work(command: Command, sandbox: Any, database_url: str) -> Any:
    """The command configured for a small sandbox and a new database: (command, sandbox)."""
    running = await sandbox()
    apps = "".join(f"  - id: {app_id}\n" for app_id in running.world.apps)
    command.configure(f"api:\n  base_url: {running.url}\ndatabase:\n  url: {database_url}\napps:\n{apps}")
    command.environment["CORTEX_API_KEY"] = running.key
    return command, running
