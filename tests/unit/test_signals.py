"""A signal ends the command with 130 and without a traceback, at any time."""

from __future__ import annotations

import subprocess
import sys

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
