"""`selftest` on an existing PostgreSQL leaves nothing behind."""

from __future__ import annotations

import asyncio
import signal

import pytest
from command_fixtures import ended as end_of

SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'cortex_selftest%'"


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_selftest_leaves_nothing_behind(at_work, warehouse, sign) -> None:
    command, _ = at_work
    process = await command.start("selftest", "--rounds", "50")
    for _ in range(600):
        names = [row["nspname"] for row in await warehouse.fetch(SCHEMAS)]
        if names and await warehouse.fetchval("SELECT to_regclass($1)", f"{names[0]}.etl_syncs") is not None:
            break
        await asyncio.sleep(0.1)
    assert names
    process.send_signal(sign)
    ended = await end_of(process)
    assert ended.code == 130
    assert "error: interrupted" in ended.err
    assert await warehouse.fetch(SCHEMAS) == []
