"""The JSON schema for editors: up to date, documented, and consistent with the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from etl.config import Settings, load
from etl.config.problems import all_keys
from etl.config.schema import SCHEMA_NAME, json_schema, render, starter
from etl.errors import SettingsError

ROOT = Path(__file__).parents[2]
VALIDATOR = Draft7Validator(json_schema())


def keys(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Any:
    for key, value in schema["properties"].items():
        kind = value.get("anyOf", [value])[0]
        part = kind["items"] if "$ref" in kind.get("items", {}) else value
        yield (*path, key), part
        if "$ref" in part:
            yield from keys(json_schema()["definitions"][part["$ref"].rpartition("/")[2]], (*path, key))


def test_schema_is_up_to_date() -> None:
    hint = "run: python -m etl.config.schema > docs/config.schema.json"
    assert render() == (ROOT / "docs" / SCHEMA_NAME).read_text(), hint


def test_schema_has_every_key() -> None:
    Draft7Validator.check_schema(json_schema())
    assert [path for path, _ in keys(json_schema())] == all_keys(Settings)


def test_every_key_has_a_description() -> None:
    sections = json_schema()["definitions"]
    assert all(section["description"] for section in sections.values())
    assert [path for path, part in keys(json_schema()) if "$ref" not in part and "description" not in part] == []


def test_starter_is_valid_and_refers_to_the_schema() -> None:
    VALIDATOR.validate(yaml.safe_load(starter()))
    assert starter().startswith(f"# yaml-language-server: $schema={SCHEMA_NAME}\n")


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "api: {requests_per_minute: 1, timeout_s: 0.5, key: sk-1}",
        "api: {concurrency: '${PLACES:-4}', verbose: '${VERBOSE:-true}', origin: '${ORIGIN:-TEST}'}",
        "apps: [{id: app_1, workflows: [wf_1, wf_2]}, {id: app_2, workflows: all, key: sk-2}]",
        "api: {timeout_s: 2m}",
        "apps: [{id: my app, workflows: ['wf 1']}]",
        "sync: {lookback: 90, reconcile_every: 0}",
        "sync: {lookback: 1.5h, reconcile_every: '7d'}",
        "database: {url: null, schema: mine}",
        "alerts: {enable: [stuck_runs], rules: [{name: mine, sql: TABLE open_runs, for: 30m, every: 1h}]}",
        "payloads: {store: none, redact: [$.input.email], retention: honour}",
    ],
)
def test_valid_settings_pass_the_schema(text, tmp_path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    load(tmp_path / "config.yaml", {})
    VALIDATOR.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "apy: {}",
        "api: {base_ulr: https://api.withcortex.ai}",
        "api: {concurrency: many}",
        "api: {concurrency: 0}",
        "api: {page_size: 10001}",
        "api: {timeout_s: 0}",
        "api: {timeout_s: 2 minutes}",
        "api: {origin: test}",
        "api: {verbose: 7}",
        "apps: [{workflows: all}]",
        "apps: [{id: app_1, workflow: wf_1}]",
        "apps: [{id: app_1, workflows: some}]",
        "apps: app_1",
        "sync: {lookback: 1 week}",
        "sync: {reconcile_every: -1}",
        "payloads: {retention: honor}",
        "payloads: {redact: $.input}",
        "alerts: {enable: [stuck_run]}",
        "alerts: {rules: [{name: mine}]}",
    ],
)
def test_invalid_settings_fail_the_schema(text, tmp_path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(SettingsError):
        load(tmp_path / "config.yaml", {})
    assert not VALIDATOR.is_valid(yaml.safe_load(text))
