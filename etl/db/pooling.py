"""Detection of poolers such as PgBouncer, and refusal of those that do not preserve sessions.

A sync depends on the state of its session: advisory locks, temporary tables, prepared statements, search_path. A pooler
in session mode preserves it; in transaction mode, each transaction may use another server connection.
"""

from __future__ import annotations

import asyncpg

from etl.errors import DatabaseError

_ROUNDS = 3

_LOST_STATEMENT = (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError)
"""Errors of prepared statements that are executed on another server connection than the one that prepared them."""


async def refuse_unsuitable_pooler(connection: asyncpg.Connection, url: str, place: str) -> None:
    """Detect whether a pooler is in use, and check that it preserves sessions.

    Args:
        connection: a new connection to the server or pooler.
        url: the URL of the connection, for opening two more connections if there is a pooler.
        place: host, port and database, for messages.

    Raises:
        DatabaseError: the pooler does not preserve the session between transactions.
    """
    try:
        # A pooler reports a process id of its own to clients.
        if await connection.fetchval("SELECT pg_backend_pid()") == connection.get_server_pid():
            return
        if await _preserves_sessions(url):
            return
    except _LOST_STATEMENT:
        pass
    raise DatabaseError(
        f"the server at {place} is a pooler in transaction mode, which loses locks and temporary tables",
        hint="Connect to PostgreSQL directly (usually on port 5432), or to a pool with pool_mode = session.",
    )


async def _preserves_sessions(url: str) -> bool:
    """Return whether a connection keeps its server process while another connection is active."""
    first = await asyncpg.connect(url, statement_cache_size=0)
    try:
        second = await asyncpg.connect(url, statement_cache_size=0)
        try:
            pid = await _backend_pid(first)
            for _ in range(_ROUNDS):
                if await _backend_pid(second) == pid or await _backend_pid(first) != pid:
                    return False
            return True
        finally:
            second.terminate()
    finally:
        first.terminate()


async def _backend_pid(connection: asyncpg.Connection) -> int:
    async with connection.transaction():
        pid: int = await connection.fetchval("SELECT pg_backend_pid()")
    return pid
