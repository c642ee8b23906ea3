"""Starts commands warm: this process has imported the program, and each command runs in a fork of it.

Four fifths of what a short command takes is importing, and the tests run some hundreds. A fork is a process of its own
with its own folder, environment and files, so that nothing else differs from `python -m etl`.

Requests come in on standard input, one JSON object a line; `{"place": …, "pid": …}` goes out when a command has begun, and
`{"place": …, "code": …}` when it has ended.
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
    """Fork for each request; returns it in the fork, and None in the server when there will be no more."""
    requests = sys.stdin.buffer.raw
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
                    running[pid] = request["place"]
                    _tell(request["place"], pid=pid)


def _report_ended(running: dict[int, int]) -> None:
    for pid, place in list(running.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            del running[pid]
            _tell(place, code=os.waitstatus_to_exitcode(status))


def _tell(place: int, **what: int) -> None:
    print(json.dumps({"place": place} | what), flush=True)


def become(request: dict[str, Any]) -> None:
    """Be the process that was asked for."""
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
        become(wanted)
        runpy.run_module("etl", run_name="__main__")
