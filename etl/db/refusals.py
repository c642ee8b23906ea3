"""What PostgreSQL ends a whole command with, as errors that say what to do."""

from __future__ import annotations

import asyncpg

from etl.errors import DatabaseError

LOST = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InternalClientError,
)
"""What says that the connection to PostgreSQL is gone, not that it refused something."""

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""All that the driver raises by itself."""

_UNLIMITED = "Lift the role's limit: ALTER ROLE <role> SET {0} = 0;"
_HINTS: tuple[tuple[type[BaseException], str], ...] = (
    (
        asyncpg.ReadOnlySQLTransactionError,
        "Name the primary in database.url, or: ALTER ROLE <role> SET default_transaction_read_only = off;",
    ),
    (asyncpg.QueryCanceledError, _UNLIMITED.format("statement_timeout")),
    (asyncpg.LockNotAvailableError, _UNLIMITED.format("lock_timeout")),
    (asyncpg.DiskFullError, "Make room on the disk of PostgreSQL, then run it again; what was committed stays."),
)


def unusable(error: BaseException) -> DatabaseError:
    """The error for whatever the driver raised, with PostgreSQL's words for it and the hint."""
    said = str(error).strip() or type(error).__name__
    for kind, hint in _HINTS:
        if isinstance(error, kind):
            return DatabaseError(f"PostgreSQL refused: {said}", hint=hint)
    for limit in ("idle-in-transaction", "idle-session"):
        if limit in said:
            name = f"{limit.removesuffix('-session').replace('-', '_')}_session_timeout"
            return DatabaseError(f"PostgreSQL ended the connection: {said}", hint=_UNLIMITED.format(name))
    if isinstance(error, LOST):
        return DatabaseError(f"PostgreSQL went away: {said}", hint="Look at PostgreSQL's log, then run it again.")
    return DatabaseError(
        f"PostgreSQL refused: {said}",
        hint="Let the role do what the message names, or see to the server; what was committed stays.",
    )
