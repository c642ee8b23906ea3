"""The proxy for a URL, and the secret parts of its URL."""

from __future__ import annotations

from pathlib import Path

import pytest

from etl.config import Settings, load
from etl.errors import SettingsError

API = "https://api.withcortex.ai"


@pytest.fixture
def settings(tmp_path: Path):
    def read(environment: dict[str, str], text: str = "", dotenv: str = "") -> Settings:
        (tmp_path / "config.yaml").write_text(text)
        (tmp_path / ".env").write_text(dotenv)
        return load(tmp_path / "config.yaml", environment)

    return read


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({}, API, None),
        ({"HTTPS_PROXY": "http://p:1"}, API, "http://p:1"),
        ({"https_proxy": "http://p:1", "HTTPS_PROXY": "http://q:2"}, API, "http://p:1"),
        ({"HTTPS_PROXY": "p.example:3128"}, API, "http://p.example:3128"),
        ({"HTTPS_PROXY": "https://[::1]:3128/"}, API, "https://[::1]:3128/"),
        ({"HTTPS_PROXY": ""}, API, None),
        ({"HTTP_PROXY": "http://p:1"}, API, None),
        ({"HTTP_PROXY": "http://p:1"}, "http://hooks.example/x", "http://p:1"),
        ({"ALL_PROXY": "http://p:1"}, API, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "api.withcortex.ai"}, API, None),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "a.b, .withcortex.ai"}, API, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "withcortex.ai:443"}, API, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "withcortex.ai:8443"}, "https://withcortex.ai:8443", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, API, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "cortex.ai"}, API, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "https://localhost:8080", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://127.8.9.1", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://[::1]:9", None),
    ],
)
def test_proxy_of_the_environment(settings, environment, url, proxy) -> None:
    found = settings(environment).network.proxy_for(url)
    assert (found.value if found else None) == proxy


def test_environment_wins_over_dotenv(settings) -> None:
    found = settings({"HTTPS_PROXY": "http://p:1"}, dotenv="https_proxy=http://q:2\n").network.proxy_for(API)
    assert (found.value, found.place) == ("http://p:1", "environment variable HTTPS_PROXY")


def test_setting_overrides_the_environment_for_the_api_alone(settings) -> None:
    environment = {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "api.withcortex.ai"}
    found = settings(environment, "api:\n  proxy: http://q:2\n")
    assert found.api_network.proxy_for(API).value == "http://q:2"
    assert found.api_network.proxy_for(API).place.endswith("config.yaml:2")
    assert found.api_network.proxy_for("https://127.0.0.1") is None
    assert found.network.proxy_for("https://hooks.example").value == "http://p:1"


def test_credentials_are_secret(settings) -> None:
    environment = {"HTTPS_PROXY": "http://user:hunter2%40@p:1", "HTTP_PROXY": "tok3n@p:1"}
    found = settings(environment, "api: {proxy: 'http://me:hunter4@q:2'}\n")
    assert {"hunter2%40", "hunter2@", "tok3n", "hunter4"} <= set(found.secrets())
    assert not {"user", "me", "http://me:hunter4@q:2"} & set(found.secrets())
    shown = f"{found!r} {found.model_dump()} {found.model_dump_json()} {found.network!r} {found.api_network!r}"
    assert not any(secret in shown for secret in ("hunter2", "tok3n", "hunter4"))
    assert found.network.proxy_for(API).shown == "http://***@p:1"
    assert found.network.proxy_for("http://hooks.example").shown == "http://***@p:1"


@pytest.mark.parametrize(
    "url", ["socks5://me:hunter2@p:1", "http://", "http://p:99999", "http://p:0", "http://me:hunter2@p:1/path", "p q"]
)
def test_proxy_that_cannot_be_used(settings, url) -> None:
    assert settings({"HTTPS_PROXY": url}).network.proxy_for("https://localhost") is None
    with pytest.raises(SettingsError, match="environment variable HTTPS_PROXY: expected an HTTP proxy") as caught:
        settings({"HTTPS_PROXY": url}).network.proxy_for(API)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"
    with pytest.raises(SettingsError, match=r"config.yaml:2: api.proxy: expected an HTTP proxy") as caught:
        settings({}, f"api:\n  proxy: '{url}'\n")
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("value", ["nonsense", "5", "p.example:3128", "true", "''"])
def test_proxy_in_the_settings_has_a_scheme(settings, value) -> None:
    with pytest.raises(SettingsError, match=r"config.yaml:2: api.proxy: expected an HTTP proxy") as caught:
        settings({}, f"api:\n  proxy: {value}\n")
    assert "Change line 2 of" in caught.value.hint
