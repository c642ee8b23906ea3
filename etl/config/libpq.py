"""Complete a database URL as libpq does, from its service, the variables PG*, and the password file.

https://www.postgresql.org/docs/current/libpq-connect.html
"""

from __future__ import annotations

import os
import pwd
import re
import stat
from configparser import ConfigParser
from configparser import Error as ParsingError
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "passfile": "PGPASSFILE",
    "service": "PGSERVICE",
    "servicefile": "PGSERVICEFILE",
    "options": "PGOPTIONS",
    "sslmode": "PGSSLMODE",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "krbsrvname": "PGKRBSRVNAME",
    "gsslib": "PGGSSLIB",
}
"""The environment variable of each parameter."""

DEFAULT_PORT = "5432"

_URL = re.compile(r"postgres(?:ql)?://(?P<netloc>[^/?]*)(?P<path>[^?]*)(?:\?(?P<query>.*))?", re.DOTALL)
_ESCAPED = "a URL with / ? # [ ] % @ : in the user and the password written as %2F %3F %23 %5B %5D %25 %40 %3A"
_SYSTEM_DIRECTORIES = ("/etc/postgresql-common", "/etc")
_FIELDS = re.compile(r"((?:\\.|[^\\:])*)(?::|$)")  # the fields of a line in pgpass, where \ escapes a colon and itself


def parameters_of(url: str) -> dict[str, str]:
    """Return the parameters in a database URL.

    Raises:
        ValueError: the text is not the URL of a PostgreSQL database. The message is what was expected.
    """
    parts = _URL.fullmatch(url)
    if parts is None:
        raise ValueError("postgresql://USER:PASSWORD@HOST:5432/DATABASE")
    login, at, places = parts["netloc"].rpartition("@")
    if "#" in url or set("@[]") & set(login) or (not at and "@" in parts["path"]):
        raise ValueError(_ESCAPED)
    user, _, password = login.partition(":")
    hosts = [_host_and_port(each) for each in places.split(",")]
    found = {
        "host": ",".join(host for host, _ in hosts),
        "port": ",".join(port for _, port in hosts) if any(port for _, port in hosts) else "",
        "dbname": unquote(parts["path"][1:]),
        "user": unquote(user),
        "password": unquote(password),
    }
    for name, value in _pairs(parts["query"] or ""):
        found["dbname" if name == "database" else name] = value
    if found.pop("ssl", "") == "true":  # as in JDBC URLs
        found.setdefault("sslmode", "require")
    found["host"] = ",".join(host.strip("[]") for host in found["host"].split(","))
    return {name: value for name, value in found.items() if value}


def _pairs(query: str) -> Iterator[tuple[str, str]]:
    for each in filter(None, query.split("&")):
        name, equals, value = each.partition("=")
        if not equals:  # do not quote it, as it may be part of the password
            raise ValueError(f"parameters such as sslmode=require after the ?, and {_ESCAPED}")
        yield unquote(name), unquote(value)


def _host_and_port(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]*))?", text)
    port = match[2] or "" if match else ""
    if match is None or (port and not 0 < int(port) < 65536):
        raise ValueError(f"a host and a port from 1 to 65535, and {_ESCAPED}")
    return unquote(match[1]), port


def hosts_and_ports(parameters: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the (host, port) pairs; '' stands for the default."""
    hosts, ports = parameters.get("host", "").split(","), parameters.get("port", "").split(",")
    return list(zip(hosts, ports if len(ports) == len(hosts) else ports[:1] * len(hosts), strict=True))


def url_of(parameters: Mapping[str, str]) -> str:
    """Return a URL with these parameters."""
    rest, places = dict(parameters), hosts_and_ports(parameters)
    user, password = quote(rest.pop("user", ""), safe=""), quote(rest.pop("password", ""), safe="")
    login = f"{user}:{password}@" if password else f"{user}@" if user else ""
    names = [f"[{host}]" if ":" in host else host for host, _ in places]
    netloc = ""
    if all(names) and not any(name[0] in "/@" or (name[0] == "[" and len(names) > 1) for name in names):
        quoted = (quote(name, safe="[:]") for name in names)
        netloc = ",".join(f"{name}:{port}" if port else name for name, (_, port) in zip(quoted, places, strict=True))
        del rest["host"]
        rest.pop("port", None)
    elif any(names):
        rest["host"] = ",".join(names)
    if "port" in rest:
        rest["port"] = ",".join(port or DEFAULT_PORT for _, port in places)
    database = rest.pop("dbname", "")
    query = "&".join(f"{name}={quote(value, safe='/')}" for name, value in rest.items())
    path = f"/{quote(database, safe='')}" if database or query else ""
    return f"postgresql://{login}{netloc}{path}{'?' if query else ''}{query}"


def complete(url: str, variables: Mapping[str, str]) -> str:
    """Return a URL with all parameters that libpq would take from elsewhere, so that it means the same on any host.

    Args:
        url: the URL in the settings.
        variables: the environment variables.

    Raises:
        ValueError: the service does not exist, or no user can be determined. The arguments are the message and a hint.
    """
    given = parameters_of(url)
    found = {**_of_variables(variables), **_of_service(given, variables), **given}
    for name in ("service", "servicefile"):
        found.pop(name, None)
    if "user" not in found:
        found["user"] = _account()
    passfile = found.pop("passfile", None) or _at_home(".pgpass", variables)
    if "password" not in found and passfile is not None:
        found |= _of_password_file(Path(passfile), found)
    if (address := found.pop("hostaddr", None)) is not None:
        if found.get("sslmode") == "verify-full" and found.get("host"):
            raise ValueError("hostaddr cannot be used with sslmode=verify-full", "Remove hostaddr and PGHOSTADDR.")
        found["host"] = address
    return url_of(found)


def unused_variables(url: str | None, variables: Mapping[str, str]) -> list[str]:
    """Return the variables for server, database, user or password that are set but have no effect.

    Args:
        url: the URL in the settings; None for the embedded PostgreSQL.
        variables: the environment variables.
    """
    names = ("host", "hostaddr", "port", "dbname", "user", "password", "passfile", "service")
    named = {name: variables[VARIABLES[name]] for name in names if variables.get(VARIABLES[name])}
    if url is None:
        return [VARIABLES[name] for name in named]
    given = parameters_of(url)
    given |= _of_service(given, variables)
    if "host" in given:
        named.pop("hostaddr", None)
    if "password" in given or "password" in named:
        given.setdefault("passfile", "")
    return [VARIABLES[name] for name, value in named.items() if given.get(name, value) != value]


def _of_variables(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: variables[variable] for name, variable in VARIABLES.items() if variables.get(variable)}


def _of_service(given: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    service = given.get("service") or variables.get("PGSERVICE")
    if not service:
        return {}
    own = given.get("servicefile") or variables.get("PGSERVICEFILE") or _at_home(".pg_service.conf", variables)
    directories = [variables["PGSYSCONFDIR"]] if variables.get("PGSYSCONFDIR") else _SYSTEM_DIRECTORIES
    files = [Path(own)] if own else []
    files += [Path(directory) / "pg_service.conf" for directory in directories]
    for file in files:
        found = _read_services(file)
        if found.has_section(service):
            return {name: value for name, value in found.items(service) if value}
    raise ValueError(
        f"there is no service {service!r} in {' or '.join(map(str, files))}",
        f"Add a section [{service}], or correct it.",
    )


def _read_services(file: Path) -> ConfigParser:
    parser = ConfigParser(
        interpolation=None, delimiters=("=",), comment_prefixes=("#",), strict=False, default_section=""
    )
    try:
        parser.read_string(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        pass  # libpq ignores such a file
    except ParsingError as error:
        raise ValueError(f"{file}: {str(error).splitlines()[0]}", "Write lines such as host=db.example.") from None
    return parser


def _at_home(name: str, variables: Mapping[str, str]) -> str | None:
    home = variables.get("HOME") or os.path.expanduser("~")  # noqa: PTH111 -- which raises no error
    return os.path.join(home, name) if home.startswith("/") else None  # noqa: PTH118 -- as above


def _account() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise ValueError(
            "names no user, and the account of this process has no name", "Name one: postgresql://USER@..., or PGUSER."
        ) from None


def _of_password_file(file: Path, parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the password in the first matching line. Like libpq, ignore a file that other users can read."""
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return {}
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    database = parameters.get("dbname") or parameters["user"]
    for host, port in hosts_and_ports(parameters):
        names = ("localhost",) if not host else (host, "localhost") if host.startswith("/") else (host,)
        wanted = (names, (port or DEFAULT_PORT,), (database,), (parameters["user"],))
        for line in lines:
            if (password := _password_in(line, wanted)) is not None:
                return {"password": password}
    return {}


def _password_in(line: str, wanted: Sequence[Sequence[str]]) -> str | None:
    fields = [re.sub(r"\\(.)", r"\1", each) for each in _FIELDS.findall(line)][:5]
    if line.startswith("#") or len(fields) < 5:
        return None
    matches = all(field == "*" or field in values for field, values in zip(fields, wanted, strict=False))
    return fields[4] if matches else None
