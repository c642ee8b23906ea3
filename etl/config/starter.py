"""The commented settings file that `cortex-etl init` writes."""

from __future__ import annotations

from importlib.resources import files

STARTER = files("etl.config").joinpath("starter.yaml").read_text(encoding="utf-8")
