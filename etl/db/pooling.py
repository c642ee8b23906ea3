"""Poolers such as PgBouncer between the program and PostgreSQL: what loses session features is refused, with the hint.

A sync lives on what a session keeps: advisory locks, temporary tables, prepared statements, its search_path. A pooler
in session mode keeps them all; one in transaction mode hands each transaction to whatever server connection is free.
"""

from __future__ import annotations

import asyncpg

from etl.errors import DatabaseError

_ROUNDS = 3
_TIMEOUT_S = 15

_LOST_STATEMENT = (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError)
"""What prepared statements run into when another server connection answers than the one that prepared them."""

_DIRECTLY = "Connect to PostgreSQL itself (its own port, usually 5432), or to a pool with pool_mode = session"


async def refuse_what_pools_lose(connection: asyncpg.Connection, url: str, place: str, schema: str) -> None:
    """Look whether a pooler stands between, and whether it keeps what a session needs.

    Args:
        connection: fresh, to the server or pooler.
        url: of it, for two more connections where there is a pooler.
        place: of it, in words.
        schema: that unqualified names must mean.

    Raises:
        DatabaseError: it loses the session from one transaction to the next, or passes the search_path not on.
    """
    try:
        # A pooler makes up the process id that it gives a client.
        row = await connection.fetchrow("SELECT pg_backend_pid() AS pid, current_setting('search_path') AS path")
        if row is None or row["pid"] == connection.get_server_pid():
            return
        keeps = await _keeps_its_server(url)
    except _LOST_STATEMENT:
        keeps = False
    else:
        if keeps and row["path"].strip('"') == schema:
            return
    if keeps:
        raise not_passed_on(place, schema)
    raise DatabaseError(
        f"A pooler in transaction mode stands at {place}: locks and temporary tables are lost between transactions.",
        hint=f"{_DIRECTLY}.",
    )


def not_passed_on(place: str, schema: str) -> DatabaseError:
    """The error for a pooler that refuses or drops the search_path."""
    return DatabaseError(
        f"A pooler stands at {place} that does not pass search_path on.",
        hint=f"{_DIRECTLY}, ignore_startup_parameters = search_path, and for the role in PostgreSQL: "
        f"ALTER ROLE <role> SET search_path TO {schema};",
    )


async def _keeps_its_server(url: str) -> bool:
    """Whether a connection stays with one server process while another one is at work."""
    first = await asyncpg.connect(url, statement_cache_size=0, timeout=_TIMEOUT_S)
    try:
        second = await asyncpg.connect(url, statement_cache_size=0, timeout=_TIMEOUT_S)
        try:
            mine = await _server_of(first)
            for _ in range(_ROUNDS):
                if await _server_of(second) == mine or await _server_of(first) != mine:
                    return False
            return True
        finally:
            await second.close()
    finally:
        await first.close()


async def _server_of(connection: asyncpg.Connection) -> int:
    async with connection.transaction():
        number: int = await connection.fetchval("SELECT pg_backend_pid()")
    return number
