"""Fixtures for the simulated API."""

from __future__ import annotations

import pickle
from contextlib import AsyncExitStack
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from etl.sandbox import Sandbox, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class StartSandbox(Protocol):
    """Starts a sandbox that is stopped when the test ends."""

    async def __call__(self, world: World | None = None, **options: Any) -> Sandbox: ...


@cache
def _small_world() -> bytes:
    return pickle.dumps(World.generate(runs=240, workflows_per_app=2, days=30, open_runs=4, rough_edges=False))


def make_small_world() -> World:
    """Return a world of 240 runs in two apps with two workflows each, without rough edges (a copy, which is faster)."""
    world: World = pickle.loads(_small_world())  # noqa: S301 - our own bytes
    return world


@pytest.fixture
def small_world() -> World:
    """A small world that the test may change."""
    return make_small_world()


@pytest.fixture
async def sandbox(small_world: World) -> AsyncIterator[StartSandbox]:
    """A factory: `await sandbox()` serves `small_world`, `await sandbox(world, requests_per_minute=…)` another."""
    async with AsyncExitStack() as running:

        async def start(world: World | None = None, **options: Any) -> Sandbox:
            return await running.enter_async_context(Sandbox(world or small_world, **options))

        yield start
