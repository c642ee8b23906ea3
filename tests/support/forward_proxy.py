"""A forward proxy on loopback: tunnels for CONNECT, and plain requests, to hosts with made-up names."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

CERTIFICATE = Path(__file__).with_name("cortex_test.pem")
"""A self-signed certificate of api.cortex.test and hooks.cortex.test."""


@dataclass
class ForwardProxy:
    """A proxy that requires `credentials` if they are set; `heads` are the received requests up to the blank line."""

    hosts: Mapping[str, int]
    credentials: str = ""
    port: int = 0
    heads: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """The first line of each request."""
        return [head.partition("\r\n")[0] for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head.decode())
        method, target, _ = self.lines[-1].split()
        expected = f"Proxy-Authorization: Basic {base64.b64encode(self.credentials.encode()).decode()}"
        if self.credentials and expected not in self.heads[-1]:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        host = target.partition("://")[2].partition("/")[0] if method != "CONNECT" else target
        port = self.hosts.get(host.partition(":")[0])
        if port is None:
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return
        inward, outward = await asyncio.open_connection("127.0.0.1", port)
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                outward.write(head)
            await asyncio.gather(_pass_on(reader, outward), _pass_on(inward, writer))
        finally:
            outward.close()


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    sink.close()


@asynccontextmanager
async def _listening(serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]  # it runs in one
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def forwarding(hosts: Mapping[str, int], *, credentials: str = "") -> AsyncIterator[ForwardProxy]:
    """Run a proxy to these hosts; each has a port on loopback."""
    proxy = ForwardProxy(hosts, credentials)
    async with _listening(proxy.serve) as proxy.port:
        yield proxy


@asynccontextmanager
async def encrypted(port: int) -> AsyncIterator[int]:
    """Add TLS to a server; yield the port on which it is api.cortex.test."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(CERTIFICATE)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inward, outward = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(_pass_on(reader, outward), _pass_on(inward, writer))
        finally:
            outward.close()

    async with _listening(serve, tls) as own:
        yield own
