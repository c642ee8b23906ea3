"""Connections to the warehouse, with its schema as search_path, value codecs, and errors with hints.

Poolers such as PgBouncer are refused if they do not preserve sessions. A sync depends on the state of its session:
advisory locks, temporary tables, prepared statements, search_path. A pooler in session mode preserves it; in
transaction mode, each transaction may use another server connection.

The codecs convert between Python and PostgreSQL values in the binary format that COPY needs.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from etl.db.address import CONNECT_FAILURES, Address
from etl.db.liveness import LiveConnection, LoadingConnection
from etl.db.statements import statements
from etl.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

LONG_S = 3600.0
"""Time limit in seconds for statements of commands other than sync, such as an export, a migration or a report."""

IDLE_TRANSACTION_S = 30
"""After so many seconds, PostgreSQL ends the transaction of a process that is frozen: its locks would block others."""

_CONNECT_TIMEOUT_S = 15
_SQL = statements("connect")
_MIN_VERSION = 14  # major version of PostgreSQL

_ROUNDS = 3

_LOST_STATEMENT = (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError)
"""Errors of prepared statements that are executed on another server connection than the one that prepared them."""

_JSONB: Final = b"\x01"  # version number, which precedes the text in the binary format of jsonb
_TIME_ZERO: Final = datetime(2000, 1, 1, tzinfo=UTC)  # the binary format of timestamptz counts microseconds from here


async def connect(
    url: str,
    schema: str,
    *,
    application_name: str = "cortex-etl",
    timeout_s: float = LONG_S,
) -> asyncpg.Connection:
    """Open a connection whose search_path is `schema`.

    Args:
        url: a `postgresql://` or `postgres://` URL with libpq parameters (`host`, `sslmode`, ...).
        schema: name of the schema; it need not exist yet.
        application_name: the name shown in `pg_stat_activity`.
        timeout_s: seconds after which a statement without an answer counts as a lost connection.

    Raises:
        DatabaseError: the server cannot be reached or refuses the connection, or the URL is invalid.
    """
    connector = _Connector(url, schema, application_name, timeout_s)
    return await connector.reach(connector.open(LiveConnection, set_codecs, check=True))


async def create_pool(
    url: str,
    schema: str,
    *,
    size: int,
    application_name: str = "cortex-etl",
    timeout_s: float = LONG_S,
    ensure_running: Callable[[], Awaitable[object]] | None = None,
) -> asyncpg.Pool[asyncpg.Record]:
    """Open a pool of at most `size` connections, configured as by `connect`; the first one is opened immediately.

    `ensure_running` is called before each connection is opened; a DatabaseError that it raises counts as a lost
    connection.

    Raises:
        DatabaseError: see `connect`.
    """
    connector = _Connector(url, schema, application_name, timeout_s)

    async def open_one(*_: object, **__: object) -> asyncpg.Connection:
        if ensure_running is not None:
            try:
                await ensure_running()
            except DatabaseError as error:
                raise ConnectionError(error.message) from error
        connection = await connector.open(LoadingConnection, set_loading_codecs)
        await connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_TRANSACTION_S}s'")
        return connection

    opening = asyncpg.create_pool(
        url, init_size=1, min_size=0, max_size=size, connect=open_one, connection_class=LoadingConnection
    )
    pool: asyncpg.Pool[asyncpg.Record] = await connector.reach(opening)
    return pool


class _Connector:
    """Opens connections to one database, all with the same configuration."""

    def __init__(self, url: str, schema: str, application_name: str, timeout_s: float) -> None:
        self._address = Address.of(url)
        self._limit_s = min(timeout_s, self._address.connect_timeout_s or _CONNECT_TIMEOUT_S)
        self._timeout_s = timeout_s
        self._application_name = application_name
        # pg_catalog is not named, so it is searched first, and no table of the schema can hide a system catalog.
        self._search = f"SET search_path = {quote_identifier(schema)}"

    async def open(
        self,
        kind: type[LiveConnection],
        prepare_codecs: Callable[[asyncpg.Connection], Awaitable[None]],
        *,
        check: bool = False,
    ) -> LiveConnection:
        """Open a connection to the first host that answers in time; with `check`, refuse an unsuitable server."""
        *others, last = self._address.urls
        for url in others:
            with suppress(OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched):
                return await self._open(url, kind, prepare_codecs, check=check)
        return await self._open(last, kind, prepare_codecs, check=check)

    async def _open(
        self,
        url: str,
        kind: type[LiveConnection],
        prepare_codecs: Callable[[asyncpg.Connection], Awaitable[None]],
        *,
        check: bool,
    ) -> LiveConnection:
        async with asyncio.timeout(self._limit_s):
            connection: LiveConnection = await asyncpg.connect(
                url,
                connection_class=kind,
                command_timeout=self._timeout_s,
                ssl=False if self._address.is_socket else None,
                password=self._address.password,  # prevents asyncpg from searching for a password elsewhere
                # PgBouncer accepts these two settings and refuses others.
                server_settings={"application_name": self._application_name, "timezone": "UTC"},
            )
            try:
                connection.keep_alive(self._address.keepalives)
                if check:
                    _refuse_older_servers(connection, self._address.place)
                    _refuse_other_encodings(connection, self._address.place)
                    await refuse_unsuitable_pooler(connection, url, self._address.place)
                await connection.execute("; ".join([self._search, *_session_settings(connection)]))
                await prepare_codecs(connection)
            except BaseException:
                connection.terminate()
                raise
            return connection

    async def reach(self, opening: Awaitable[T]) -> T:
        """Await a connection or a pool.

        Raises:
            DatabaseError: the driver could not connect.
        """
        try:
            return await opening
        except CONNECT_FAILURES as failure:
            # Drop the cause: the driver's message may contain the URL with its password.
            raise self._address.refusal(failure, self._limit_s) from None


def _session_settings(connection: asyncpg.Connection) -> list[str]:
    has_all = connection.get_server_version().major >= 17
    return [_SQL["settings"], _SQL["settings_17"]] if has_all else [_SQL["settings"]]


def _refuse_older_servers(connection: asyncpg.Connection, place: str) -> None:
    """Check the version: migrations and statements use features of PostgreSQL 14.

    Raises:
        DatabaseError: the server is too old.
    """
    version = connection.get_server_version()
    if version.major < _MIN_VERSION:
        raise DatabaseError(
            f"PostgreSQL {version.major}.{version.minor} at {place} is too old",
            hint=f"Use PostgreSQL {_MIN_VERSION} or newer.",
        )


def _refuse_other_encodings(connection: asyncpg.Connection, place: str) -> None:
    """Check the encoding: payloads may contain any character.

    Raises:
        DatabaseError: the encoding is not UTF8.
    """
    encoding = connection.get_settings().server_encoding
    if encoding != "UTF8":
        raise DatabaseError(
            f"the database at {place} has the encoding {encoding}, which cannot store all characters",
            hint="Create a database with: createdb --encoding=UTF8 --template=template0 NAME, and set database.url.",
        )


def quote_identifier(name: str) -> str:
    """Quote an identifier for SQL.

    Raises:
        DatabaseError: the name is not a valid identifier: empty, longer than 63 bytes, or with a NUL.
    """
    if not name or "\0" in name or len(name.encode(errors="replace")) > 63:
        raise DatabaseError(
            f"{name!r} cannot be the name of a schema", hint="Set database.schema to a name of 1 to 63 characters."
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
    message = refusal.args[0]  # without PostgreSQL's details
    hint = "Let the owner of the schema grant the role what is missing; cortex-etl doctor names the statement."
    if "for database" in message:  # the schema does not exist yet
        owner = f"CREATE SCHEMA {quote_identifier(schema)} AUTHORIZATION <role>;"
        hint = f"Let an owner of the database run: {owner} or grant the role the privilege named in the message."
    return DatabaseError(f'the database role may not do this in the schema "{schema}": {message}', hint=hint)


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


async def set_codecs(connection: asyncpg.Connection) -> None:
    """Set the codecs of `jsonb` and `timestamptz`.

    `jsonb` is JSON text: `bytes` or `str` in, `str` out. `timestamptz` is a `datetime` with a time zone, or an `int`
    that counts microseconds since 2000-01-01 UTC. asyncpg's own codec is not used, because it converts the earliest and
    the latest datetime to infinity, and returns infinity as a datetime without a time zone.
    """
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_encode_jsonb, decoder=_decode_jsonb, format="binary"
    )
    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", encoder=_encode_time, decoder=_decode_time, format="tuple"
    )


async def set_loading_codecs(connection: asyncpg.Connection) -> None:
    """Set the codecs for loading: `jsonb` and `numeric` are bytes in binary format, as created by `etl.normalize`."""
    await set_codecs(connection)
    for each in ("jsonb", "numeric"):
        await connection.set_builtin_type_codec(each, schema="pg_catalog", codec_name="bytea", format="binary")


def _encode_jsonb(text: bytes | str) -> bytes:
    return _JSONB + (text.encode() if isinstance(text, str) else text)


def _decode_jsonb(value: bytes) -> str:
    return str(value[len(_JSONB) :], "utf-8")


def _encode_time(time: datetime | int) -> tuple[int]:
    if isinstance(time, int):
        return (time,)
    since = time - _TIME_ZERO
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds,)


def _decode_time(value: tuple[int]) -> datetime:
    return _TIME_ZERO + timedelta(microseconds=value[0])
