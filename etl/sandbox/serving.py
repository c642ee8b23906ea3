"""The simulated API as a service of its own, whose world lives on."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from etl.sandbox.server import Sandbox
from etl.sandbox.world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_TICK_S: Final = 1.0


@asynccontextmanager
async def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    seed: int = 1,
    runs: int = 3000,
    key: str = "sk-sandbox",
    requests_per_minute: int | None = 500,
    speed: float = 1.0,
) -> AsyncIterator[Sandbox]:
    """Serve a new world whose history ends now, until the context is left.

    Args:
        host: the address to listen on.
        port: 0 chooses a free one.
        seed: which world.
        runs: how many runs it has.
        key: the API key that it asks for.
        requests_per_minute: its rate limit; None: none.
        speed: simulated seconds a real second; 0 stops the world's clock.

    Yields:
        The API, with its `url` and its `world`.
    """
    world = World.generate(seed, runs=runs, now=datetime.now(UTC).replace(microsecond=0))
    async with Sandbox(world, key, host=host, port=port, requests_per_minute=requests_per_minute) as sandbox:
        living = asyncio.create_task(_live(world, speed))
        try:
            yield sandbox
        finally:
            living.cancel()
            with suppress(asyncio.CancelledError):
                await living


async def _live(world: World, speed: float) -> None:
    while speed > 0:
        await asyncio.sleep(_TICK_S)
        world.advance(timedelta(seconds=_TICK_S * speed))
