"""The sections of `config.yaml` as frozen models.

The message of a `ValueError` in a check is a noun phrase that follows "expected"; `problems` builds the full message.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from etl.config.libpq import parameters_of

Origin = Literal["ALL", "WORKFLOW", "TRIGGER", "RECORD", "TEST", "ENDPOINT", "WEBHOOK"]
Status = Literal["ALL", "PENDING", "RUNNING", "CANCELLED", "COMPLETED", "SKIPPED", "FAILED"]
ShippedRule = Literal["daily_spend", "failure_rate", "stuck_runs", "unknown_values"]

MAX_PAGE_SIZE = 10_000
"""The largest page size that the settings allow."""

_SHORTEST_SALT = 16  # characters
_LONGEST_IDENTIFIER = 63  # bytes; PostgreSQL truncates longer names silently
_HOST = re.compile(r"[^\W_]([\w-]{0,61}[^\W_])?(\.[^\W_]([\w-]{0,61}[^\W_])?)*\.?")
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_DURATION = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_DURATION_S = 36500 * 86400  # a century, so that now minus the duration is a valid date
_DURATIONS = "a duration such as 45s, 10m, 1h or 7d, or a number of seconds"


def parse_duration(value: object) -> timedelta:
    """Parse a duration.

    Args:
        value: text such as `10m`, a number of seconds, or a timedelta.

    Returns:
        The duration, which is not negative.

    Raises:
        ValueError: the value is not a duration.
    """
    if isinstance(value, timedelta) and value >= timedelta(0):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(_DURATIONS)  # noqa: TRY004 -- pydantic reports ValueErrors only
    match = _DURATION.fullmatch(str(value).strip().lower())
    if match is None:
        raise ValueError(_DURATIONS)
    seconds = float(match["number"]) * _UNITS[match["unit"]]
    if seconds > _LONGEST_DURATION_S:
        raise ValueError(f"{_DURATIONS}, at most 36500d")
    return timedelta(seconds=seconds)


def format_duration(value: timedelta) -> str:
    """Format a duration in its largest whole unit: `1h`, `90s`, `0s`."""
    seconds = value.total_seconds()
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{int(seconds // _UNITS[unit])}{unit}"
    return f"{seconds:g}s"


def parse_seconds(value: object) -> object:
    """Convert a duration to a number of seconds; return numbers unchanged, to be checked by their field.

    Raises:
        ValueError: the value is not a duration.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return parse_duration(value).total_seconds()


def not_bool(value: object) -> object:
    """Reject booleans, which Python treats as 1 and 0.

    Raises:
        PydanticCustomError: the value is a boolean.
    """
    if isinstance(value, bool):
        raise PydanticCustomError("no_number", "a number")
    return value


def check_base_url(value: str) -> str:
    """Return a base URL without a trailing slash.

    Raises:
        ValueError: the URL has more than scheme, host and port, or uses plain HTTP to another machine.
    """
    text = value.strip()
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("a URL such as https://api.withcortex.ai, with a port from 1 to 65535") from None
    if parts.scheme not in ("https", "http") or parts.username is not None or not (is_address(host) or is_name(host)):
        raise ValueError("a URL such as https://api.withcortex.ai")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("a URL such as https://api.withcortex.ai, with a port from 1 to 65535")
    if parts.path not in ("", "/") or "?" in text or "#" in text:
        raise ValueError(f"a URL without a path: {parts.scheme}://{parts.netloc}")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError(f"https://{parts.netloc} (http:// sends the key in clear text: loopback hosts only)")
    return f"{parts.scheme}://{parts.netloc}"


def read_proxy(text: str, *, default_scheme: str = "") -> str:
    """Return the URL of a proxy.

    Args:
        text: the URL.
        default_scheme: the scheme if there is none: variables such as `HTTPS_PROXY` often have none.

    Raises:
        ValueError: the text is not the URL of an HTTP proxy.
    """
    text = text.strip()
    url = text if "://" in text or not default_scheme else f"{default_scheme}://{text}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    known = is_address(host) or is_name(host)
    if not known or port == 0 or parts.scheme not in ("http", "https") or parts.path not in ("", "/") or "?" in url:
        raise ValueError("an HTTP proxy such as http://proxy.example:3128 or http://USER:PASSWORD@proxy.example:3128")
    return url


def check_proxy(value: object) -> object:
    """Return the URL of a proxy as a secret, because it may contain credentials.

    Raises:
        ValueError: the value is not the URL of an HTTP proxy.
    """
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    return SecretStr(read_proxy(text if isinstance(text, str) else ""))


def mask_credentials(url: str) -> str:
    """Return a URL with its credentials masked."""
    start, at, host = url.rpartition("@")
    return f"{start.partition('://')[0]}://***@{host}" if at else url


def is_loopback(host: str) -> bool:
    """Return whether a host is `localhost` or a loopback address."""
    return host.lower() == "localhost" or (is_address(host) and ip_address(host).is_loopback)


def is_address(host: str) -> bool:
    """Return whether a host is an IP address."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_name(host: str) -> bool:
    """Return whether a host is a valid DNS name."""
    return _HOST.fullmatch(host) is not None


def check_key(value: object) -> object:
    """Return an API key that is valid in an HTTP header.

    Raises:
        ValueError: the key is empty or contains characters other than printable ASCII.
    """
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        raise ValueError("an API key as text (quote it)")  # noqa: TRY004 -- pydantic reports ValueErrors only
    if text.endswith(("\n", "\r")):
        raise ValueError("an API key without a trailing line break")
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError("an API key of printable ASCII without spaces")
    if text.startswith("$"):
        raise ValueError("an API key, or a variable written as ${NAME}")
    return SecretStr(text)


def check_database_url(value: object) -> object:
    """Return the URL of a PostgreSQL database.

    Raises:
        ValueError: the URL has another scheme or cannot be parsed.
    """
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        return value
    text = text.strip()
    if re.search(r"\s", text):
        raise ValueError("postgresql://USER:PASSWORD@HOST:5432/DATABASE, or null")
    mode = parameters_of(text).get("sslmode")
    if mode is not None and mode not in _SSL_MODES:
        raise ValueError(f"one of {', '.join(_SSL_MODES)} for sslmode")
    return SecretStr(text)


def check_schema(value: str) -> str:
    """Return a schema name that needs no quotes in SQL.

    Raises:
        ValueError: the name is not a plain identifier, is too long, or is reserved.
    """
    plain = re.fullmatch(r"[a-z_][a-z0-9_]*", value) and len(value) <= _LONGEST_IDENTIFIER
    if not plain or value.startswith("pg_") or value == "information_schema":
        raise ValueError("a name of a-z, 0-9 and _, at most 63 characters, not beginning with pg_")
    return value


def check_id(value: str) -> str:
    """Return an id, which may be any text from the API.

    Raises:
        ValueError: the id is empty or contains a NUL.
    """
    if not value.strip() or "\0" in value:
        raise ValueError("an id such as app_123")
    return value


def check_page_size(value: object) -> object:
    """Return a page size: `auto` or a number of runs.

    Raises:
        ValueError: the value is neither.
    """
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if number == "auto" or (isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= MAX_PAGE_SIZE):
        return number
    raise ValueError(f"auto, or a number from 1 to {MAX_PAGE_SIZE:,}")


def check_workflows(value: object) -> object:
    """Return `all` or a list of distinct ids.

    Raises:
        ValueError: the value is neither.
        PydanticCustomError: an id is invalid.
    """
    if value == "all":
        return value
    if not isinstance(value, list | tuple) or not value or not all(isinstance(each, str) for each in value):
        raise ValueError("all, or a list of workflow ids")
    for index, each in enumerate(value):
        try:
            check_id(each)
        except ValueError as wrong:
            raise PydanticCustomError("no_id", "{wrong}", {"wrong": str(wrong), "path": (index,)}) from None
    if "all" in value:
        raise ValueError("all without brackets, or a list of workflow ids")
    twice = [each for each, times in Counter(value).items() if times > 1]
    if twice:
        raise ValueError(f"each workflow once ({twice[0]} is listed twice)")
    return value


def check_json_path(value: str) -> str:
    """Return a JSON path.

    Raises:
        ValueError: the path does not begin with `$` or cannot be parsed.
    """
    if not re.fullmatch(r"\$(\.\S.*|\[.+)", value):
        raise ValueError("a JSON path such as $.input.customer.email")
    import jsonpath  # noqa: PLC0415 - takes a tenth of the start-up time and is rarely needed

    try:
        jsonpath.JSONPathEnvironment().compile(value)
    except jsonpath.JSONPathError as error:
        raise ValueError(f"a JSON path such as $.input.customer.email ({str(error).splitlines()[0]})") from None
    return value


def check_path(value: object) -> object:
    """Return the path of a file.

    Raises:
        ValueError: the path is empty or contains a NUL.
    """
    if isinstance(value, str) and (not value.strip() or "\0" in value):
        raise ValueError("a path")
    return value


def expand_home(path: Path) -> Path:
    """Return the path with `~` and `~account` replaced by the home directory.

    Raises:
        ValueError: the account does not exist.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"a path (there is no home directory {path.parts[0]})") from None


def check_hook(value: object) -> object:
    """Return a webhook URL as a secret, because anyone who knows it can call it.

    Raises:
        ValueError: the text is not an HTTP URL.
    """
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        return value
    text = text.strip()
    try:
        parts = urlsplit(text)
        is_valid = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or re.search(r"\s", text):
        raise ValueError("a URL such as https://hooks.example/T0/B0")
    return SecretStr(text)


def check_rule_name(value: str) -> str:
    """Return the name of an alert rule.

    Raises:
        ValueError: the name has other characters than letters, digits, `_` and `-`, or is too long.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", value):
        raise ValueError("a name of letters, digits, _ and -, at most 63 characters")
    return value


def check_query(value: str) -> str:
    """Return a query; PostgreSQL checks its syntax when it runs.

    Raises:
        ValueError: the query is empty.
    """
    if not value.strip():
        raise ValueError("a query")
    return value


def check_salt(value: object) -> object:
    """Return the secret salt of hashes.

    Raises:
        ValueError: the salt is too short.
    """
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str) or len(text) < _SHORTEST_SALT:
        raise ValueError(f"a secret of at least {_SHORTEST_SALT} characters")
    return SecretStr(text)


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, when_used="json")]
"""A timedelta, written in `config.yaml` as a duration such as `10m`."""

Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(json_schema_extra={"format": "seconds"})]
"""A number of seconds, which may also be written as a duration in `config.yaml`."""

File = Annotated[Path, BeforeValidator(check_path), AfterValidator(expand_home)]
Integer = Annotated[int, BeforeValidator(not_bool)]
ProxyUrl = Annotated[
    SecretStr,
    BeforeValidator(check_proxy),
    PlainSerializer(lambda url: mask_credentials(url.get_secret_value()), when_used="json"),
]
PageSize = Annotated[Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE)], BeforeValidator(check_page_size)]
Key = Annotated[SecretStr, BeforeValidator(check_key)]
Hook = Annotated[SecretStr, BeforeValidator(check_hook)]
Identifier = Annotated[str, AfterValidator(check_id)]


class Section(BaseModel):
    """The base class of the sections: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)


class ApiSettings(Section):
    """The source API.

    `requests_per_minute` is the limit per IP address, including retries. `egress` names the IP address of this host.
    """

    base_url: Annotated[str, AfterValidator(check_base_url)] = "https://api.withcortex.ai"
    key: Key | None = None
    key_file: File | None = None
    requests_per_minute: Integer = Field(default=500, ge=1, le=100_000)
    concurrency: Integer = Field(default=8, ge=1, le=64)
    page_size: PageSize = "auto"
    timeout_s: Seconds = Field(default=60, gt=0, le=3600)
    origin: Origin = "ALL"
    status: Status = "ALL"
    verbose: bool = True
    proxy: ProxyUrl | None = None
    egress: Identifier | None = None

    @property
    def host(self) -> str:
        """Host and port of the API, as in its URL; each has one request budget."""
        return urlsplit(self.base_url).netloc

    @property
    def usual_page_size(self) -> int:
        """The page size for short listings, and for the first request of longer ones."""
        return 100 if self.page_size == "auto" else self.page_size


class DatabaseSettings(Section):
    """The warehouse. Without `url`, it is in the embedded PostgreSQL.

    `read_url` is used for queries. `timeout_s` limits each statement of a sync.
    """

    url: Annotated[SecretStr, BeforeValidator(check_database_url)] | None = None
    read_url: Annotated[SecretStr, BeforeValidator(check_database_url)] | None = None
    url_file: File | None = None
    schema_name: Annotated[str, AfterValidator(check_schema)] = Field(default="cortex", alias="schema")
    auto_migrate: bool = True
    timeout_s: Seconds = Field(default=60, gt=0, le=3600)


class AppSettings(Section):
    """An app. `workflows` is `all` (discovery) or a list of ids; `key` replaces `api.key` for this app."""

    id: Identifier
    workflows: Annotated[Literal["all"] | list[str], BeforeValidator(check_workflows)] = "all"
    key: Key | None = None
    key_file: File | None = None


class SyncSettings(Section):
    """What a sync reads. If `reconcile_every` is 0, only `cortex-etl reconcile` reconciles.

    `reconcile_share` is the fraction of an hour's requests that a sync may use for reconciles, unless they would
    be late.
    """

    lookback: Duration = timedelta(hours=1)
    reconcile_every: Duration = timedelta(hours=24)
    reconcile_share: float = Field(default=0.1, ge=0, le=1)


class PayloadSettings(Section):
    """Storage and redaction of inputs, results, outputs and logs. `redact_by: hash` requires `redact_salt`."""

    store: Literal["full", "none"] = "full"
    redact: list[Annotated[str, AfterValidator(check_json_path)]] = Field(default_factory=list)
    redact_by: Literal["replace", "hash"] = "replace"
    redact_salt: Annotated[SecretStr, BeforeValidator(check_salt)] | None = None
    retention: Literal["keep", "honour"] = "keep"

    @model_validator(mode="after")
    def _require_salt(self) -> Self:
        if self.redact_by == "hash" and self.redact_salt is None:
            raise PydanticCustomError("no_salt", "a salt if redact_by is hash", {"path": ("redact_salt",)})
        return self


class MetricsSettings(Section):
    """The metrics file for Prometheus, which is written after each sync."""

    file: File | None = None


def check_engine_address(value: object) -> object:
    """Return the address of an engine's scheduler.

    Raises:
        ValueError: the address is invalid, or uses unencrypted TCP to another machine.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not text.startswith(("tls://", "tcp://")) or not (is_address(host) or is_name(host)) or not port:
        raise ValueError("an address such as tls://scheduler.example:8786")
    if text.startswith("tcp://") and not is_loopback(host):
        raise ValueError(f"tls://{host}:{port} (tcp:// is not encrypted: loopback hosts only)")
    return text


class EngineSettings(Section):
    """Where streams are synced. `workers` is the number of processes; 0 for as many as are available."""

    kind: Literal["local", "processes", "dask"] = "local"
    address: Annotated[str, BeforeValidator(check_engine_address)] | None = None
    workers: Integer = Field(default=0, ge=0, le=10_000)
    split_pages: Integer = Field(default=200, ge=0, le=1_000_000)
    tls_ca: File | None = None
    tls_cert: File | None = None
    tls_key: File | None = None

    @property
    def processes(self) -> int:
        """Number of processes that share the work; 1 if Dask chooses the number."""
        if self.kind == "local":
            return 1
        return self.workers or (os.cpu_count() or 1 if self.kind == "processes" else 1)

    @model_validator(mode="after")
    def _require_address(self) -> Self:
        if self.kind == "dask" and self.address is None:
            raise PydanticCustomError(
                "no_address", "the address of the scheduler if kind is dask", {"path": ("address",)}
            )
        return self


class AlertRule(Section):
    """An alert rule: a query that returns rows if something is wrong.

    The rule fires after all checks in a period of length `for` have found rows. `every` is the time between checks.
    """

    name: Annotated[str, AfterValidator(check_rule_name)]
    sql: Annotated[str, AfterValidator(check_query)]
    for_: Duration = Field(default=timedelta(0), alias="for")
    every: Duration = timedelta(0)


class AlertSettings(Section):
    """Notifications: a webhook for state changes of syncs and rules, and a dead man's switch for each start and end."""

    on_state_change: Hook | None = None
    ping_url: Hook | None = None
    enable: list[ShippedRule] = Field(default_factory=list)
    rules: list[AlertRule] = Field(default_factory=list)

    @field_validator("rules")
    @classmethod
    def _each_name_once(cls, rules: list[AlertRule]) -> list[AlertRule]:
        taken = {*get_args(ShippedRule)}
        for index, rule in enumerate(rules):
            if rule.name in taken:
                raise PydanticCustomError("taken_name", "a name that no other rule has", {"path": (index, "name")})
            taken.add(rule.name)
        return rules
