"""Fixtures that all tests may use: see the modules named here."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

pytest_plugins = [name for name in ("postgres_fixtures", "sandbox_fixtures", "command_fixtures") if find_spec(name)]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that are given more time than others, so that none of them is left for the end."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are cores: a test often waits for a server's answer, or for time to pass."""
    return (os.cpu_count() or 1) + 1
