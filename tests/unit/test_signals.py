"""A signal ends the command with 130 and without a traceback, at any time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

AMID_IMPORTS = """
import signal, sys
import etl.cli

class Signal:
    def find_spec(self, name, *_):
        if name == "etl.cli.root":
            signal.raise_signal(signal.{sign})

sys.meta_path.insert(0, Signal())
etl.cli.main()
"""

AT_WORK = """
import asyncio, signal, sys
from etl.cli.invocation import Invocation, finish, run_async

async def work():
    signal.raise_signal(signal.{sign})
    await asyncio.sleep(30)

signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what a script starts with `&`
sys.exit(finish(Invocation(None, "console", 0, False), lambda: run_async(work())))
"""

DEAF = """
import asyncio, signal, sys
from etl.cli import signals
from etl.cli.invocation import Invocation, finish, run_async

async def work():
    print("working", flush=True)
    while True:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            print("deaf", flush=True)

signals.END_TIMEOUT_S = {patience_s}
sys.exit(finish(Invocation(None, {form!r}, 0, False), lambda: run_async(work())))
"""

AT_ITS_END = """
import asyncio, os, signal, sys, threading, time
from etl.cli.invocation import Invocation, finish, run_async

async def work():
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.6)  # which the loop waits for when it closes
    threading.Timer(0.2, os.kill, (os.getpid(), signal.{sign})).start()

sys.exit(finish(Invocation(None, "console", 0, False), lambda: run_async(work())))
"""

AT_THE_EXIT = """
import atexit, signal, sys
from etl.cli.invocation import Invocation, finish

atexit.register(lambda: signal.raise_signal(signal.{sign}))
sys.exit(finish(Invocation(None, "console", 0, False), lambda: 0))
"""


@pytest.fixture
def start_deaf() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command that ignores cancellation, and wait until it is running."""
    started = []

    def start(patience_s: float, form: str = "console") -> subprocess.Popen[str]:
        command = [sys.executable, "-c", DEAF.format(patience_s=patience_s, form=form)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_second_signal_ends_a_command_immediately(start_deaf: Callable[..., subprocess.Popen[str]]) -> None:
    process = start_deaf(patience_s=60)
    process.terminate()
    assert process.stdout is not None
    assert process.stdout.readline() == "deaf\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=2) == 130


@pytest.mark.parametrize("form", ["console", "json"])
def test_command_that_ignores_cancellation_ends_after_a_time_limit(
    start_deaf: Callable[..., subprocess.Popen[str]], form: str
) -> None:
    process = start_deaf(patience_s=0.5, form=form)
    process.terminate()
    _, err = process.communicate(timeout=5)
    assert process.returncode == 130
    if form == "json":
        assert json.loads(err) == {
            "event": "command.failed", "error": "interrupted", "hint": None, "exit_code": 130
        }  # fmt: skip
    else:
        assert err == "error: interrupted\n"


@pytest.mark.parametrize("sign", ["SIGINT", "SIGTERM"])
def test_signal_during_exit_changes_nothing(sign: str) -> None:
    command = [sys.executable, "-c", AT_THE_EXIT.format(sign=sign)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("sign", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("moment", [AMID_IMPORTS, AT_WORK, AT_ITS_END], ids=["amid imports", "at work", "at its end"])
def test_signal_exits_with_130(moment: str, sign: str) -> None:
    command = [sys.executable, "-c", moment.format(sign=sign)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 130, ended
    assert "Traceback" not in ended.stderr
