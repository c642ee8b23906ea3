"""The command as users run it: a process of its own, in a folder of its own, with nothing of ours in its environment."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from etl.db import embedded

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


@dataclass
class Command:
    """Runs `cortex-etl` in `folder`; `environment` is added to the scrubbed one."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    async def start(self, *arguments: str, stdin: int = asyncio.subprocess.DEVNULL) -> asyncio.subprocess.Process:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(SCRUBBED)}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "etl", *arguments,
            cwd=self.folder, env=clean | self.environment, stdin=stdin,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def __call__(self, *arguments: str, stdin: str | None = None) -> Ended:
        process = await self.start(
            *arguments, stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE
        )
        return await ended(process, stdin)

    def configure(self, text: str) -> Path:
        path = self.folder / "config.yaml"
        path.write_text(text)
        return path


async def ended(process: asyncio.subprocess.Process, stdin: str | None = None) -> Ended:
    """Wait for the end; a command that hangs is killed and fails the test."""
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin.encode() if stdin is not None else None), 90)
    except TimeoutError:
        process.kill()
        raise
    result = Ended(process.returncode or 0, out.decode(), err.decode())
    assert "Traceback" not in result.err, result.err
    return result


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
