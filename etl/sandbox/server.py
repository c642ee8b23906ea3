"""The simulated API as an HTTP server."""

from __future__ import annotations

import asyncio
import gzip
import hmac
import inspect
import math
import socket
import struct
import time
from collections import deque
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import unquote

from aiohttp import web

from etl.sandbox.endpoints import Endpoints
from etl.sandbox.faults import Faults
from etl.sandbox.responses import Request, Response, error
from etl.sandbox.world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import TracebackType


_TICK_S: Final = 1.0
_GZIP_FROM: Final = 1400
"""Minimum size in bytes of bodies to compress: below one packet there is nothing to gain."""


@dataclass(slots=True)
class RequestLog:
    """A received request; `status` is 0 until the response is sent, and stays 0 if the connection was reset."""

    time_monotonic: float
    method: str
    path: str
    query: dict[str, str]
    status: int = 0


class RollingLimit:
    """A rate limit per address over a rolling window. Refused requests do not count."""

    def __init__(self, requests: int, window_s: float = 60.0) -> None:
        """Allow `requests` per address in any `window_s` seconds."""
        self._requests = requests
        self._window_s = window_s
        self._allowed: dict[str, deque[float]] = {}

    def acquire(self, address: str, now: float) -> float:
        """Count a request at `now` (seconds of any clock); return 0 if it is allowed, else the seconds to wait."""
        allowed = self._allowed.setdefault(address, deque())
        while allowed and allowed[0] <= now - self._window_s:
            allowed.popleft()
        if len(allowed) < self._requests:
            allowed.append(now)
            return 0.0
        return allowed[0] + self._window_s - now if allowed else self._window_s


class Sandbox:
    """A running simulated API: `async with Sandbox(world) as sandbox: ... sandbox.url`.

    Attributes:
        url: the base URL, once started.
        world: the data to serve; may be changed at any time.
        faults: the faults to make; may be changed at any time.
        requests: every received request, in order.
    """

    def __init__(  # noqa: PLR0913 - all are optional and passed by name
        self,
        world: World,
        key: str = "sk-sandbox",
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        requests_per_minute: int | None = None,
        rate_window_s: float = 60.0,
        max_take: int = 100,
        verbose_required: bool = True,
        next_tokens: bool = False,
        app_keys: dict[str, str] | None = None,
    ) -> None:
        """Prepare a server; `async with` starts it.

        Args:
            world: the data to serve.
            key: the key for all apps; with it, the app id `c` stands for the world's first app.
            port: port to listen on; 0 chooses a free one.
            host: address to listen on.
            requests_per_minute: requests that an address may send in any `rate_window_s`; None for no limit.
            rate_window_s: the window of the rate limit, in seconds.
            max_take: the largest page size.
            verbose_required: whether runs are complete only with `verbose=all`.
            next_tokens: whether lists send a token for the next page.
            app_keys: further keys by app id, each of them for that app only.
        """
        self.world = world
        self.faults = Faults()
        self.requests: list[RequestLog] = []
        self.key = key
        self.app_keys = dict(app_keys or {})
        self.url = ""
        self._endpoints = Endpoints(world, max_take, verbose_required=verbose_required, next_tokens=next_tokens)
        self._address = (host, port)
        self._limit = None if requests_per_minute is None else RollingLimit(requests_per_minute, rate_window_s)
        self._runner = web.ServerRunner(
            web.Server(self._handle, handler_cancellation=True, access_log=None), shutdown_timeout=0.1
        )

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, *self._address).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        query = dict(incoming.rel_url.query)
        log = RequestLog(time.monotonic(), incoming.method, incoming.rel_url.path, query)
        self.requests.append(log)
        number = len(self.requests)
        parts = tuple(unquote(part) for part in incoming.rel_url.raw_path.strip("/").split("/"))
        request = Request(number, incoming.method, log.path, parts, query, await incoming.read())
        response = self._limited(incoming.remote or "", log.time_monotonic)
        if response is None:
            await _call(self.faults.before_response, request)
            if self.faults.drift is not None:
                self.faults.drift.change(self.world, request)
            response = self._respond(incoming.headers.get("Authorization", ""), request)
            self.faults.apply(request, response)
        if response.delay_s:
            await asyncio.sleep(response.delay_s)
        if not response.reset:
            log.status = response.status
        sent = await _deliver(incoming, response)
        await _call(self.faults.after_response, request)
        return sent

    def _respond(self, authorization: str, request: Request) -> Response:
        given = authorization.removeprefix("Bearer ")
        if not authorization.startswith("Bearer ") or not (opened := self._opened(given)):
            return error(401, "Invalid API key")
        if len(request.parts) > 1 and request.parts[1] not in {"c", *opened}:
            return error(404, "App not found")
        return self._endpoints.respond(self.faults.rewrite(request), opened[0])

    def _opened(self, given: str) -> list[str]:
        """Return the ids of the apps that a key may access."""
        if hmac.compare_digest(given.encode(), self.key.encode()):
            return list(self.world.apps) or ["c"]
        return [app for app, key in self.app_keys.items() if hmac.compare_digest(given.encode(), key.encode())]

    def _limited(self, address: str, now: float) -> Response | None:
        """Return a 429 response if the address has exceeded the rate limit."""
        wait_s = self._limit.acquire(address, now) if self._limit is not None else 0.0
        if not wait_s:
            return None
        refusal = error(429, "Too many requests, please try again later.")
        refusal.headers["retry-after"] = str(math.ceil(wait_s))
        return refusal


async def _call(hook: Callable[[str, dict[str, str], int], Awaitable[None] | None] | None, request: Request) -> None:
    if hook is not None:
        result = hook(request.path, request.query, request.number)
        if inspect.isawaitable(result):
            await result


async def _deliver(incoming: web.BaseRequest, response: Response) -> web.StreamResponse:
    if response.reset:
        _reset(incoming)
        return web.Response()
    body = response.payload()
    if response.cut_at is not None:
        return await _cut_off(incoming, response, body)
    if len(body) >= _GZIP_FROM and "gzip" in incoming.headers.get("Accept-Encoding", ""):
        body = gzip.compress(body, 1)
        response.headers["content-encoding"] = "gzip"
    return web.Response(status=response.status, headers=response.headers, body=body)


async def _cut_off(incoming: web.BaseRequest, response: Response, body: bytes) -> web.StreamResponse:
    stream = web.StreamResponse(status=response.status, headers=response.headers)
    if response.chunked:
        stream.enable_chunked_encoding()
    else:
        stream.content_length = len(body)
    # The client may have disconnected already.
    with suppress(ConnectionError):
        await stream.prepare(incoming)
        await stream.write(body[: response.cut_at])
    if incoming.transport is not None:
        incoming.transport.close()
    return stream


def _reset(incoming: web.BaseRequest) -> None:
    transport = incoming.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    # With a linger time of zero, closing sends RST instead of FIN.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


@asynccontextmanager
async def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    seed: int = 1,
    runs: int = 3000,
    key: str = "sk-sandbox",
    requests_per_minute: int | None = 500,
    speed: float = 1.0,
) -> AsyncIterator[Sandbox]:
    """Serve a new world whose history ends now, until the context exits.

    Args:
        host: address to listen on.
        port: port to listen on; 0 chooses a free one.
        seed: random seed.
        runs: number of runs.
        key: the API key to require.
        requests_per_minute: rate limit; None for no limit.
        speed: simulated seconds per real second; 0 stops the world's clock.

    Yields:
        The server, with its `url` and `world`.
    """
    world = World.generate(seed, runs=runs, now=datetime.now(UTC).replace(microsecond=0))
    async with Sandbox(world, key, host=host, port=port, requests_per_minute=requests_per_minute) as sandbox:
        clock = asyncio.create_task(_advance_clock(world, speed))
        try:
            yield sandbox
        finally:
            clock.cancel()
            with suppress(asyncio.CancelledError):
                await clock


async def _advance_clock(world: World, speed: float) -> None:
    while speed > 0:
        await asyncio.sleep(_TICK_S)
        world.advance(timedelta(seconds=_TICK_S * speed))
