"""A loopback server for benchmarks, run in a separate process: prepared pages, with almost no work per request.

The id of an app defines it: `app-30000` has 30,000 runs; `slow-30000` also responds after 100 ms and refuses more than
500 requests in any 60 s with the same key, which stands for an address. `/-/change/APP/N` gives every Nth run a new
`updated_at`; `/-/requests/APP` returns when requests for an app arrived and how many were refused.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from time import monotonic
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qs, urlsplit

import uvloop

from benchmarks.data import App, library
from etl.plan.paging import next_span

if TYPE_CHECKING:
    from collections.abc import Iterator

LATENCY_S = 0.1
RATE_LIMIT = 500
WINDOW_S = 60.0
MAX_CACHED_BYTES = 800 * 2**20
PREPARED_RUNS = 40_000
"""Pages of apps with at most this many runs are prepared before the first request."""

_RUNS = re.compile(r"/apps/([^/]+)/workflows/([^/]+)/runs")
_WORKFLOWS = re.compile(r"/apps/([^/]+)/workflows")
_KEY = re.compile(rb"(?i)\r\nAuthorization: Bearer (\S+)")
_CONTROL = re.compile(r"/-/(\w+)/([^/]+)(?:/(\d+))?")


class World:
    """The apps requested so far, and their requests."""

    def __init__(self) -> None:
        self.apps: dict[str, App] = {}
        self.arrivals: dict[str, list[float]] = {}
        self.granted: dict[str, dict[bytes, list[float]]] = {}  # by app and key
        self.cache: dict[str, bytes] = {}
        self.cached_bytes = 0

    def app(self, name: str) -> App:
        if name not in self.apps:
            app = self.apps[name] = App(name, int(name.rpartition("-")[2]))
            self.arrivals[name], self.granted[name] = [], {}
            if app.runs_each * len(app.workflows) <= PREPARED_RUNS:
                self.prepare(app)
        return self.apps[name]

    def prepare(self, app: App) -> None:
        for workflow_id in app.workflows:
            for number, take in _pages_asked_for(app.runs_each):
                self.respond(f"/apps/{app.name}/workflows/{workflow_id}/runs?page={number}&take={take}&status=ALL")

    def respond(self, target: str) -> bytes:
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if control := _CONTROL.fullmatch(parts.path):
            return self.control(control[1], control[2], int(control[3] or 0))
        number, take = int(query.get("page", 1)), int(query.get("take", 100))
        if runs := _RUNS.fullmatch(parts.path):
            app, workflow_id = self.app(runs[1]), runs[2]
            if query.get("status", "ALL") != "ALL":
                return _response(b"[]", number, take, 0)
            key = f"{app.name}/{workflow_id}/{number}/{take}"
            if key not in self.cache:
                made = _response(app.page(workflow_id, number, take), number, take, app.runs_each)
                if self.cached_bytes + len(made) > MAX_CACHED_BYTES:
                    return made
                self.cache[key] = made
                self.cached_bytes += len(made)
            return self.cache[key]
        if workflows := _WORKFLOWS.fullmatch(parts.path):
            app = self.app(workflows[1])
            items = [library().workflows[each] for each in app.workflows][(number - 1) * take : number * take]
            return _response(b"[" + b",".join(items) + b"]", number, take, len(app.workflows))
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"

    def control(self, what: str, name: str, every: int) -> bytes:
        app = self.app(name)
        if what == "change":
            app.changed_every = every
            self.cache.clear()
            self.cached_bytes = 0
            self.prepare(app)
        times = self.arrivals[name]
        report = {"arrivals": times, "refused": len(times) - sum(map(len, self.granted[name].values()))}
        return _response(json.dumps(report).encode(), 1, 1, 1)

    def allow(self, name: str, key: bytes) -> bool:
        """Count a request for an app with a key; return whether the rate limit allows it."""
        now = monotonic()
        self.app(name)
        self.arrivals[name].append(now)
        granted = self.granted[name].setdefault(key, [])
        if name.startswith("slow") and len(granted) >= RATE_LIMIT and now - granted[-RATE_LIMIT] < WINDOW_S:
            return False
        granted.append(now)
        return True


def _pages_asked_for(runs: int) -> Iterator[tuple[int, int]]:
    """Yield pages of 100 as the peers read them, and the overlapping ones of cortex-etl."""
    yield from ((number, 100) for number in range(1, -(-runs // 100) + 1))
    position = 0
    while position < runs:
        span = next_span(position, 100)
        yield span
        position = span.end


def _response(body: bytes, number: int, take: int, count: int) -> bytes:
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        f"pagination-page: {number}\r\npagination-take: {take}\r\npagination-count: {count}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


_REFUSED = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 5\r\nContent-Length: 2\r\n\r\n{}"


class Connection(asyncio.Protocol):
    """A client connection: GET requests, one after another."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head, self.received = self.received[:end], self.received[end + 4 :]
            key = _KEY.search(head)
            self.serve(head.split(b" ", 2)[1].decode(), key[1] if key else b"")

    def serve(self, target: str, key: bytes) -> None:
        name = target.split("/", 3)[2] if target.startswith("/apps/") else ""
        response = self.world.respond(target) if not name or self.world.allow(name, key) else _REFUSED
        if name.startswith("slow"):
            asyncio.get_running_loop().call_later(LATENCY_S, self.send, response)
        else:
            self.send(response)

    def send(self, response: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(response)


async def serve() -> None:
    """Serve on a free port until standard input ends; print the port."""
    world = World()
    library()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(world), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve())
