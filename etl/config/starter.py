"""What `cortex-etl init` writes: the commented settings file, and the JSON schema that its first line names."""

from __future__ import annotations

from importlib.resources import files

STARTER = files("etl.config").joinpath("starter.yaml").read_text(encoding="utf-8")
SCHEMA_NAME = "config.schema.json"
SCHEMA = files("etl.config").joinpath(SCHEMA_NAME).read_text(encoding="utf-8")
