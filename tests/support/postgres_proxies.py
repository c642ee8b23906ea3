"""Proxies between a client and PostgreSQL: one adds TLS, one adds latency, one loses answers."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

SSL_REQUEST = struct.pack("!ii", 8, 80877103)


Greet = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]


@asynccontextmanager
async def encrypting(server_url: str, certificate: Path) -> AsyncIterator[str]:
    """Behave like a server with `ssl = on`; yield the URL, at `localhost`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if await reader.readexactly(8) != SSL_REQUEST:
            return False  # pg_hba.conf says hostssl
        writer.write(b"S")
        await writer.start_tls(context)
        return True

    async with _between(server_url, greet) as url:
        yield url


@asynccontextmanager
async def far_away(server_url: str, seconds: float) -> AsyncIterator[str]:
    """Delay everything that a client sends; yield the URL, at `localhost`."""
    async with _between(server_url, seconds=seconds) as url:
        yield url


@dataclass
class Losses:
    """Connections that are still to be cut after a commit, before the client gets the answer."""

    url: str = ""
    left: int = 0


@asynccontextmanager
async def losing_answers(server_url: str) -> AsyncIterator[Losses]:
    """Cut as many connections as `left` says, each when the server has answered a COMMIT; yield these losses."""
    losses = Losses()
    async with _between(server_url, losses=losses) as losses.url:
        yield losses


@asynccontextmanager
async def _between(
    server_url: str, greet: Greet | None = None, seconds: float = 0, losses: Losses | None = None
) -> AsyncIterator[str]:
    """Listen in front of a server on a Unix socket."""
    parts = urlsplit(server_url)
    query = parse_qs(parts.query)
    path = f"{query['host'][0]}/.s.PGSQL.{query.get('port', ['5432'])[0]}"
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]  # it runs in one
        try:
            if greet is not None and not await greet(reader, writer):
                return
            inward, outward = await asyncio.open_unix_connection(path)
            try:
                is_cut = asyncio.Event()
                lose = _cut_at_commit(losses, is_cut) if losses is not None else None
                await asyncio.gather(_pass_on(reader, outward, seconds, lose), _pass_on(inward, writer, is_cut=is_cut))
            finally:
                outward.close()
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
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


def _cut_at_commit(losses: Losses, is_cut: asyncio.Event) -> Callable[[bytes], None]:
    def look_at(data: bytes) -> None:
        if losses.left and b"COMMIT;\0" in data:
            losses.left -= 1
            is_cut.set()

    return look_at


async def _pass_on(
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    seconds: float = 0,
    look_at: Callable[[bytes], None] | None = None,
    is_cut: asyncio.Event | None = None,
) -> None:
    while data := await source.read(65536):
        if seconds:
            await asyncio.sleep(seconds)
        if look_at is not None:
            look_at(data)
        if is_cut is not None and is_cut.is_set():
            break
        sink.write(data)
    with suppress(OSError):
        sink.close()
