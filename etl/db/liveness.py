"""Connections that wait for no server forever, and that no silent client keeps open.

A firewall that drops packets, or a frozen host, closes no connection: whoever waits for an answer waits forever. So
every statement has a time limit. The system's keepalives find out sooner where the other host is gone, and PostgreSQL
is told to send its own, so that it frees the locks of a client that is gone.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Coroutine

OUTAGE_S = 60.0
"""How long a sync waits for PostgreSQL to come back before it fails (exit 4)."""

COMMIT_PATIENCE_S = 4.0
"""How long an interrupted process waits for the commit in progress."""

_CANCEL_S = 1.0  # how long the server may take to confirm that it cancelled a statement
_CLOSE_S = 1.0  # how long it may take to close a connection
_SEND_BUFFER_BYTES = 1_000_000

_TCP_OPTIONS = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}
"""Parameters of libpq, and the names of the socket options in the module `socket`, where the system has them."""


@dataclass(frozen=True, slots=True)
class Keepalives:
    """The parameters of libpq that find out whether the other host is gone: in a minute, unless the URL says otherwise.

    Attributes:
        keepalives: whether to send any.
        keepalives_idle: seconds of silence before the first one.
        keepalives_interval: seconds between them.
        keepalives_count: how many may be lost.
        tcp_user_timeout: milliseconds that sent data may stay unconfirmed.
    """

    keepalives: int = 1
    keepalives_idle: int = 30
    keepalives_interval: int = 10
    keepalives_count: int = 3
    tcp_user_timeout: int = 60_000

    def apply(self, connected: socket.socket) -> None:
        """Set them on a socket; one of 0 or less leaves the system's default, as in libpq."""
        if connected.family == socket.AF_UNIX or not self.keepalives:
            return
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, option in _TCP_OPTIONS.items():
            value = getattr(self, name)
            if value > 0 and hasattr(socket, option):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def is_cancelled() -> bool:
    """Return whether the current task is being cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class LiveConnection(asyncpg.Connection):
    """A connection that is dropped when its server does not answer.

    asyncpg gives each statement `command_timeout` seconds. After that, or when its task is cancelled, it sends a cancel
    request and waits for the server to confirm it, which a silent server never does.
    """

    def __init__(self, protocol: Any, transport: asyncio.Transport, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        self._resume_writing = protocol.resume_writing
        self._socket: socket.socket = transport.get_extra_info("socket")

    def keep_alive(self, keepalives: Keepalives) -> None:
        """Let the system find out whether the other host is gone."""
        keepalives.apply(self._socket)

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as in asyncpg
        """Say goodbye to the server and disconnect, whether it answers or not."""
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await super().close(timeout=_CLOSE_S if timeout is None else timeout)
        self.terminate()

    async def copy_records_to_table(self, *args: Any, **options: Any) -> str:
        """Copy records, with asyncpg's error for a connection that is lost meanwhile."""
        try:
            return await super().copy_records_to_table(*args, **options)
        except (AttributeError, RuntimeError) as error:  # it goes on writing to a transport that is gone
            if not self.is_closed():
                raise
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation") from error

    def _cancel_current_command(self, waiter: asyncio.Future[None], cancel_waiter: asyncio.Future[None]) -> None:
        super()._cancel_current_command(waiter, cancel_waiter)  # type: ignore[misc] # not part of the stubs

        def drop() -> None:
            if not cancel_waiter.done():
                self.terminate()

        asyncio.get_running_loop().call_later(_CANCEL_S, drop)

    async def _cleanup_stmts(self) -> None:
        # asyncpg closes prepared statements that it no longer needs without any limit.
        async with asyncio.timeout(self._config.command_timeout):  # type: ignore[attr-defined] # not part of the stubs
            await super()._cleanup_stmts()  # type: ignore[misc] # not part of the stubs

    def _cleanup(self) -> None:
        super()._cleanup()  # type: ignore[misc] # not part of the stubs
        self._resume_writing()  # a COPY that waits for its buffer to drain would not hear of the end


class LoadingConnection(LiveConnection):
    """A connection for loading, without session state except locks, which are released explicitly."""

    def __init__(self, protocol: Any, transport: asyncio.Transport, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        # Give PostgreSQL rows to process while others are normalized. TCP buffers grow automatically.
        if self._socket.family == socket.AF_UNIX:
            with suppress(OSError):  # the system may allow less
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)

    def get_reset_query(self) -> str:
        """Return no statement, which saves a round trip whenever the connection is released to the pool."""
        return ""


async def finish_commit(commit: Coroutine[Any, Any, None]) -> None:
    """Await a commit; a cancellation that arrives meanwhile is raised only when it has ended and was counted."""
    task = asyncio.ensure_future(commit)
    try:
        await asyncio.wait([task])  # not shield: that tells stderr of a failure that comes later
    except asyncio.CancelledError:
        # Look at its error, or asyncio writes it to stderr; the cancellation says why all ends.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        await asyncio.wait([task], timeout=COMMIT_PATIENCE_S)
        raise
    await task
