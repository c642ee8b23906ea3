"""The commented `config.yaml` that `init` writes, and its JSON schema, by which editors complete and validate it.

The file is `config.yaml` in the root of the repository, which is also in the wheel. The schema is generated from the
models of the settings and the comments in the file: `python -m etl.config.schema > docs/config.schema.json`.
"""

from __future__ import annotations

import json
import re
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from etl.config import EXAMPLE_APP, Settings, format_duration

_SOURCE = Path(__file__).resolve().parents[2] / "config.yaml"  # if cortex-etl is not installed from a wheel
_SECTION = re.compile(r"(?P<key>[a-z_]+):")
_KEY = re.compile(r"\s+(?:#\s+)?(?:- )?(?P<key>[a-z_]+):.*?\s#\s(?:<- )?(?P<meaning>.+)")
_MORE = re.compile(r"\s{20,}#\s(?P<meaning>.+)")
_REFERENCE = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"}
_DURATION = {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*[smhdSMHD]?\s*$"}


SCHEMA_NAME = "config.schema.json"


def starter(app_id: str = "") -> str:
    """Return the commented `config.yaml`, with the id of an app if one is given. It refers to `SCHEMA_NAME`."""
    installed = files("etl").joinpath("config.yaml")
    text = (installed if installed.is_file() else _SOURCE).read_text(encoding="utf-8")
    text = text.replace(f"$schema=docs/{SCHEMA_NAME}", f"$schema={SCHEMA_NAME}", 1)
    return text.replace(EXAMPLE_APP, json.dumps(app_id), 1) if app_id else text


def json_schema() -> dict[str, Any]:
    """Generate the schema. Any value may also be a reference to the environment, `${NAME}`."""
    schema = Settings.model_json_schema(by_alias=True, ref_template="#/definitions/{model}")
    parts = schema.pop("$defs")
    meanings = _meanings(starter())
    sections = {"": schema} | {
        name: parts[_reference(part)] for name, part in schema["properties"].items() if _reference(part)
    }
    models = list(sections.items())
    models += [  # the items of lists, which belong to the section of the list
        (section, parts[_reference(part)])
        for section, model in sections.items()
        for part in model["properties"].values()
        if section and _reference(part)
    ]
    for section, model in models:
        model.pop("title", None)
        for key, value in model["properties"].items():
            if key not in sections:
                model["properties"][key] = _key_schema(value, meanings.get((section, key)))
    schema["properties"]["apps"].pop("title")
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",  # the latest version that editors fully support
        "title": "Settings of cortex-etl",
        "description": "Durations: 45s, 10m, 1h, 7d, seconds. ${NAME} and ${NAME:-default} come from the environment.",
        **{key: value for key, value in schema.items() if key != "description"},
        "definitions": parts,
    }


def render() -> str:
    """Return the schema as text."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _reference(part: dict[str, Any]) -> str:
    """Return the name of the model of a value or of the items of a list; '' if there is none."""
    return str((part.get("items") or part).get("$ref", "")).rpartition("/")[2]


def _key_schema(value: dict[str, Any], meaning: str | None) -> dict[str, Any]:
    """Return the schema of a key: with a description, allowing a `${NAME}` reference, without needless keywords."""
    kept = {key: value[key] for key in ("default",) if key in value}
    kinds = [
        {key: part for key, part in kind.items() if key not in {"default", "title", "format", "writeOnly"}}
        for kind in value.get("anyOf", [value])
    ]
    if value.get("format") == "duration":
        kept["default"] = format_duration(TypeAdapter(timedelta).validate_python(value["default"]))
        kinds = [_DURATION, {"type": "number", "minimum": 0}]
    elif value.get("format") == "seconds":
        kinds.append(_DURATION)
    if {"type": "string"} not in kinds:
        kinds.append(_REFERENCE)
    kind = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    return ({"description": meaning} if meaning else {}) | kind | kept


def _meanings(text: str) -> dict[tuple[str, str], str]:
    """Return the comments of the keys, by section ('' for the top level) and key."""
    found: dict[tuple[str, str], str] = {}
    section, last = "", None
    for line in text.splitlines():
        if last and (more := _MORE.fullmatch(line)):
            found[last] += " " + more["meaning"]
            continue
        opened, keyed = _SECTION.match(line), _KEY.fullmatch(line if line.startswith(" ") else f" {line}")
        if opened:
            section = "" if keyed else opened["key"]
        last = (section, keyed["key"]) if keyed else None
        if last and keyed:
            found[last] = keyed["meaning"]
    return found


if __name__ == "__main__":
    print(render(), end="")  # noqa: T201 - the output of this script
