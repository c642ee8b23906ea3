"""Fixtures that all tests may use: see the modules named here."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytest_plugins = [name for name in ("postgres_fixtures", "sandbox_fixtures", "command_fixtures") if find_spec(name)]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that are given more time than others, so that none of them is left for the end."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)
