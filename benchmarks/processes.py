"""Run a separate process and measure its resource usage."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


@dataclass(frozen=True, slots=True)
class Usage:
    """Output and resource usage of a process: wall-clock seconds, CPU seconds, peak resident memory in MB.

    `started` is its start time on the machine's monotonic clock (`time.monotonic`).
    """

    output: str
    started: float
    seconds: float
    cpu_s: float
    peak_mb: float
    code: int


class FailedError(Exception):
    """A measured process exited with an error."""


@contextmanager
def page_server() -> Iterator[int]:
    """Start the page server in a separate process; yield its port."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.page_server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


def measure(arguments: Sequence[str], *, python: str = sys.executable, timeout_s: float = 900) -> Usage:
    """Run Python with some arguments; kill it after `timeout_s` seconds.

    Bytecode is cached, as in an installed package: compiling its modules would add more than 0.1 s to each start.

    Raises:
        FailedError: it did not exit with 0; the message includes the end of its output.
    """
    started = monotonic()
    process = subprocess.Popen(
        [python, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    errors: list[str] = []
    reader = threading.Thread(target=lambda pipe: errors.append(pipe.read()), args=(process.stderr,))
    reader.start()
    peak = _Peak(process.pid)
    peak.start()
    limit = threading.Timer(timeout_s, process.kill)
    limit.start()
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    limit.cancel()
    peak.ended = True
    reader.join()
    peak.join()
    if process.returncode != 0:
        raise FailedError(
            f"{' '.join(arguments[:4])} exited with {process.returncode}: {output[-500:]} {errors[0][-2000:]}"
        )
    # The kernel's maximum includes the parent's memory at the fork; use it only if there is no /proc.
    peak_mb = peak.megabytes or used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return Usage(output, started, seconds, used.ru_utime + used.ru_stime, peak_mb, process.returncode)


class _Peak(threading.Thread):
    """Tracks the peak resident memory of a process, including its children, while it runs."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self.megabytes = 0.0
        self.ended = False

    def run(self) -> None:
        while not self.ended:
            self.megabytes = max(self.megabytes, sum(map(_high_water_mb, (self._pid, *_children(self._pid)))))
            sleep(0.02)


def _high_water_mb(pid: int) -> float:
    try:
        found = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
