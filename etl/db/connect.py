"""Connections to the warehouse, with its schema as search_path, codecs for values, and errors with hints."""

from __future__ import annotations

import re
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit, urlunsplit

import asyncpg

from etl.db.codecs import prepare, prepare_to_load
from etl.db.pooling import refuse_unsuitable_pooler
from etl.errors import DatabaseError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable

_CONNECT_TIMEOUT_S = 15
_SEND_BUFFER_BYTES = 1_000_000
_MIN_VERSION = 14  # major version of PostgreSQL

_LIBPQ_ONLY = re.compile(
    r"(channel_binding|client_encoding|connect_timeout|fallback_application_name|gssencmode|keepalives\w*"
    r"|load_balance_hosts|sslcompression|sslsni|tcp_user_timeout)="
)
"""URL parameters that asyncpg would send to the server, which does not know them."""

# Raised by asyncpg if a server cannot be reached or its URL is invalid.
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
    ((asyncpg.UndefinedObjectError,), "refused the connection", "Remove this parameter from database.url."),
    (
        (asyncpg.TooManyConnectionsError, asyncpg.CannotConnectNowError),
        "does not accept connections now",
        (
            "Try again later. A sync uses up to 7 connections: if this happens often, raise max_connections or the "
            "CONNECTION LIMIT of the role."
        ),
    ),
)
"""Errors of a reachable server, what they mean, and the hint."""


async def connect(
    url: str,
    schema: str,
    *,
    application_name: str = "cortex-etl",
) -> asyncpg.Connection:
    """Open a connection whose search_path is `schema`.

    Args:
        url: `postgresql://` or `postgres://`, with parameters of libpq (`host`, `sslmode`, ...).
        schema: name of the schema; it need not exist yet.
        application_name: the name shown in `pg_stat_activity`.

    Raises:
        DatabaseError: the server cannot be reached or refuses the connection, or the URL is invalid.
    """
    url = _for_driver(url)
    connecting = asyncpg.connect(url, server_settings=_startup(application_name), timeout=_CONNECT_TIMEOUT_S)
    connection: asyncpg.Connection = await _reach(connecting, url)
    try:
        _refuse_older_servers(connection, url)
        _refuse_other_encodings(connection, url)
        await refuse_unsuitable_pooler(connection, url, _place(url))
        await _search(connection, schema)
        await prepare(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


def _refuse_older_servers(connection: asyncpg.Connection, url: str) -> None:
    """Check the version: migrations and statements use features of PostgreSQL 14.

    Raises:
        DatabaseError: the server is too old.
    """
    version = connection.get_server_version()
    if version.major < _MIN_VERSION:
        raise DatabaseError(
            f"PostgreSQL {version.major}.{version.minor} at {_place(url)} is too old.",
            hint=f"Use PostgreSQL {_MIN_VERSION} or newer.",
        )


def _refuse_other_encodings(connection: asyncpg.Connection, url: str) -> None:
    """Check the encoding: payloads may contain any character.

    Raises:
        DatabaseError: the encoding is not UTF8.
    """
    encoding = connection.get_settings().server_encoding
    if encoding != "UTF8":
        raise DatabaseError(
            f"The database at {_place(url)} has the encoding {encoding}, which cannot store all characters.",
            hint="Create a database with: createdb --encoding=UTF8 --template=template0 NAME, and set database.url.",
        )


class _LoadingConnection(asyncpg.Connection):
    """A connection for loading, without session state except locks, which are released explicitly."""

    def __init__(self, protocol: Any, transport: asyncio.Transport, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        connected = transport.get_extra_info("socket")
        # Give PostgreSQL rows to process while others are normalized. TCP buffers grow automatically.
        if connected is not None and connected.family == socket.AF_UNIX:
            with suppress(OSError):  # the system may allow less
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)

    def get_reset_query(self) -> str:
        """Return no statement, which saves a round trip whenever the connection is released to the pool."""
        return ""


async def create_pool(
    url: str, schema: str, *, size: int, application_name: str = "cortex-etl"
) -> asyncpg.Pool[asyncpg.Record]:
    """Open a pool of at most `size` connections configured as by `connect`, one of them immediately.

    Raises:
        DatabaseError: see `connect`.
    """

    async def begin(connection: asyncpg.Connection) -> None:
        await _search(connection, schema)
        await prepare_to_load(connection)

    opening = asyncpg.create_pool(
        _for_driver(url),
        min_size=1,
        max_size=size,
        connection_class=_LoadingConnection,
        init=begin,
        server_settings=_startup(application_name),
        timeout=_CONNECT_TIMEOUT_S,
    )
    pool: asyncpg.Pool[asyncpg.Record] = await _reach(opening, url)
    return pool


def _for_driver(url: str) -> str:
    """Return the URL without parameters that only libpq supports."""
    base, mark, query = url.partition("?")
    kept = [each for each in query.split("&") if not _LIBPQ_ONLY.match(each)]
    return f"{base}{mark}{'&'.join(kept)}"


def _startup(application_name: str) -> dict[str, str]:
    """Return the startup parameters: poolers know these two, and refuse others."""
    return {"application_name": application_name, "timezone": "UTC"}


async def _search(connection: asyncpg.Connection, schema: str) -> None:
    # pg_catalog is searched first if it is not named, so that no table of the schema can hide one of the catalog.
    await connection.execute(f"SET search_path TO {quote_identifier(schema)}")


def quote_identifier(name: str) -> str:
    """Quote an identifier for SQL.

    Raises:
        DatabaseError: the name is not a valid identifier: empty, longer than 63 bytes, or with a NUL.
    """
    if not name or "\0" in name or len(name.encode(errors="replace")) > 63:
        raise DatabaseError(
            f"{name!r} cannot be the name of a schema.", hint="Set database.schema to a name of 1 to 63 characters."
        )
    return '"' + name.replace('"', '""') + '"'


def redact_url(url: str) -> str:
    """Replace every password in a URL by `***`."""
    try:
        parts = urlsplit(url)
        user, at, place = parts.netloc.rpartition("@")
    except ValueError:
        return "***"
    netloc = f"{user.partition(':')[0]}:***@{place}" if ":" in user else f"{user}{at}{place}"
    query = re.sub(r"(?i)(^|&)((?:ssl)?password)=[^&]*", r"\1\2=***", parts.query)
    return urlunsplit((parts.scheme, netloc, parts.path, query, ""))


def embedded_url(socket_dir: str, user: str, database: str) -> str:
    """Return the URL of a database on a Unix socket in `socket_dir`, independent of PGPORT."""
    return f"postgresql://{quote(user)}@/{quote(database)}?host={quote(socket_dir)}&port=5432"


def missing_privilege(refusal: asyncpg.PostgresError, schema: str) -> DatabaseError:
    """Return the error for a missing privilege on `schema`."""
    return DatabaseError(
        f'The database role may not do this in the schema "{schema}": {refusal}',
        hint=f"Let an owner of the database run: CREATE SCHEMA {quote_identifier(schema)} AUTHORIZATION <role>; "
        "or grant the role the privilege named in the message.",
    )


async def _reach(opening: Awaitable[Any], url: str) -> Any:
    try:
        return await opening
    except _CONNECT_FAILURES as failure:
        # Drop the cause: the driver's message may contain the URL with its password.
        raise _unreachable(failure, url) from None


def _unreachable(failure: Exception, url: str) -> DatabaseError:
    place = _place(url)
    if isinstance(failure, asyncpg.InvalidCatalogNameError):
        return DatabaseError(
            f"PostgreSQL at {place} has no such database.", hint="Create it with createdb, or fix database.url."
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
        reason = f"no response within {_CONNECT_TIMEOUT_S} s"
    else:
        reason = _clean(failure, url) or type(failure).__name__
    return DatabaseError(
        f"PostgreSQL cannot be reached at {place}: {reason}",
        hint="Check that it is running, and check the host, port and database in database.url "
        "(leave it empty to use the embedded PostgreSQL).",
    )


def _place(url: str) -> str:
    """Describe the host, port and database of a URL."""
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
    """Return the message of a failure without the password of the URL."""
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
