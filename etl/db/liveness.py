"""Connections that detect a dead server, and that a server can close when the client is dead.

If a firewall drops packets or a host freezes, the connection stays open and no answer arrives. Therefore every
statement has a time limit. TCP keepalives detect a dead server earlier. PostgreSQL is set to send keepalives too, so
that it releases the locks of a dead client.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg

from etl.db.refusals import DRIVER_ERRORS

if TYPE_CHECKING:
    from collections.abc import Coroutine

OUTAGE_S = 60.0
"""How long a sync waits for an unreachable PostgreSQL before it fails (exit code 4), in seconds."""

COMMIT_TIMEOUT_S = 4.0
"""How long an interrupted process waits for the commit in progress, in seconds."""

_CANCEL_S = 1.0  # time limit for the server to confirm that it cancelled a statement
_CLOSE_S = 1.0  # time limit for the server to close a connection
_SEND_BUFFER_BYTES = 1_000_000

_TCP_OPTIONS = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}
"""libpq parameters and their socket options, by name in the module `socket`; a system may lack some of them."""


@dataclass(frozen=True, slots=True)
class Keepalives:
    """The libpq parameters for detecting a dead server. The defaults detect it within a minute.

    Attributes:
        keepalives: whether to send keepalives.
        keepalives_idle: seconds of inactivity before the first keepalive.
        keepalives_interval: seconds between keepalives.
        keepalives_count: number of lost keepalives after which the connection counts as dead.
        tcp_user_timeout: milliseconds that sent data may stay unacknowledged.
    """

    keepalives: int = 1
    keepalives_idle: int = 30
    keepalives_interval: int = 10
    keepalives_count: int = 3
    tcp_user_timeout: int = 60_000

    def apply(self, connected: socket.socket) -> None:
        """Set the parameters on a socket; a value of 0 or less keeps the system's default, as in libpq."""
        if connected.family == socket.AF_UNIX or not self.keepalives:
            return
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, option in _TCP_OPTIONS.items():
            value = getattr(self, name)
            if value > 0 and hasattr(socket, option):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


class LiveConnection(asyncpg.Connection):
    """A connection that is closed if its server does not answer.

    When a statement exceeds `command_timeout` or its task is cancelled, asyncpg sends a cancel request and waits
    without a limit for the confirmation.
    """

    def __init__(self, protocol: Any, transport: asyncio.Transport, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        self._resume_writing = protocol.resume_writing
        self._socket: socket.socket = transport.get_extra_info("socket")

    def keep_alive(self, keepalives: Keepalives) -> None:
        """Set the keepalive parameters of the connection."""
        keepalives.apply(self._socket)

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as in asyncpg
        """Close the connection gracefully if the server answers in time, else forcibly."""
        with suppress(*DRIVER_ERRORS, OSError):
            await super().close(timeout=_CLOSE_S if timeout is None else timeout)
        self.terminate()

    async def copy_records_to_table(self, *args: Any, **options: Any) -> str:
        """Copy records; if the connection is lost, raise asyncpg's error for that.

        Raises:
            asyncpg.ConnectionDoesNotExistError: the connection was lost.
        """
        try:
            return await super().copy_records_to_table(*args, **options)
        except (AttributeError, RuntimeError) as error:  # asyncpg goes on writing to the closed transport
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
        # asyncpg waits without a limit for the server to close prepared statements.
        async with asyncio.timeout(self._config.command_timeout):  # type: ignore[attr-defined] # not part of the stubs
            await super()._cleanup_stmts()  # type: ignore[misc] # not part of the stubs

    def _cleanup(self) -> None:
        super()._cleanup()  # type: ignore[misc] # not part of the stubs
        self._resume_writing()  # wake a COPY that waits for its buffer to drain


class LoadingConnection(LiveConnection):
    """A connection for loading. Its only session state are locks, which are released explicitly."""

    def __init__(self, protocol: Any, transport: asyncio.Transport, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        # A large buffer lets PostgreSQL process rows while others are normalized. TCP buffers grow automatically.
        if self._socket.family == socket.AF_UNIX:
            with suppress(OSError):  # the system may allow less
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)

    def get_reset_query(self) -> str:
        """Return no statement, to save a round trip when the connection is released to the pool."""
        return ""


async def finish_commit(commit: Coroutine[Any, Any, None]) -> None:
    """Await a commit. A cancellation is raised only after the commit has ended, or after `COMMIT_TIMEOUT_S`."""
    task = asyncio.ensure_future(commit)
    try:
        await asyncio.wait([task])  # not asyncio.shield, which logs a later failure to stderr
    except asyncio.CancelledError:
        # Retrieve the exception of the commit, because asyncio logs exceptions that are never retrieved.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        await asyncio.wait([task], timeout=COMMIT_TIMEOUT_S)
        raise
    await task
