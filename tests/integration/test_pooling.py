"""Poolers: those that lose sessions are refused, others work."""

from __future__ import annotations

from urllib.parse import urlsplit

import asyncpg
import pytest
from transaction_pooler import pooling

from etl.db.connect import connect, create_pool
from etl.db.pooling import _keeps_its_server
from etl.errors import DatabaseError

SEARCH_PATH = frozenset({"search_path"})


async def test_direct_connection_is_not_a_pooler(database_url) -> None:
    connection = await connect(database_url, "cortex")
    assert connection.get_server_pid() == await connection.fetchval("SELECT pg_backend_pid()")
    await connection.close()


async def test_pooler_that_refuses_search_path_has_its_own_hint(database_url) -> None:
    async with pooling(database_url, "transaction") as pooler:
        for opening in (connect(pooler.url, "cortex"), create_pool(pooler.url, "cortex", size=2)):
            with pytest.raises(DatabaseError, match="does not pass search_path on") as refused:
                await opening
            assert "ALTER ROLE <role> SET search_path TO cortex" in refused.value.hint
            assert urlsplit(pooler.url).netloc.rpartition("@")[2] in refused.value.message


async def test_transaction_mode_is_refused(database_url) -> None:
    async with pooling(database_url, "transaction", SEARCH_PATH) as pooler:
        for _ in range(2):  # the second time, prepared statements of the first conflict
            with pytest.raises(DatabaseError, match="in transaction mode") as refused:
                await connect(pooler.url, "cortex")
            assert "pool_mode = session" in refused.value.hint
            assert refused.value.exit_code == 4


async def test_session_mode_works_with_a_role_search_path(database_url, warehouse) -> None:
    name = urlsplit(database_url).path[1:]
    async with pooling(database_url, "session", SEARCH_PATH) as pooler:
        assert await _keeps_its_server(pooler.url)
        with pytest.raises(DatabaseError, match="does not pass search_path on"):
            await connect(pooler.url, "cortex")
        await warehouse.execute(f"ALTER DATABASE {name} SET search_path TO cortex")
        connection = await connect(pooler.url, "cortex")
        assert await connection.fetchval("SELECT count(*) FROM runs") == 0
        await connection.close()


async def test_test_pooler_loses_sessions(database_url) -> None:
    """Otherwise the tests above would prove nothing."""
    async with pooling(database_url, "transaction", SEARCH_PATH) as pooler:
        assert not await _keeps_its_server(pooler.url)
        first = await asyncpg.connect(pooler.url, statement_cache_size=0)
        second = await asyncpg.connect(pooler.url, statement_cache_size=0)
        await first.execute("SELECT set_config('application_name', 'mine', false)")
        assert await second.fetchval("SELECT current_setting('application_name')") == "mine"
        await first.close()
        await second.close()
