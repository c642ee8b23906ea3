"""Maintenance of the warehouse by an invocation: retention, own credits and daily rollups."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import asyncpg

from etl.db.own_credits import update_own_credits
from etl.db.refusals import LOST
from etl.db.rollups import roll_up
from etl.db.store import Store, empty_due_rejects
from etl.events import Notice

if TYPE_CHECKING:
    from etl.app.warehouse import Warehouse
    from etl.events import Listener

OWN_CREDITS_PAUSES_S = (0.1, 0.5, 1.0, 1.0, 0.0)
"""Pauses between attempts at the end of an invocation to compute own credits of runs that other processes are writing.
Later invocations compute the remaining ones."""

ROLL_UP_S = 60.0
"""Time limit for rolling up changed days, in seconds. Later invocations roll up the remaining days."""

CONNECTIONS = 2
"""Maximum number of connections that roll up concurrently. Only open connections are used."""


async def remove_due_payloads(warehouse: Warehouse) -> None:
    """Remove payloads whose retention has expired, from all streams, including those that are no longer synced."""
    session = warehouse.session
    for stream in await session.streams_with_due_payloads():
        state = await session.lock(stream)
        if state is not None:
            store = Store(warehouse.pool, session, stream, state, sync_id=None, keep_payloads=False)
            await store.remove_due_payloads()
            await session.release(stream)
    async with warehouse.pool.acquire() as connection:
        await empty_due_rejects(connection)


async def compute_own_credits(warehouse: Warehouse, listener: Listener) -> None:
    """Compute the own credits that loads have not computed, including those of killed processes."""
    try:
        async with warehouse.pool.acquire() as connection:
            for pause_s in OWN_CREDITS_PAUSES_S:
                if await update_own_credits(connection):
                    break
                await asyncio.sleep(pause_s)
    except (*LOST, asyncpg.PostgresError) as error:
        listener(Notice("own_credits.failed", {"error": str(error)}, level="warning"))


async def roll_up_all(warehouse: Warehouse, listener: Listener) -> None:
    """Roll up all changed days. A failure is only a warning: without rollups, the daily views are exact but slower."""
    try:
        async with AsyncExitStack() as stack:
            width = min(warehouse.pool.get_idle_size(), CONNECTIONS) or 1
            connections = [await stack.enter_async_context(warehouse.pool.acquire()) for _ in range(width)]
            await roll_up(*connections, seconds=ROLL_UP_S)
    except (*LOST, asyncpg.PostgresError) as error:
        listener(Notice("rollup.failed", {"error": str(error)}, level="warning"))
