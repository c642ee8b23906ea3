"""Connections to the warehouse: the schema on the search path, values by `codecs`, failures as `DatabaseError`."""

from __future__ import annotations

import re
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit, urlunsplit

import asyncpg

from etl.db.codecs import prepare, prepare_to_load
from etl.db.pooling import not_passed_on, refuse_what_pools_lose
from etl.errors import DatabaseError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable

_CONNECT_TIMEOUT_S = 15
_SEND_BUFFER_BYTES = 1_000_000
_OLDEST = 14  # major version of PostgreSQL

_OF_LIBPQ_ALONE = re.compile(
    r"(channel_binding|client_encoding|connect_timeout|fallback_application_name|gssencmode|keepalives\w*"
    r"|load_balance_hosts|sslcompression|sslsni|tcp_user_timeout)="
)
"""Parameters of a URL that asyncpg would send to the server, which knows none of them."""

# What asyncpg raises when a server cannot be reached or its URL cannot be used.
_CONNECT_FAILURES = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError)


_REFUSALS: tuple[tuple[tuple[type[Exception], ...], str, str], ...] = (
    (
        (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError),
        "refused the login",
        "Check the user and password in database.url, and the server's pg_hba.conf.",
    ),
    (
        (asyncpg.InsufficientPrivilegeError,),
        "refused the login",
        "Let the owner of the database run: GRANT CONNECT ON DATABASE <database> TO <role>;",
    ),
    ((asyncpg.UndefinedObjectError,), "refused the connection", "Take that parameter out of database.url."),
    (
        (asyncpg.TooManyConnectionsError, asyncpg.CannotConnectNowError),
        "takes no connection now",
        (
            "Try again when it has started or others have left; a sync takes up to 7 connections: raise "
            "max_connections, or the role's CONNECTION LIMIT, if it happens often."
        ),
    ),
)
"""How a server that is reached says no, what that means, and the hint."""


async def connect(
    url: str,
    schema: str,
    *,
    application_name: str = "cortex-etl",
    statement_timeout: float | None = None,
    read_only: bool = False,
) -> asyncpg.Connection:
    """Open one connection on which unqualified names mean `schema`'s.

    Args:
        url: `postgresql://` or `postgres://`, with what libpq knows as parameters (`host`, `sslmode`, ...).
        schema: name of the schema; it need not exist yet.
        application_name: what `pg_stat_activity` shows.
        statement_timeout: time limit of each statement in seconds; None sets none.
        read_only: make every transaction read-only unless it says otherwise.

    Raises:
        DatabaseError: the server cannot be reached, refuses, or the URL cannot be used.
    """
    url = _for_driver(url)
    settings = _server_settings(schema, application_name)
    if statement_timeout is not None:
        settings["statement_timeout"] = str(max(1, round(statement_timeout * 1000)))
    if read_only:
        settings["default_transaction_read_only"] = "on"
    connecting = asyncpg.connect(url, server_settings=settings, timeout=_CONNECT_TIMEOUT_S)
    connection: asyncpg.Connection = await _reach(connecting, url, schema)
    try:
        _refuse_older_servers(connection, url)
        _refuse_other_encodings(connection, url)
        await refuse_what_pools_lose(connection, url, _place(url), schema)
        await prepare(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


def _refuse_older_servers(connection: asyncpg.Connection, url: str) -> None:
    """Migrations and statements use what came with PostgreSQL 14.

    Raises:
        DatabaseError: the server is older.
    """
    version = connection.get_server_version()
    if version.major < _OLDEST:
        raise DatabaseError(
            f"PostgreSQL {version.major}.{version.minor} at {_place(url)} is too old.",
            hint=f"Use PostgreSQL {_OLDEST} or newer.",
        )


def _refuse_other_encodings(connection: asyncpg.Connection, url: str) -> None:
    """Payloads hold every character there is.

    Raises:
        DatabaseError: the database cannot hold them.
    """
    encoding = connection.get_settings().server_encoding
    if encoding != "UTF8":
        raise DatabaseError(
            f"The database at {_place(url)} is encoded in {encoding}, which cannot hold every text.",
            hint="Create one with: createdb --encoding=UTF8 --template=template0 NAME, and name it in database.url.",
        )


class _Loading(asyncpg.Connection):
    """A connection that loads: nothing on it outlasts a transaction, but locks that who took them gives back."""

    def __init__(self, protocol: Any, transport: asyncio.Transport, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        connected = transport.get_extra_info("socket")
        # So that PostgreSQL has rows to go on with while others are made. Of TCP the kernel sees to that by itself.
        if connected is not None and connected.family == socket.AF_UNIX:
            with suppress(OSError):  # the system may allow less
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)

    def get_reset_query(self) -> str:
        """Nothing: it would be one round trip more for each time that the pool gets the connection back."""
        return ""


async def create_pool(
    url: str, schema: str, *, size: int, application_name: str = "cortex-etl"
) -> asyncpg.Pool[asyncpg.Record]:
    """Open a pool of at most `size` connections made as by `connect`; one is open when this returns.

    Raises:
        DatabaseError: as of `connect`.
    """
    opening = asyncpg.create_pool(
        _for_driver(url),
        min_size=1,
        max_size=size,
        connection_class=_Loading,
        init=prepare_to_load,
        server_settings=_server_settings(schema, application_name),
        timeout=_CONNECT_TIMEOUT_S,
    )
    pool: asyncpg.Pool[asyncpg.Record] = await _reach(opening, url, schema)
    return pool


def _for_driver(url: str) -> str:
    """The URL without what only libpq understands."""
    place, mark, query = url.partition("?")
    kept = [each for each in query.split("&") if not _OF_LIBPQ_ALONE.match(each)]
    return f"{place}{mark}{'&'.join(kept)}"


def _server_settings(schema: str, application_name: str) -> dict[str, str]:
    # The catalogue comes first wherever it is not named, so that no table of the schema can stand in for one of its.
    return {"application_name": application_name, "search_path": quote_identifier(schema), "timezone": "UTC"}


def quote_identifier(name: str) -> str:
    """`name` as SQL takes it for a name, whatever characters it holds.

    Raises:
        DatabaseError: PostgreSQL has no such name: empty, longer than 63 bytes, or with a NUL.
    """
    if not name or "\0" in name or len(name.encode(errors="replace")) > 63:
        raise DatabaseError(
            f"{name!r} cannot be the name of a schema.", hint="Set database.schema to a name of 1 to 63 characters."
        )
    return '"' + name.replace('"', '""') + '"'


def redact_url(url: str) -> str:
    """`url` with every password in it replaced by `***`, fit for logs and messages."""
    try:
        parts = urlsplit(url)
        user, at, place = parts.netloc.rpartition("@")
    except ValueError:
        return "***"
    netloc = f"{user.partition(':')[0]}:***@{place}" if ":" in user else f"{user}{at}{place}"
    query = re.sub(r"(?i)(^|&)((?:ssl)?password)=[^&]*", r"\1\2=***", parts.query)
    return urlunsplit((parts.scheme, netloc, parts.path, query, ""))


def embedded_url(socket_dir: str, user: str, database: str) -> str:
    """The URL of a database that is reached over a Unix socket in `socket_dir`, whatever PGPORT says."""
    return f"postgresql://{quote(user)}@/{quote(database)}?host={quote(socket_dir)}&port=5432"


def refused_right(refusal: asyncpg.PostgresError, schema: str) -> DatabaseError:
    """The error for a right that the role lacks on `schema`."""
    return DatabaseError(
        f'The database role may not do this in the schema "{schema}": {refusal}',
        hint=f"Let an owner of the database run: CREATE SCHEMA {quote_identifier(schema)} AUTHORIZATION <role>; "
        "or grant the role what the message names.",
    )


async def _reach(opening: Awaitable[Any], url: str, schema: str) -> Any:
    try:
        return await opening
    except asyncpg.ProtocolViolationError as failure:
        if "startup parameter" in str(failure):
            raise not_passed_on(_place(url), schema) from None
        raise _unreachable(failure, url) from None
    except _CONNECT_FAILURES as failure:
        # The chain is cut: the driver's own message may quote the URL with its password.
        raise _unreachable(failure, url) from None


def _unreachable(failure: Exception, url: str) -> DatabaseError:
    place = _place(url)
    if isinstance(failure, asyncpg.InvalidCatalogNameError):
        return DatabaseError(
            f"PostgreSQL at {place} has no such database.", hint="Create it with createdb, or hint database.url."
        )
    for kinds, words, hint in _REFUSALS:
        if isinstance(failure, kinds):
            return DatabaseError(f"PostgreSQL at {place} {words}: {_clean(failure, url)}", hint=hint)
    no_file = isinstance(failure, FileNotFoundError) and "sslrootcert" in url
    if isinstance(failure, ssl.SSLError) or "root certificate" in str(failure) or no_file:
        return DatabaseError(
            f"No TLS connection to PostgreSQL at {place}: {_clean(failure, url)}",
            hint="Check sslmode and sslrootcert in database.url.",
        )
    if isinstance(failure, TimeoutError):
        reason = f"no answer within {_CONNECT_TIMEOUT_S} s"
    else:
        reason = _clean(failure, url) or type(failure).__name__
    return DatabaseError(
        f"PostgreSQL cannot be reached at {place}: {reason}",
        hint="Check that it runs, and the host, port and database in database.url "
        "(leave it empty for the embedded PostgreSQL).",
    )


def _place(url: str) -> str:
    """Host, port and database of a URL, in words."""
    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        host = query.get("host", [""])[0] or parts.netloc.rpartition("@")[2] or "localhost"
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in {"postgresql", "postgres"}:
        return "the address in database.url"
    port = "" if ":" in host or host.startswith("/") else ":" + query.get("port", ["5432"])[0]
    database = unquote(parts.path.lstrip("/")) or query.get("dbname", query.get("database", [""]))[0]
    return f"{host}{port}" + (f', database "{database}"' if database else "")


def _clean(failure: Exception, url: str) -> str:
    """The failure's message without the URL's password, should it quote it."""
    message = str(failure).strip()
    try:
        parts = urlsplit(url)
        passwords = [parts.password or "", *parse_qs(parts.query).get("password", [])]
    except ValueError:
        return type(failure).__name__
    for password in passwords:
        for form in {password, unquote(password)} - {""}:
            message = message.replace(form, "***")
    return message
