"""Shared fixtures; see the modules named here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import uvloop

PLUGINS = ("postgres_fixtures", "sandbox_fixtures", "command_fixtures", "webhook_fixtures")
pytest_plugins = [name for name in PLUGINS if find_spec(name)]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the tests that have longer timeouts, so that none of them runs last."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Use one worker more than cores: tests often wait for a server or a timeout."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests in the event loop that the commands use."""
    return {"uvloop": uvloop.new_event_loop}
