"""The settings, as frozen models. Only `load` reads `config.yaml` and the environment."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from etl.config.document import (
    DOTENV,
    PREFIX,
    Document,
    KeyPath,
    candidates,
    dotted,
    find_file,
    read_document,
    sets_anything,
)
from etl.config.libpq import complete, unused_variables
from etl.config.network import Network, read_network
from etl.config.problems import refuse_misspelled, settings_error
from etl.config.sections import (
    AlertRule,
    AlertSettings,
    ApiSettings,
    AppSettings,
    DatabaseSettings,
    EngineSettings,
    File,
    MetricsSettings,
    PayloadSettings,
    Section,
    SyncSettings,
    format_duration,
    parse_duration,
)
from etl.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "AlertRule",
    "AlertSettings",
    "ApiSettings",
    "AppSettings",
    "DatabaseSettings",
    "EngineSettings",
    "MetricsSettings",
    "PayloadSettings",
    "Settings",
    "SyncSettings",
    "format_duration",
    "load",
    "parse_duration",
]

_AGREED_API_KEYS = {"base_url", "requests_per_minute", "page_size", "origin", "status", "verbose"}

EXAMPLE_APP = "app_123"
"""The placeholder app id in the file that `init` writes."""


class Settings(Section):
    """All settings. Created by `load`, or directly (by tests and the demo), without a file and the environment."""

    api: ApiSettings = Field(default_factory=ApiSettings)
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    data_dir: File = Path(".cortex-etl")
    apps: list[AppSettings] = Field(default_factory=list)
    sync: SyncSettings = Field(default_factory=SyncSettings)
    payloads: PayloadSettings = Field(default_factory=PayloadSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    alerts: AlertSettings = Field(default_factory=AlertSettings)

    _document: Document = PrivateAttr(default_factory=lambda: Document(""))
    _telemetry: dict[str, str] = PrivateAttr(default_factory=dict)
    _network: Network = PrivateAttr(default_factory=Network)
    _libpq: dict[str, str] | None = PrivateAttr(default=None)

    @field_validator("apps")
    @classmethod
    def _each_app_once(cls, apps: list[AppSettings]) -> list[AppSettings]:
        seen: set[str] = set()
        for index, app in enumerate(apps):
            if app.id in seen:
                raise PydanticCustomError("duplicate_app", "each app once", {"path": (index, "id")})
            seen.add(app.id)
        return apps

    def require_key(self, app: AppSettings | None = None) -> SecretStr:
        """Return the API key for an app; for None, `api.key`, which apps without their own key use.

        Raises:
            SettingsError: no key is set. The message names the variable, or the problem with the key file.
        """
        path: KeyPath = ("api", "key")
        if app is not None and app in self.apps:
            own: KeyPath = ("apps", self.apps.index(app), "key")
            path = own if own in self._document.unset or own in self._document.unread else path
        if path in self._document.unread and (app is None or app.key is None):
            raise self._document.unread[path]
        key = (app.key if app else None) or (self.api.key if path[0] == "api" else None)
        if key is not None:
            return key
        variable = self._document.unset.get(path, "CORTEX_API_KEY")
        place = self._document.place(path)
        where = f"{place}: {dotted(path)}" if place else dotted(path)
        file = dotted((*path[:-1], "key_file"))
        raise SettingsError(
            f"{where}: no API key; {self._document.lacks(variable)}",
            hint=f"{self._document.remedy(variable)}, or set {file} to a file with the key.",
        )

    @property
    def names_database(self) -> bool:
        """Whether a database is configured; otherwise the embedded PostgreSQL is used."""
        return self.database.url is not None or self.database.url_file is not None

    def database_url(self) -> str | None:
        """Return the URL of the database, completed as libpq would; None for the embedded PostgreSQL.

        Raises:
            SettingsError: the file in `database.url_file` cannot be read, or the URL cannot be completed.
        """
        if self.database.url is None and self.database.url_file is not None:
            raise self._document.unread["database", "url"]
        return self._completed("url", self.database.url)

    def read_url(self) -> str | None:
        """Return the URL in `database.read_url`, completed as libpq would; None if it is not set.

        Raises:
            SettingsError: the URL cannot be completed.
        """
        return self._completed("read_url", self.database.read_url)

    def _completed(self, key: str, url: SecretStr | None) -> str | None:
        if url is None or self._libpq is None:
            return None if url is None else url.get_secret_value()
        try:
            return complete(url.get_secret_value(), self._libpq)
        except ValueError as error:
            expected, hint = error.args
            raise SettingsError(f"{self.place('database', key)}: database.{key}: {expected}", hint=hint) from None

    def database_urls(self) -> list[str]:
        """Return the URLs whose passwords must be masked: as configured, and completed as libpq would."""
        found = [url.get_secret_value() for url in (self.database.url, self.database.read_url) if url is not None]
        for complete_url in (self.database_url, self.read_url):
            with suppress(SettingsError):  # raised again by commands that use the URL
                found += filter(None, [complete_url()])
        return found

    def unused_variables(self) -> list[str]:
        """Return the libpq variables that are set but have no effect, because `database.url` overrides them."""
        url = self.database.url
        return unused_variables(None if url is None else url.get_secret_value(), self._libpq or {})

    @property
    def telemetry(self) -> Mapping[str, str]:
        """The OpenTelemetry variables if they name a collector for traces; otherwise empty."""
        found = self._telemetry
        named = found.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or found.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        off = found.get("OTEL_SDK_DISABLED", "").lower() == "true" or found.get("OTEL_TRACES_EXPORTER") == "none"
        return found if named and not off else {}

    @property
    def network(self) -> Network:
        """Proxies and certificates for all hosts except the API."""
        return self._network

    @property
    def api_network(self) -> Network:
        """Proxies and certificates for the API."""
        proxy = self.api.proxy
        if proxy is None:
            return self._network
        return self._network.through(proxy.get_secret_value(), self.place("api", "proxy"))

    def secrets(self) -> list[str]:
        """Return the values to mask in output. In the URLs of proxies, only the credentials are secret.

        For the URLs of databases, see `database_urls`.
        """
        urls = (self.database.url, self.database.read_url, self.api.proxy)
        whole = [each.get_secret_value() for each in _secrets(self) if not any(each is url for url in urls)]
        return whole + self.api_network.credentials()

    def agreed(self) -> dict[str, str]:
        """Return short hashes of the settings that must be equal in all processes of an invocation, by key.

        The only secret among them is the salt of redaction. It is hashed twice and truncated to 3 bytes, which reveal
        nothing about it.
        """
        values = {
            "api": self.api.model_dump(mode="json", include=_AGREED_API_KEYS),
            "sync": self.sync.model_dump(mode="json"),
            "payloads": self.payloads.model_dump(mode="json"),
        }
        if self.payloads.redact_salt is not None:
            salt = hashlib.sha256(self.payloads.redact_salt.get_secret_value().encode()).digest()
            values["payloads"]["redact_salt"] = hashlib.sha256(salt).hexdigest()[:6]
        keys = {f"{section}.{key}": value for section, of in values.items() for key, value in of.items()}
        keys["apps"] = [app.model_dump(mode="json", include={"id", "workflows"}) for app in self.apps]
        return {key: hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12] for key, value in keys.items()}

    @property
    def file(self) -> Path | None:
        """The settings file; None if all settings come from variables."""
        return Path(self._document.name) if self._document.name else None

    def secret_files(self) -> list[Path]:
        """Return the files that contain secrets: key files, `.env`, and the settings file if it contains a secret."""
        folder = self.file.parent if self.file else Path()
        found = [folder / path for path in _paths_of_secrets(self)]
        dotenv = folder / DOTENV
        found += [dotenv] if dotenv.exists() else []
        if self.file is not None:
            text = self.file.read_text(encoding="utf-8", errors="replace") if self.file.is_file() else ""
            urls = [url.get_secret_value() for url in (self.database.url, self.database.read_url) if url is not None]
            passwords = [urlsplit(url).password or "" for url in urls]
            found += [self.file] if any(secret and secret in text for secret in (*self.secrets(), *passwords)) else []
        return found

    def place(self, *path: str | int) -> str:
        """Return the place of a value: `config.yaml:4`, `environment variable X` or `default`."""
        return self._document.places.get(path, "default")


def _secrets(value: object) -> Iterator[SecretStr]:
    if isinstance(value, SecretStr):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name))
    elif isinstance(value, list):
        for each in value:
            yield from _secrets(each)


def _paths_of_secrets(value: object) -> Iterator[Path]:
    """Yield the values of `key_file` and `url_file`."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            inner = getattr(value, name)
            if name.endswith("_file") and isinstance(inner, Path):
                yield inner
            yield from _paths_of_secrets(inner)
    elif isinstance(value, list):
        for each in value:
            yield from _paths_of_secrets(each)


def load(path: Path | None = None, environment: Mapping[str, str] | None = None, *, optional: bool = False) -> Settings:
    """Read the settings.

    Args:
        path: the settings file; None searches for one (see `candidates`).
        environment: the environment variables; None for those of the process. A `.env` file in the directory of the
            settings file can set further variables.
        optional: whether to accept missing settings, and the example settings.

    Returns:
        The settings. Relative paths are relative to the directory of the settings file.

    Raises:
        SettingsError: a setting is invalid (the message has file, line, key, expected and actual value), or there are
            no settings.
    """
    environment = os.environ if environment is None else environment
    path = path or find_file(environment)
    folder = path.parent if path else Path()
    document, variables = read_document(path, environment, folder)
    refuse_misspelled(document, variables, Settings)
    if path is None and not optional and not sets_anything(variables):
        raise _no_settings(environment)
    try:
        settings = Settings(**document.values)
    except ValidationError as error:
        raise settings_error(error, document, Settings) from None
    settings = settings.model_copy(update={"data_dir": folder / settings.data_dir})
    if settings.metrics.file is not None:
        metrics = settings.metrics.model_copy(update={"file": folder / settings.metrics.file})
        settings = settings.model_copy(update={"metrics": metrics})
    settings._document = document  # noqa: SLF001 -- set once, here
    settings._network = read_network(variables, environment, document.origin)  # noqa: SLF001
    settings._telemetry = {name: value for name, value in variables.items() if name.startswith("OTEL_")}  # noqa: SLF001
    settings._libpq = {name: value for name, value in variables.items() if name.startswith("PG") or name == "HOME"}  # noqa: SLF001
    if not optional:
        _refuse_example(settings)
    return settings


def _no_settings(environment: Mapping[str, str]) -> SettingsError:
    files = [str(path) for path in candidates(environment)]
    lacking = f"neither {files[0]} nor {files[1]} exists" if len(files) > 1 else f"{files[0]} does not exist"
    return SettingsError(
        f"no settings found: {lacking}, and neither DATABASE_URL nor a variable {PREFIX}... is set",
        hint="Create a settings file with `cortex-etl init`, or name one with --config PATH.",
    )


def _refuse_example(settings: Settings) -> None:
    for index, app in enumerate(settings.apps):
        refuse_example(app.id, f"{settings.place('apps', index, 'id')}: apps[{index}].id: ")


def refuse_example(app_id: str, where: str = "") -> None:
    """Refuse the placeholder app id; `where` begins the message.

    Raises:
        SettingsError: the id is the placeholder.
    """
    if app_id == EXAMPLE_APP:
        raise SettingsError(f"{where}{EXAMPLE_APP} is the example's id", hint="Replace it with the id of your app.")
