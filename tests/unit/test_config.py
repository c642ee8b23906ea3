"""Settings: defaults, layers, secrets, durations."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from etl.config import Settings, format_duration, load, parse_duration
from etl.config.document import candidates
from etl.config.schema import starter
from etl.errors import SettingsError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("text", ["", "# nothing\n", "api:\ndatabase:\napps:\nsync:\n", "\ufeffapi:\n"])
def test_empty_file_has_the_documented_defaults(write, text: str) -> None:
    settings = load(write(text), {})
    assert settings.api.base_url == "https://api.withcortex.ai"
    assert settings.api.key is None
    numbers = (
        settings.api.requests_per_minute,
        settings.api.concurrency,
        settings.api.page_size,
        settings.api.timeout_s,
    )
    assert numbers == (500, 8, "auto", 60)
    assert (settings.api.origin, settings.api.status, settings.api.verbose) == ("ALL", "ALL", True)
    assert (settings.database.url, settings.database.schema_name, settings.database.auto_migrate) == (
        None,
        "cortex",
        True,
    )
    assert settings.apps == []
    assert settings.sync.lookback == timedelta(hours=1)
    assert settings.sync.reconcile_every == timedelta(hours=24)
    assert (settings.payloads.store, settings.payloads.redact, settings.payloads.retention) == ("full", [], "keep")


def test_defaults_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(None, {}, optional=True).data_dir == Path(".cortex-etl")
    assert load(None, {"DATABASE_URL": "postgresql://h/d"}).data_dir == Path(".cortex-etl")
    for too_little in ({}, {"CORTEX_API_KEY": "sk-1"}, {"DATABASE_URL": ""}):
        with pytest.raises(SettingsError, match=r"no settings found: config\.yaml does not exist"):
            load(None, too_little)


@pytest.mark.parametrize(
    ("environment", "files"),
    [
        ({}, ["config.yaml"]),
        ({"HOME": "/home/me"}, ["config.yaml", "/home/me/.config/cortex-etl/config.yaml"]),
        ({"HOME": "/home/me", "XDG_CONFIG_HOME": "/etc/xdg"}, ["config.yaml", "/etc/xdg/cortex-etl/config.yaml"]),
        ({"XDG_CONFIG_HOME": "not/absolute"}, ["config.yaml"]),
        ({"CORTEX_ETL_CONFIG": "mine.yaml", "HOME": "/home/me"}, ["mine.yaml"]),
    ],
)
def test_search_path_of_the_settings_file(environment: dict[str, str], files: list[str]) -> None:
    assert [str(path) for path in candidates(environment)] == files


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every folder")
def test_unreadable_home_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0)
    monkeypatch.chdir(tmp_path)
    assert load(None, {"HOME": str(home), "DATABASE_URL": "postgresql://h/d"}).file is None


def test_file_in_the_working_directory_is_used(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("api: {page_size: 7}\n")
    monkeypatch.chdir(tmp_path)
    assert load(None, {}).api.page_size == 7


def test_environment_overrides_the_file(write) -> None:
    path = write("api:\n  concurrency: 2\n  page_size: 3\nsync:\n  lookback: 5m\n")
    environment = {
        "CORTEX_ETL__API__CONCURRENCY": "4",
        "CORTEX_ETL__SYNC__RECONCILE_EVERY": "0",
        "cortex_etl__database__schema": "other",
        "CORTEX_ETL__APPS": '[{"id": "a", "workflows": ["w"]}]',
        "CORTEX_ETL__API__VERBOSE": "false",
    }
    settings = load(path, environment)
    assert (settings.api.concurrency, settings.api.page_size, settings.api.verbose) == (4, 3, False)
    assert (settings.sync.lookback, settings.sync.reconcile_every) == (timedelta(minutes=5), timedelta(0))
    assert settings.database.schema_name == "other"
    assert settings.apps[0].workflows == ["w"]
    assert settings.place("api", "page_size") == f"{path}:3"
    assert settings.place("api", "concurrency") == "environment variable CORTEX_ETL__API__CONCURRENCY"
    assert settings.place("api", "timeout_s") == "default"


def test_places_of_values_that_variables_set(write) -> None:
    path = write("api:\n  page_size: ${SIZE:-5}\n  concurrency: ${MANY:-6}\napps:\n  - id: b\n  - id: c\n")
    settings = load(path, {"SIZE": "7", "CORTEX_ETL__APPS": '[{"id": "a", "workflows": ["w"]}]'})
    variable = "environment variable CORTEX_ETL__APPS"
    assert settings.place("api", "page_size") == f"{path}:2, environment variable SIZE"
    assert settings.place("api", "concurrency") == f"{path}:3"
    assert settings.place("apps", 0, "id") == settings.place("apps", 0, "workflows", 0) == variable
    assert settings.place("apps", 0, "key") == settings.place("apps", 1, "id") == "default"


def test_ids_may_be_any_text(write) -> None:
    (app,) = load(write("apps:\n  - id: my app/1\n    workflows: [a workflow, ' w ', ü]\n"), {}).apps
    assert (app.id, app.workflows) == ("my app/1", ["a workflow", " w ", "ü"])


def test_seconds_may_be_written_as_durations(write) -> None:
    for text, seconds in (("2m", 120), ("45s", 45), ("1.5", 1.5), ("0.5", 0.5), ("'90'", 90)):
        settings = load(write(f"api: {{timeout_s: {text}}}\ndatabase: {{timeout_s: {text}}}\n"), {})
        assert settings.api.timeout_s == settings.database.timeout_s == seconds


def test_variables_are_substituted(write) -> None:
    path = write('api:\n  page_size: ${SIZE}\n  key: "sk-${A}-${B:-b}"\ndatabase: {url: "${URL:-}"}\ndata_dir: $${x}\n')
    settings = load(path, {"SIZE": "12", "A": "a"})
    assert settings.api.page_size == 12
    assert settings.require_key().get_secret_value() == "sk-a-b"
    assert settings.database.url is None
    assert settings.data_dir.name == "${x}"


def test_empty_variable_counts_as_unset(write) -> None:
    assert load(write("api: {page_size: '${SIZE:-5}'}\n"), {"SIZE": ""}).api.page_size == 5


def test_required_variable_that_is_empty(write) -> None:
    with pytest.raises(SettingsError, match=r"database.url: the environment variable URL is empty") as caught:
        load(write("database: {url: '${URL}'}\n"), {"URL": ""})
    assert "export URL=" in caught.value.hint


def test_missing_key_is_an_error_only_if_needed(write) -> None:
    path = write("api:\n  key: ${MY_KEY}\n")
    settings = load(path, {})
    with pytest.raises(SettingsError, match=r"config.yaml:2: api.key: .*MY_KEY is not set") as caught:
        settings.require_key()
    assert "export MY_KEY=" in caught.value.hint


@pytest.mark.parametrize("written", ["${MY_KEY}", "sk-${MY_KEY}"])
def test_missing_key_is_not_replaced_by_another(write, tmp_path: Path, written: str) -> None:
    path = write(f"api:\n  key: {written}\napps:\n  - id: a\n")
    settings = load(path, {"CORTEX_API_KEY": "sk-other"})
    for app in (None, settings.apps[0]):
        with pytest.raises(SettingsError, match=r"config.yaml:2: api.key: .*MY_KEY is not set"):
            settings.require_key(app)
    (tmp_path / "key").write_text("sk-file")
    path.write_text(path.read_text().replace("api:\n", "api:\n  key_file: key\n"))
    assert load(path, {}).require_key().get_secret_value() == "sk-file"


@pytest.mark.parametrize("written", ["${MY_KEY}", "sk-${MY_KEY}"])
def test_app_with_a_missing_key_does_not_use_another(write, written: str) -> None:
    path = write(f"api:\n  key: sk-general\napps:\n  - id: a\n  - id: b\n    key: {written}\n")
    settings = load(path, {})
    assert settings.require_key(settings.apps[0]).get_secret_value() == "sk-general"
    with pytest.raises(SettingsError, match=r"config.yaml:6: apps\[1\].key: .*MY_KEY is not set") as caught:
        settings.require_key(settings.apps[1])
    assert "apps[1].key_file" in caught.value.hint


def test_numbers_in_common_notations(write) -> None:
    settings = load(write("api: {page_size: 010, requests_per_minute: 1_000}\napps:\n  - id: 0123\n"), {})
    assert (settings.api.page_size, settings.api.requests_per_minute, settings.apps[0].id) == (10, 1000, "0123")


def test_paths_may_start_with_a_tilde(write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key").write_text("sk-home")
    settings = load(write("data_dir: ~/data\nmetrics: {file: ~/m.prom}\napi: {key_file: ~/key}\n"), {})
    assert (settings.data_dir, settings.metrics.file) == (tmp_path / "data", tmp_path / "m.prom")
    assert settings.require_key().get_secret_value() == "sk-home"


def test_unreadable_dotenv_is_reported(write, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\n")
    with pytest.raises(SettingsError, match=r"\.env: cannot read it: not UTF-8 text"):
        load(write(""), {})


@pytest.mark.parametrize("line", ["CORTEX_API_KEY: sk-hunter2", "CORTEX_API_KEY='sk-hunter2", "a b=hunter2"])
def test_invalid_line_in_dotenv_is_reported(write, tmp_path: Path, line: str, caplog) -> None:
    (tmp_path / ".env").write_text(f"# for cron\nONE=1\n  \n{line}\n")
    with pytest.raises(SettingsError) as caught:
        load(write(""), {})
    assert caught.value.message.startswith(f"{tmp_path / '.env'}:4: ")
    assert "NAME=value" in caught.value.hint
    assert "hunter2" not in f"{caught.value} {caught.value.hint} {caplog.text}"


def test_secrets_are_read_from_the_standard_variables(write) -> None:
    settings = load(write("database: {url: null}\n"), {"CORTEX_API_KEY": "sk-1", "DATABASE_URL": "postgres://h/d"})
    assert settings.require_key().get_secret_value() == "sk-1"
    assert settings.database.url is not None
    assert settings.database.url.get_secret_value() == "postgres://h/d"
    assert settings.place("database", "url") == "environment variable DATABASE_URL"


def test_file_overrides_the_standard_variables(write) -> None:
    settings = load(write("api: {key: sk-file}\n"), {"CORTEX_API_KEY": "sk-1"})
    assert settings.require_key().get_secret_value() == "sk-file"


def test_secrets_from_files(write, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-2\n")
    (tmp_path / "url").write_text("postgresql://h/d\n")
    (tmp_path / "own").write_text("sk-own\r\n")
    path = write("api: {key_file: key}\ndatabase: {url_file: url}\napps: [{id: a, key_file: own}, {id: b}]\n")
    settings = load(path, {"CORTEX_API_KEY": "sk-unused"})
    assert settings.require_key().get_secret_value() == "sk-2"
    assert settings.require_key(settings.apps[0]).get_secret_value() == "sk-own"
    assert settings.require_key(settings.apps[1]).get_secret_value() == "sk-2"
    assert settings.database.url is not None
    assert settings.place("api", "key") == f"file {tmp_path / 'key'}"


def test_dotenv_provides_missing_variables(write, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "CORTEX_API_KEY=sk-env\nCORTEX_ETL__API__PAGE_SIZE=9\nOTHER=${x\nALONE\nexport LAST=1\n"
    )
    path = write("")
    assert load(path, {}).require_key().get_secret_value() == "sk-env"
    assert load(path, {}).api.page_size == 9
    assert load(path, {"CORTEX_API_KEY": "sk-real"}).require_key().get_secret_value() == "sk-real"


def test_dotenv_is_named_as_the_source(write, tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("CORTEX_ETL__API__CONCURRENCY=4\nCORTEX_API_KEY=sk-file\n")
    settings = load(write(""), {"CORTEX_API_KEY": "sk-shell"})
    assert settings.place("api", "concurrency") == f"variable CORTEX_ETL__API__CONCURRENCY in {dotenv}"
    assert settings.place("api", "key") == "environment variable CORTEX_API_KEY"
    dotenv.write_text("CORTEX_ETL__API__CONCURRENCY=many\n")
    with pytest.raises(SettingsError, match=f"^variable CORTEX_ETL__API__CONCURRENCY in {dotenv}: api") as caught:
        load(write(""), {})
    assert caught.value.hint == f"Change variable CORTEX_ETL__API__CONCURRENCY in {dotenv}."


def test_data_dir_is_relative_to_the_file(write, tmp_path: Path) -> None:
    assert load(write("data_dir: data\n"), {}).data_dir == tmp_path / "data"
    assert load(write("data_dir: /var/lib/x\n"), {}).data_dir == Path("/var/lib/x")


def test_no_secret_is_shown(write) -> None:
    path = write("api: {key: sk-hunter2}\ndatabase: {url: 'postgresql://u:hunter2@h/d'}\n")
    settings = load(path, {})
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


def test_all_secrets_are_known(write) -> None:
    path = write(
        "api: {key: sk-1}\napps: [{id: a, key: sk-2}, {id: b}]\ndatabase: {url: 'postgresql://h/d'}\n"
        "payloads: {redact_salt: 0123456789abcdef}\nalerts: {on_state_change: 'https://a.b/c', ping_url: 'https://a.b/d'}\n"
    )
    secrets = ["0123456789abcdef", "https://a.b/c", "https://a.b/d", "sk-1", "sk-2"]
    assert sorted(load(path, {}).secrets()) == secrets  # of the database URL only the password is one


def test_settings_are_frozen() -> None:
    settings: Any = Settings()
    with pytest.raises(ValidationError):
        settings.api = settings.api
    with pytest.raises(ValidationError):
        settings.api.page_size = 3


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("45s", 45),
        ("10m", 600),
        ("1h", 3600),
        ("7d", 604800),
        (0, 0),
        (1.5, 1.5),
        ("90", 90),
        (" 2 H ", 7200),
        ("0.5d", 43200),
    ],
)
def test_durations(value: object, seconds: float) -> None:
    assert parse_duration(value) == timedelta(seconds=seconds)


@pytest.mark.parametrize("value", ["", "h", "1w", "1 hour", "-1", -1, None, True, "1e3", [], "٣h"])
def test_invalid_durations(value: object) -> None:
    with pytest.raises(ValueError, match="a duration"):
        parse_duration(value)


@pytest.mark.parametrize("text", ["45s", "10m", "1h", "7d", "0s", "90s", "1.5s"])
def test_durations_round_trip(text: str) -> None:
    assert format_duration(parse_duration(text)) == text


@pytest.mark.parametrize("url", ["http://localhost:80", "http://127.0.0.1:1", "http://[::1]:8080", "https://a.b/"])
def test_valid_base_urls(write, url: str) -> None:
    assert load(write(f"api: {{base_url: '{url}'}}\n"), {}).api.base_url == url.rstrip("/")


def test_starter_equals_the_defaults(write) -> None:
    path = write(starter())
    with pytest.raises(SettingsError, match=r"config.yaml:\d+: apps\[0\].id: app_123 is the example's id"):
        load(path, {})
    settings = load(path, {"CORTEX_API_KEY": "sk-1"}, optional=True)
    assert settings.api == Settings(api={"key": "sk-1"}).api
    for section in ("database", "sync", "payloads"):
        assert getattr(settings, section) == getattr(Settings(), section)
    assert [app.id for app in settings.apps] == ["app_123"]


def test_starter_equals_the_example_in_the_repository() -> None:
    example = (ROOT / "config.yaml").read_text()
    assert example.replace("$schema=docs/", "$schema=", 1) == starter(), "only the path of the schema differs"


def test_starter_contains_every_setting() -> None:
    from etl.config.problems import all_keys

    for path in all_keys(Settings):
        assert f"{path[-1]}:" in starter(), path
