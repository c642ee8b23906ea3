"""The command as users run it: a process of its own, in a folder of its own, with nothing of ours in its environment."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
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


class WarmStarts:
    """Commands started by a `command_server.py`, which begins with the first of them."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._listener: Thread | None = None
        self._codes: dict[int, Future[int]] = {}
        self._places = count()

    def start(self, **request: Any) -> Future[int]:
        """Start a command; its exit code."""
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            self._listener = Thread(target=self._listen, args=(self._server,))
            self._listener.start()
        place, code = next(self._places), Future[int]()
        self._codes[place] = code
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps({"place": place} | request).encode() + b"\n")
        self._server.stdin.flush()
        return code

    def _listen(self, server: subprocess.Popen[bytes]) -> None:
        assert server.stdout is not None
        for line in server.stdout:
            told = json.loads(line)
            self._codes.pop(told["place"]).set_result(told["code"])

    def stop(self) -> None:
        """End the server, and commands that hang."""
        if self._server is None or self._listener is None:
            return
        os.killpg(self._server.pid, signal.SIGKILL)
        self._listener.join()
        self._server.communicate()
        self._server = None


@dataclass
class Command:
    """Runs `cortex-etl` in `folder`; `environment` is added to the scrubbed one."""

    folder: Path
    warm: WarmStarts
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def _environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(SCRUBBED)}
        return clean | self.environment

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
        with tempfile.TemporaryDirectory() as name:
            streams = {each: Path(name) / each for each in ("stdin", "stdout", "stderr")}
            streams["stdin"].write_text(stdin or "")
            code = self.warm.start(
                arguments=arguments,
                folder=str(self.folder),
                environment=self._environment,
                **{each: str(path) for each, path in streams.items()},
            )
            try:
                number = await asyncio.wait_for(asyncio.wrap_future(code), 90)
            except TimeoutError:
                self.warm.stop()
                raise
            return _checked(Ended(number, streams["stdout"].read_text(), streams["stderr"].read_text()))

    def configure(self, text: str) -> Path:
        path = self.folder / "config.yaml"
        path.write_text(text)
        return path


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


@pytest.fixture(scope="session")
def warm_starts() -> Iterator[WarmStarts]:
    """Where commands are started that run to their end."""
    starts = WarmStarts()
    yield starts
    starts.stop()


@pytest.fixture
async def command(tmp_path: Path, warm_starts: WarmStarts) -> AsyncIterator[Command]:
    """The command in an empty folder; an embedded PostgreSQL that it starts there is stopped afterwards."""
    yield Command(tmp_path, warm_starts)
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
