"""The settings: frozen models, filled from `config.yaml` and the environment by `load`, the only reader of both."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from etl.config.document import Document, KeyPath, dotted, read_document
from etl.config.problems import settings_error
from etl.config.sections import (
    AlertSettings,
    ApiSettings,
    AppSettings,
    DatabaseSettings,
    File,
    MetricsSettings,
    PayloadSettings,
    SyncSettings,
    expand_home,
    format_duration,
    parse_duration,
)
from etl.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "AlertSettings",
    "ApiSettings",
    "AppSettings",
    "DatabaseSettings",
    "MetricsSettings",
    "PayloadSettings",
    "Settings",
    "SyncSettings",
    "format_duration",
    "load",
    "parse_duration",
]

DEFAULT_PATH = Path("config.yaml")


class Settings(BaseSettings):
    """All settings, frozen. Made by `load`; made directly (tests, demo) it reads no file and no environment.

    `places` tells, for `config show`, where each value came from, by its path.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", case_sensitive=True, hide_input_in_errors=True)

    api: ApiSettings = Field(default_factory=ApiSettings)
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    data_dir: File = Path(".cortex-etl")
    apps: list[AppSettings] = Field(default_factory=list)
    sync: SyncSettings = Field(default_factory=SyncSettings)
    payloads: PayloadSettings = Field(default_factory=PayloadSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    alerts: AlertSettings = Field(default_factory=AlertSettings)

    _document: Document = PrivateAttr(default_factory=lambda: Document(""))
    _telemetry: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(  # the signature is pydantic's
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from `load` alone: it knows the line of each, which pydantic's own sources do not."""
        return (init_settings,)

    @field_validator("apps")
    @classmethod
    def _each_app_once(cls, apps: list[AppSettings]) -> list[AppSettings]:
        seen: set[str] = set()
        for index, app in enumerate(apps):
            if app.id in seen:
                raise PydanticCustomError("duplicate_app", "each app once", {"path": (index, "id")})
            seen.add(app.id)
        return apps

    @field_validator("payloads")
    @classmethod
    def _hashes_are_salted(cls, payloads: PayloadSettings) -> PayloadSettings:
        if payloads.redact_by == "hash" and payloads.redact_salt is None:
            raise PydanticCustomError(
                "no_salt", "a secret text of at least 16 characters where redact_by is hash", {"path": ("redact_salt",)}
            )
        return payloads

    def require_apps(self) -> list[AppSettings]:
        """Return the apps.

        Raises:
            SettingsError: none is set.
        """
        if self.apps:
            return self.apps
        name = self._document.name or str(DEFAULT_PATH)
        raise SettingsError(
            f"{name}: apps: no app is set",
            hint="Name at least one: `apps: [{id: YOUR_APP_ID, workflows: all}]`; `cortex-etl init` writes an example.",
        )

    def require_key(self, app: AppSettings | None = None) -> SecretStr:
        """Return the API key for an app (None: the general one, which an app without one of its own takes too).

        Raises:
            SettingsError: there is none; says which variable was looked for, or what is wrong with its file.
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
        raise SettingsError(
            f"{where}: no API key; the environment variable {variable} is not set",
            hint=f"export {variable}=... , or set {dotted((*path[:-1], 'key_file'))} to a file that holds the key.",
        )

    @property
    def names_database(self) -> bool:
        """Whether a PostgreSQL of the user's own is set, and not the embedded one."""
        return self.database.url is not None or self.database.url_file is not None

    def database_url(self) -> str | None:
        """Return the URL of the user's own PostgreSQL; None where the embedded one is meant.

        Raises:
            SettingsError: the file that it stands in cannot be read.
        """
        if self.database.url is not None:
            return self.database.url.get_secret_value()
        if self.database.url_file is not None:
            raise self._document.unread["database", "url"]
        return None

    @property
    def telemetry(self) -> Mapping[str, str]:
        """OpenTelemetry's variables, where they name a collector for traces; nothing otherwise."""
        found = self._telemetry
        named = found.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or found.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        off = found.get("OTEL_SDK_DISABLED", "").lower() == "true" or found.get("OTEL_TRACES_EXPORTER") == "none"
        return found if named and not off else {}

    @property
    def file(self) -> str:
        """The settings file that was read, or words that say that there was none."""
        return self._document.name or "the defaults (there is no config.yaml here)"

    def place(self, *path: str | int) -> str:
        """Return where a value came from: `config.yaml:4`, `environment variable X`, or `default`."""
        return self._document.places.get(path, "default")


def load(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Args:
        path: the file; None takes `./config.yaml` where there is one, else the defaults.
        environment: the variables; None takes those of the process. A `.env` beside the file stands in for
            variables that are not set.

    Returns:
        The settings; a relative `data_dir` or secret file is taken from the folder of the file.

    Raises:
        SettingsError: with file, line, key, what was found, what is allowed and the nearest right name.
    """
    if path is None and DEFAULT_PATH.exists():
        path = DEFAULT_PATH
    folder = path.parent if path else Path()
    process = os.environ if environment is None else environment
    beside = _dotenv(folder / ".env")
    variables = {**beside, **process}
    origins = {name: f"variable {name} in {folder / '.env'}" for name in beside if name not in process}
    document = read_document(path, variables, origins)
    _refuse_unset(document)
    _fill_secrets(document, variables, folder)
    try:
        settings = Settings(**document.values)
    except ValidationError as error:
        raise settings_error(error, document, Settings) from None
    settings = settings.model_copy(update={"data_dir": folder / settings.data_dir})
    if settings.metrics.file is not None:
        metrics = settings.metrics.model_copy(update={"file": folder / settings.metrics.file})
        settings = settings.model_copy(update={"metrics": metrics})
    settings._document = document  # noqa: SLF001 -- its own class's attribute, set once here
    settings._telemetry = {name: value for name, value in variables.items() if name.startswith("OTEL_")}  # noqa: SLF001
    return settings


def _dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    from dotenv.parser import parse_stream  # noqa: PLC0415 -- most folders have none, and start-up time counts

    try:
        with path.open(encoding="utf-8-sig") as lines:
            found = list(parse_stream(lines))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"{path}: cannot be read: {reason}", hint="Fix its rights, or save it as UTF-8.") from None
    for each in found:
        if each.error:  # what stands there may be a secret
            said = each.original.string
            line = each.original.line + said.count("\n", 0, len(said) - len(said.lstrip()))
            raise SettingsError(f"{path}:{line}: this line cannot be read", hint="Write it as NAME=value.")
    return {each.key: each.value for each in found if each.key is not None and each.value is not None}


def _refuse_unset(document: Document) -> None:
    """Raise for a `${NAME}` that is not set, except in a key: many commands need none."""
    for path, variable in document.unset.items():
        if path[-1] != "key":
            raise SettingsError(
                f"{document.place(path)}: {dotted(path)}: the environment variable {variable} is not set",
                hint=f"export {variable}=... , or give a default: ${{{variable}:-value}}.",
            )


def _fill_secrets(document: Document, variables: Mapping[str, str], folder: Path) -> None:
    """Put in secrets that stand elsewhere: in a file named by `key_file` or `url_file`, or in the usual variable."""
    for section, key, variable in (("api", "key", "CORTEX_API_KEY"), ("database", "url", "DATABASE_URL")):
        values = document.values.get(section)
        if values is None:
            values = document.values[section] = {}
        if not isinstance(values, dict):
            continue
        _fill_from_file(document, values, (section,), key, folder)
        if values.get(key) is None and (section, key) not in document.unread and variables.get(variable):
            values[key] = variables[variable]
            document.came_from((section, key), variable)
    apps = document.values.get("apps")
    for index, app in enumerate(apps if isinstance(apps, list) else []):
        if isinstance(app, dict):
            _fill_from_file(document, app, ("apps", index), "key", folder)


def _fill_from_file(
    document: Document, values: dict[str, Any], section: tuple[str | int, ...], key: str, folder: Path
) -> None:
    name = values.get(f"{key}_file")
    if values.get(key) is not None or not isinstance(name, str):
        return
    try:
        path = folder / expand_home(Path(name))
    except ValueError:
        return  # the settings' own check says why
    where = f"{document.place((*section, f'{key}_file'))}: {dotted((*section, key))}_file"
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        wrong = SettingsError(f"{where}: cannot read {path}: {reason}", hint="Fix the path or its rights.")
        document.unread[(*section, key)] = wrong
        return
    if not text:
        document.unread[(*section, key)] = SettingsError(f"{where}: {path} is empty", hint=f"Put the {key} into it.")
        return
    values[key] = text
    document.places[(*section, key)] = f"file {path}"
