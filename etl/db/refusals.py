"""Convert errors, above all those of the driver, to errors with hints."""

from __future__ import annotations

import re

import asyncpg

from etl.errors import DISK_FULL, FREE_DISK_SPACE, DatabaseError, EtlError, explain

LOST = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
)
"""Errors that mean a lost connection, rather than a refused statement."""

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""All errors raised by the driver."""


DAMAGED = (
    "Restore what is missing from a backup; views and functions alone also with their statements in migrations/*.sql. "
    "Or start over: drop the schema (with the embedded server, remove data_dir), then run cortex-etl backfill. Runs "
    "that the API no longer lists are lost with it."
)
"""The hint for a schema in which tables, views, columns or functions are missing."""

TOO_MANY_CONNECTIONS = (
    "Try again later. A sync uses up to 7 connections: if this happens often, raise max_connections, the "
    "CONNECTION LIMIT of the role, or default_pool_size and max_client_conn of PgBouncer."
)

_FULL_POOL = ("query_wait_timeout", "no more connections allowed")  # messages of PgBouncer

_MISSING = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedFunctionError)


def is_of_full_pool(message: str) -> bool:
    """Return whether PgBouncer says that it has no connection for a client."""
    return any(each in message for each in _FULL_POOL)


def unusable(error: BaseException) -> DatabaseError:
    """Return the error for an exception of the driver, with PostgreSQL's message and a hint."""
    message = str(error).strip().partition("\n")[0] or type(error).__name__  # PostgreSQL's details follow
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        return DatabaseError(
            f"PostgreSQL refused: {message}",
            hint="Name the primary in database.url, or: ALTER ROLE <role> SET default_transaction_read_only = off;",
        )
    if isinstance(error, asyncpg.DiskFullError):
        return DatabaseError(f"the disk of PostgreSQL is full: {error.args[0]}", hint=FREE_DISK_SPACE)
    if isinstance(error, _MISSING):
        return DatabaseError(f"the schema of the warehouse is damaged: {message}", hint=DAMAGED)
    if isinstance(error, TimeoutError):
        return DatabaseError(
            "PostgreSQL did not answer in time",
            hint="Check that its host and the network work, and that no session blocks this one (pg_blocking_pids). "
            "If the server is only slow, raise database.timeout_s.",
        )
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        message = "it was closed"  # the message of the driver is about its own state
    if isinstance(error, LOST):
        hint = TOO_MANY_CONNECTIONS if is_of_full_pool(message) else "Check PostgreSQL's log, then run it again."
        return DatabaseError(f"lost the connection to PostgreSQL: {message}", hint=hint)
    hint = "Grant the role what the message names, or fix the server; committed data is kept."
    if isinstance(error, asyncpg.TooManyConnectionsError):
        hint = TOO_MANY_CONNECTIONS
    return DatabaseError(f"PostgreSQL refused: {message}", hint=hint)


def known_error(error: Exception) -> EtlError:
    """Convert an exception to an EtlError with a hint. An OSError without a file name means a lost connection."""
    is_file_error = isinstance(error, OSError) and (error.filename is not None or error.errno in DISK_FULL)
    if isinstance(error, (*DRIVER_ERRORS, *LOST, TimeoutError)) and not is_file_error:
        return unusable(error)
    return explain(error)


_SAFE_MESSAGES = (
    asyncpg.ProgramLimitExceededError,
    asyncpg.StatementTooComplexError,
    asyncpg.IntegrityConstraintViolationError,
)
"""Errors whose message contains limits and constraint names, but no values, which are in the details."""


def describe_refusal(error: BaseException) -> str:
    """Describe why PostgreSQL refused rows, without the values that its message may quote."""
    if not isinstance(error, asyncpg.PostgresError):
        return f"the driver cannot send a value ({type(error).__name__})"
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
    what = str(error.args[0]) if isinstance(error, _SAFE_MESSAGES) else name
    return f"{what} (SQLSTATE {error.sqlstate})"
