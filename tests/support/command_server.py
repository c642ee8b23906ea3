"""A server that forks commands: it has imported the program already, so that they start faster.

A short command spends four fifths of its time on imports, and the tests run hundreds. A fork is a separate process with
its own folder, environment and files; nothing else differs from `python -m etl`.

Requests are read from standard input, one JSON object per line. The server prints `{"number": …, "pid": …}` when a
command has started and `{"number": …, "code": …}` when it has ended.
"""

from __future__ import annotations

import json
import os
import runpy
import selectors
import signal
import socket
import sys
from importlib import import_module
from typing import Any

PRELOADED = ("etl.cli.root", "etl.app", "etl.doctor", "etl.cli.telemetry", "etl.observe.progress", "uvloop")


def serve() -> dict[str, Any] | None:
    """Fork for each request; return it in the fork, and None in the server at the end of the input."""
    requests: Any = getattr(sys.stdin.buffer, "raw")  # noqa: B009 - unbuffered
    waker, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}
    received = b""
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        selector.register(waker, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if waker in ready:
                waker.recv(4096)
                _report_ended(running)
            if requests in ready:
                if not (some := requests.read(65536)):
                    return None
                *lines, received = (received + some).split(b"\n")
                for request in map(json.loads, lines):
                    pid = os.fork()
                    if pid == 0:
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        return request
                    running[pid] = request["number"]
                    _report(request["number"], pid=pid)


def _report_ended(running: dict[int, int]) -> None:
    for pid, number in list(running.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            del running[pid]
            _report(number, code=os.waitstatus_to_exitcode(status))


def _report(number: int, **event: int) -> None:
    print(json.dumps({"number": number} | event), flush=True)


def prepare(request: dict[str, Any]) -> None:
    """Set up the files, folder, environment and arguments of the requested command."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        path = request[name]
        file = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["cortex-etl", *request["arguments"]]


if __name__ == "__main__":
    for module in PRELOADED:
        import_module(module)
    if (wanted := serve()) is not None:
        prepare(wanted)
        runpy.run_module("etl", run_name="__main__")
