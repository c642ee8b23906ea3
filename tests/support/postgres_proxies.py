"""Proxies between a client and PostgreSQL that add TLS, add latency, or drop packets."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

SSL_REQUEST = struct.pack("!ii", 8, 80877103)


Greet = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]


@dataclass
class Gate:
    """A proxy that forwards bytes until it is shut. It then drops bytes, but closes and refuses no connection.

    Attributes:
        url: of the proxy.
        shut_before: bytes from a client that shut the gate and are not forwarded.
        shut_after: bytes from a client that are forwarded, but not their answer.
        armed_by: bytes from a client that must have been forwarded before.
        only_same: whether only the connection that sent these bytes is shut.
        lost_commits: the number of connections to close when the server has answered a COMMIT.
    """

    url: str = ""
    shut_before: bytes | None = None
    shut_after: bytes | None = None
    armed_by: bytes | None = None
    only_same: bool = False
    lost_commits: int = 0
    is_shut: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    clients: list[asyncio.StreamWriter] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.opened.set()

    def shut(self) -> None:
        self.shut_before = self.shut_after = None
        self.opened.clear()
        self.is_shut.set()

    def open(self) -> None:
        self.opened.set()

    def reset(self) -> None:
        """Close all connections of clients abruptly."""
        for client in self.clients:
            client.transport.abort()


class _Lane:
    """The two directions of one connection through a gate."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._is_shut = False
        self.is_cut = False

    async def send(self, data: bytes) -> None:
        """Wait for the gate before bytes from the client are forwarded."""
        gate = self._gate
        if gate.lost_commits and b"COMMIT;\0" in data:
            gate.lost_commits -= 1
            self.is_cut = True
        if gate.armed_by is not None and gate.armed_by in data:
            gate.armed_by = None
        if gate.armed_by is None and gate.shut_before is not None and gate.shut_before in data:
            self._shut()
        await self.passes()
        if gate.armed_by is None and gate.shut_after is not None and gate.shut_after in data:
            self._shut()

    def _shut(self) -> None:
        if not self._gate.only_same:
            self._gate.shut()
            return
        self._gate.shut_before = self._gate.shut_after = None
        self._gate.is_shut.set()
        self._is_shut = True

    async def passes(self) -> None:
        if self._is_shut:
            await asyncio.Event().wait()
        await self._gate.opened.wait()


@asynccontextmanager
async def encrypting(server_url: str, certificate: Path, gate: Gate | None = None) -> AsyncIterator[str]:
    """Run a proxy that acts as a server with `ssl = on`; yield its URL at `localhost`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if await reader.readexactly(8) != SSL_REQUEST:
            return False  # pg_hba.conf says hostssl
        writer.write(b"S")
        await writer.start_tls(context)
        return True

    async with _between(server_url, greet, gate=gate) as url:
        yield url


@asynccontextmanager
async def far_away(server_url: str, seconds: float) -> AsyncIterator[str]:
    """Run a proxy that delays all bytes from clients; yield its URL at `localhost`."""
    async with _between(server_url, seconds=seconds) as url:
        yield url


@asynccontextmanager
async def gated(server_url: str) -> AsyncIterator[Gate]:
    """Yield a gate to the server."""
    gate = Gate()
    async with _between(server_url, gate=gate) as url:
        gate.url = url
        yield gate


@asynccontextmanager
async def _between(
    server_url: str, greet: Greet | None = None, seconds: float = 0, gate: Gate | None = None
) -> AsyncIterator[str]:
    """Listen in front of a server on a Unix socket."""
    parts = urlsplit(server_url)
    query = parse_qs(parts.query)
    path = f"{query['host'][0]}/.s.PGSQL.{query.get('port', ['5432'])[0]}"
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]  # it runs in one
        lane = _Lane(gate or Gate())
        if gate is not None:
            gate.clients.append(writer)
        try:
            await lane.passes()
            if greet is not None and not await greet(reader, writer):
                return
            inward, outward = await asyncio.open_unix_connection(path)
            try:
                await asyncio.gather(
                    _pass_on(reader, outward, lane, of_client=True, seconds=seconds), _pass_on(inward, writer, lane)
                )
            finally:
                outward.close()
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "localhost", 0, family=2)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield f"postgresql://{parts.username or 'postgres'}@localhost:{port}{parts.path}"
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_on(
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    lane: _Lane,
    *,
    of_client: bool = False,
    seconds: float = 0,
) -> None:
    while data := await source.read(65536):
        if seconds:
            await asyncio.sleep(seconds)
        await (lane.send(data) if of_client else lane.passes())
        if lane.is_cut and not of_client:
            break
        sink.write(data)
        await sink.drain()
    await lane.passes()
    with suppress(OSError):
        sink.close()
