"""Locate the settings file if the command line names none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "CORTEX_ETL_CONFIG"
_NAME = "config.yaml"


def candidates(environment: Mapping[str, str]) -> list[Path]:
    """Return the paths to search, in order: the path in `CORTEX_ETL_CONFIG`, or else the default paths."""
    if named := environment.get(VARIABLE):
        return [Path(named)]
    shared = environment.get("XDG_CONFIG_HOME") or ""
    if not shared and (home := environment.get("HOME")):
        shared = f"{home}/.config"
    usual = [Path(_NAME)]
    return [*usual, Path(shared, "cortex-etl", _NAME)] if Path(shared).is_absolute() else usual


def find_file(environment: Mapping[str, str]) -> Path | None:
    """Return the path in `CORTEX_ETL_CONFIG`, or else the first default path that exists; None if none exists."""
    found = candidates(environment)
    # Not Path.exists, which raises if the user's directory cannot be read.
    return next((path for path in found if environment.get(VARIABLE) or os.path.lexists(path)), None)
