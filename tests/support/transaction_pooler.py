"""A pooler like PgBouncer: in transaction mode, each transaction may run on another server connection.

It implements just enough of PostgreSQL's protocol: it greets clients itself, with a fake process id, and forwards their
messages to a server connection until no transaction is open (in session mode: until they disconnect).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102
TRACKED = {
    "user",
    "database",
    "client_encoding",
    "datestyle",
    "timezone",
    "application_name",
    "standard_conforming_strings",
}


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind = await reader.readexactly(1)
    (length,) = struct.unpack("!i", await reader.readexactly(4))
    return kind, await reader.readexactly(length - 4)


@dataclass
class Server:
    """A ready server connection; `greeting` holds the parameters that the server reported."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    greeting: bytes


@dataclass
class Pooler:
    """A pooler that listens at `url`.

    Args:
        server_url: a PostgreSQL server on a Unix socket with trust authentication.
        mode: `transaction` or `session`.

    Attributes:
        is_full: whether new clients get no server connection before `query_wait_timeout` ends.
    """

    server_url: str
    mode: str
    is_full: bool = False
    free: list[Server] = field(default_factory=list)
    opened: list[asyncio.StreamWriter] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    url: str = ""
    clients: int = 0

    async def server(self) -> Server:
        if self.free:
            return self.free.pop()
        parts = urlsplit(self.server_url)
        host = parse_qs(parts.query)["host"][0]
        port = parse_qs(parts.query).get("port", ["5432"])[0]
        reader, writer = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        self.opened.append(writer)
        names = {"user": parts.username or "postgres", "database": parts.path[1:]}
        body = struct.pack("!i", 196608) + b"".join(f"{k}\0{v}\0".encode() for k, v in names.items()) + b"\0"
        writer.write(struct.pack("!i", len(body) + 4) + body)
        greeting = b""
        while True:
            kind, content = await read_message(reader)
            if kind == b"S":
                greeting += message(kind, content)
            elif kind == b"Z":
                return Server(reader, writer, greeting)
            elif kind == b"E":
                raise RuntimeError(content.decode())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened.append(writer)
        self.tasks.add(asyncio.current_task())  # type: ignore[arg-type]  # it runs in one
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            names = await self._greet(reader, writer)
            if names is not None:
                await self._work(reader, writer)
        writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> set[str] | None:
        while True:
            (length,) = struct.unpack("!i", await reader.readexactly(4))
            body = await reader.readexactly(length - 4)
            (code,) = struct.unpack("!i", body[:4])
            if code == CANCEL_REQUEST:
                return None
            if code not in (SSL_REQUEST, GSS_REQUEST):
                break
            writer.write(b"N")
        names = {name.decode().lower() for name in body[4:].split(b"\0")[::2] if name}
        for name in sorted(names - TRACKED):
            text = f"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: {name}\0\0"
            writer.write(message(b"E", text.encode()))
            return None
        server = await self.server()
        self.free.append(server)
        self.clients += 1
        writer.write(message(b"R", struct.pack("!i", 0)) + server.greeting)
        writer.write(message(b"K", struct.pack("!ii", 900_000_000 + self.clients, 1)) + message(b"Z", b"I"))
        return names

    async def _work(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server: Server | None = None
        replies: asyncio.Task[None] | None = None
        try:
            while True:
                kind, body = await read_message(reader)
                if kind == b"X":
                    return
                if replies is not None and replies.done() and self.mode == "transaction":
                    server, replies = None, None
                if server is None and self.is_full:
                    writer.write(message(b"E", b"SFATAL\0VFATAL\0C08P01\0Mquery_wait_timeout\0\0"))
                    return
                if server is None:
                    server = await self.server()
                if replies is None or replies.done():
                    replies = asyncio.create_task(self._reply(server, writer))
                server.writer.write(message(kind, body))
        finally:
            if replies is not None and not replies.done():
                replies.cancel()
            if server is not None and self.mode == "session":
                server.writer.close()

    async def _reply(self, server: Server, writer: asyncio.StreamWriter) -> None:
        """Forward responses until no transaction is open, then release the server connection."""
        while True:
            kind, body = await read_message(server.reader)
            writer.write(message(kind, body))
            if kind == b"Z" and body == b"I":
                if self.mode == "transaction":
                    self.free.append(server)
                return


@asynccontextmanager
async def pooling(server_url: str, mode: str) -> AsyncIterator[Pooler]:
    """Run a pooler in front of a server."""
    pooler = Pooler(server_url, mode)
    listener = await asyncio.start_server(pooler.serve, "127.0.0.1", 0)
    parts = urlsplit(server_url)
    port = listener.sockets[0].getsockname()[1]
    pooler.url = f"postgresql://{parts.username or 'postgres'}@127.0.0.1:{port}{parts.path}"
    try:
        yield pooler
    finally:
        listener.close()
        for task in pooler.tasks:
            task.cancel()
        await asyncio.gather(*pooler.tasks, return_exceptions=True)
        for writer in pooler.opened:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
