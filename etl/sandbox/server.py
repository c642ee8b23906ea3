"""The simulated API as a real HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hmac
import inspect
import math
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import unquote

from aiohttp import web

from etl.sandbox.answers import Answer, Request, error
from etl.sandbox.endpoints import Endpoints
from etl.sandbox.faults import Faults
from etl.sandbox.rate_limit import RollingLimit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from etl.sandbox.world import World

_GZIP_FROM: Final = 1400
"""Bodies of that many bytes and more are compressed for those who accept it: less than a packet is not worth it."""


@dataclass(slots=True)
class RequestLog:
    """One request that came in; `status` is 0 until it is answered, and stays so where the connection was reset."""

    time_monotonic: float
    method: str
    path: str
    query: dict[str, str]
    status: int = 0


class Sandbox:
    """A running simulated API: `async with Sandbox(world) as sandbox: ... sandbox.url`.

    Attributes:
        url: the base URL, once started.
        world: what is served; change it at any time.
        faults: what goes wrong; change it at any time.
        requests: every request that came in, in order.
    """

    def __init__(  # noqa: PLR0913 - each has a default and is given by name
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
        """Prepare a server; it starts with `async with`.

        Args:
            world: what is served.
            key: the key that opens every app; for it, the app id `c` stands for the world's first app.
            port: 0 chooses a free one.
            host: the address to listen on.
            requests_per_minute: how many requests an address may send in any `rate_window_s`; None: no limit.
            rate_window_s: the window of the rate limit, in seconds.
            max_take: the largest page that is given.
            verbose_required: whether runs are given whole only with `verbose=all`.
            next_tokens: whether lists hand out a token for the page that follows.
            app_keys: further keys by app id, each of which opens that app only.
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
        answer = self._limited(incoming.remote or "", log.time_monotonic)
        if answer is None:
            await _call(self.faults.before_response, request)
            if self.faults.drift is not None:
                self.faults.drift.stir(self.world, request)
            answer = self._answer(incoming.headers.get("Authorization", ""), request)
            self.faults.spoil(request, answer)
        if answer.delay_s:
            await asyncio.sleep(answer.delay_s)
        if not answer.reset:
            log.status = answer.status
        response = await _deliver(incoming, answer)
        await _call(self.faults.after_response, request)
        return response

    def _answer(self, authorization: str, request: Request) -> Answer:
        given = authorization.removeprefix("Bearer ")
        if not authorization.startswith("Bearer ") or not (opened := self._opened(given)):
            return error(401, "Invalid API key")
        if len(request.parts) > 1 and request.parts[1] not in {"c", *opened}:
            return error(404, "App not found")
        return self._endpoints.answer(self.faults.asked(request), opened[0])

    def _opened(self, given: str) -> list[str]:
        """The ids of the apps that a key opens."""
        if hmac.compare_digest(given.encode(), self.key.encode()):
            return list(self.world.apps) or ["c"]
        return [app for app, key in self.app_keys.items() if hmac.compare_digest(given.encode(), key.encode())]

    def _limited(self, address: str, now: float) -> Answer | None:
        """A refusal where the address has used its allowance up."""
        wait_s = self._limit.refuse_for(address, now) if self._limit is not None else 0.0
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


async def _deliver(incoming: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    if answer.reset:
        _reset(incoming)
        return web.Response()
    body = answer.payload()
    if answer.cut_at is not None:
        return await _cut_off(incoming, answer, body)
    if len(body) >= _GZIP_FROM and "gzip" in incoming.headers.get("Accept-Encoding", ""):
        body = gzip.compress(body, 1)
        answer.headers["content-encoding"] = "gzip"
    return web.Response(status=answer.status, headers=answer.headers, body=body)


async def _cut_off(incoming: web.BaseRequest, answer: Answer, body: bytes) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    if answer.chunked:
        response.enable_chunked_encoding()
    else:
        response.content_length = len(body)
    # The other side may be gone already: then nobody is left to be disappointed.
    with contextlib.suppress(ConnectionError):
        await response.prepare(incoming)
        await response.write(body[: answer.cut_at])
    if incoming.transport is not None:
        incoming.transport.close()
    return response


def _reset(incoming: web.BaseRequest) -> None:
    transport = incoming.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    # Lingering for zero seconds makes closing send RST instead of FIN.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
