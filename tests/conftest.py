"""Fixtures that all tests may use: see the modules named here."""

from __future__ import annotations

from importlib.util import find_spec

pytest_plugins = [name for name in ("postgres_fixtures", "sandbox_fixtures", "command_fixtures") if find_spec(name)]
