"""Fixtures that all tests may use: see the modules named here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import uvloop

pytest_plugins = [name for name in ("postgres_fixtures", "sandbox_fixtures", "command_fixtures") if find_spec(name)]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that are given more time than others, so that none of them is left for the end."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are cores: a test often waits for a server's answer, or for time to pass."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The tests run in the loop that the commands run in."""
    return {"uvloop": uvloop.new_event_loop}
