"""Connection parameters from a database URL, and connection errors with hints."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

import asyncpg

from etl.config.libpq import DEFAULT_PORT, hosts_and_ports, parameters_of, url_of
from etl.db.liveness import Keepalives
from etl.db.refusals import TOO_MANY_CONNECTIONS, is_of_full_pool
from etl.errors import DatabaseError

_IGNORED = (
    "channel_binding",
    "client_encoding",
    "fallback_application_name",
    "gssencmode",
    "load_balance_hosts",
    "sslcompression",
    "sslsni",
)
"""libpq parameters that asyncpg would pass to the server, which does not support them."""

# Raised by asyncpg if a server cannot be reached or its URL is invalid.
CONNECT_FAILURES = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.TargetServerAttributeNotMatched,
    ValueError,
)

_REFUSALS: tuple[tuple[tuple[type[Exception], ...], str, str], ...] = (
    (
        (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError),
        "refused the login",
        "Check the user and password in database.url (or read_url), and the server's pg_hba.conf.",
    ),
    (
        (asyncpg.InsufficientPrivilegeError,),
        "refused the login",
        "Let the owner of the database run: GRANT CONNECT ON DATABASE <database> TO <role>;",
    ),
    (
        (asyncpg.UndefinedObjectError, asyncpg.ProtocolViolationError),
        "refused the connection",
        "Remove this parameter from database.url (or read_url), or correct what the message names.",
    ),
    (
        (asyncpg.TooManyConnectionsError, asyncpg.CannotConnectNowError),
        "does not accept connections now",
        TOO_MANY_CONNECTIONS,
    ),
)
"""Errors of a reachable server: exception types, the words for the message, and the hint."""


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a database.

    Attributes:
        urls: URLs for the driver, one per host, to be tried in order.
        place: the hosts, ports and database, for messages.
        is_socket: whether all hosts are Unix sockets, which need no TLS.
        connect_timeout_s: time limit for connecting to one host, in seconds; 0 if the URL sets none.
        keepalives: keepalive settings of the connections.
        password: the password; '' if there is none.
    """

    urls: tuple[str, ...] = field(repr=False)
    place: str
    is_socket: bool
    connect_timeout_s: int
    keepalives: Keepalives
    password: str = field(repr=False)

    @classmethod
    def of(cls, url: str) -> Address:
        """Parse a URL with libpq parameters.

        Raises:
            DatabaseError: the URL is invalid.
        """
        try:
            found = {name: value for name, value in parameters_of(url).items() if name not in _IGNORED}
        except ValueError as error:
            raise DatabaseError(
                f"PostgreSQL cannot be reached at the address in database.url: expected {error}",
                hint="Correct database.url.",
            ) from None
        connect_timeout_s = _pop_integer(found, "connect_timeout") or 0
        numbers = {name: number for name in Keepalives.__slots__ if (number := _pop_integer(found, name)) is not None}
        session = found.setdefault("target_session_attrs", "any")  # otherwise asyncpg reads it from the environment
        places = hosts_and_ports(found)
        per_host = [found | {"host": host, "port": port} for host, port in places]
        if session == "prefer-standby":  # asyncpg has to know all hosts to choose one
            per_host = [found]
        return cls(
            tuple(url_of({name: value for name, value in each.items() if value}) for each in per_host),
            _describe(places, found.get("dbname", "")),
            all(host.startswith(("/", "@")) for host, _ in places),
            connect_timeout_s,
            Keepalives(**numbers),
            found.get("password", ""),
        )

    def refusal(self, failure: Exception, limit_s: float) -> DatabaseError:
        """Return the error for one of `CONNECT_FAILURES`."""
        if isinstance(failure, asyncpg.InvalidCatalogNameError):
            return DatabaseError(
                f"the database does not exist: {self.place}",
                hint="Create it with createdb, or correct database.url (or read_url).",
            )
        message = self._message_of(failure)
        if is_of_full_pool(message):
            failure = asyncpg.TooManyConnectionsError(message)
        for kinds, words, hint in _REFUSALS:
            if isinstance(failure, kinds):
                return DatabaseError(f"PostgreSQL at {self.place} {words}: {message}", hint=hint)
        no_file = isinstance(failure, FileNotFoundError) and "sslrootcert" in self.urls[0]
        if isinstance(failure, ssl.SSLError) or "root certificate" in str(failure) or no_file:
            return DatabaseError(
                f"no TLS connection to PostgreSQL at {self.place}: {message}",
                hint="Check sslmode and sslrootcert in database.url (or read_url).",
            )
        if isinstance(failure, TimeoutError):
            reason = f"no response within {limit_s:g} s"
        else:
            reason = message or type(failure).__name__
        return DatabaseError(
            f"PostgreSQL cannot be reached at {self.place}: {reason}",
            hint="Check that it is running, and check the host, port and database in database.url "
            "(or read_url; leave url empty to use the embedded PostgreSQL).",
        )

    def _message_of(self, failure: Exception) -> str:
        """Return the message of an exception with the password masked."""
        message = str(failure).strip()
        for form in {self.password, quote(self.password, safe=""), unquote(self.password)} - {""}:
            message = message.replace(form, "***")
        return message


def _pop_integer(parameters: dict[str, str], name: str) -> int | None:
    """Remove a parameter and return its value; None if it is missing.

    Raises:
        DatabaseError: the value is not an integer.
    """
    text = parameters.pop(name, None)
    try:
        return None if text is None else int(text)
    except ValueError:
        raise DatabaseError(
            f"{name} in database.url is not a whole number", hint="Write a number, or remove it."
        ) from None


def _describe(places: list[tuple[str, str]], database: str) -> str:
    shown = []
    for host, port in places:
        name = f"[{host}]" if ":" in host else host or "localhost"
        shown.append(name if name.startswith(("/", "@")) else f"{name}:{port or DEFAULT_PORT}")
    return ",".join(shown) + (f', database "{database}"' if database else "")
