"""Poolers: those that lose sessions are refused, others work."""

from __future__ import annotations

import asyncpg
import pytest
from transaction_pooler import pooling

from etl.db.address import Address
from etl.db.connect import _preserves_sessions, connect, create_pool
from etl.db.refusals import LOST, unusable
from etl.errors import DatabaseError


async def test_direct_connection_is_not_a_pooler(database_url) -> None:
    connection = await connect(database_url, "cortex")
    assert connection.get_server_pid() == await connection.fetchval("SELECT pg_backend_pid()")
    await connection.close()


async def test_transaction_mode_is_refused(database_url) -> None:
    async with pooling(database_url, "transaction") as pooler:
        for _ in range(2):  # the second time, prepared statements of the first conflict
            with pytest.raises(DatabaseError, match="in transaction mode") as refused:
                await connect(pooler.url, "cortex")
            assert "pool_mode = session" in refused.value.hint
            assert refused.value.exit_code == 4


async def test_session_mode_works(database_url, warehouse) -> None:
    async with pooling(database_url, "session") as pooler:
        assert await _preserves_sessions(pooler.url)
        with pytest.raises(asyncpg.ProtocolViolationError, match="unsupported startup parameter: search_path"):
            await asyncpg.connect(pooler.url, server_settings={"search_path": "cortex"})
        connection = await connect(pooler.url, "cortex")
        assert await connection.fetchval("SELECT count(*) FROM runs") == 0
        await connection.close()
        pool = await create_pool(pooler.url, "cortex", size=2)
        assert await pool.fetchval("SELECT count(*) FROM runs") == 0
        await pool.close()


@pytest.mark.parametrize(
    "arguments", [("sql", "SHOW search_path"), ("report",), ("export", "files"), ("selftest", "--rounds", "1"), ("doctor",)]
)  # fmt: skip
async def test_commands_work_in_session_mode(at_work, database_url, arguments) -> None:
    command, _ = at_work
    async with pooling(database_url, "session") as pooler:
        settings = command.folder / "config.yaml"
        settings.write_text(settings.read_text().replace(database_url, pooler.url))
        ended = await command(*arguments)
        assert ended.code == 0, ended.err


async def test_refused_startup_parameter_is_named(database_url) -> None:
    async with pooling(database_url, "session") as pooler:
        with pytest.raises(DatabaseError, match="unsupported startup parameter: geqo") as refused:
            await connect(f"{pooler.url}?geqo=off", "cortex")
        assert "Remove this parameter" in refused.value.hint


async def test_used_up_pool_is_named(database_url) -> None:
    async with pooling(database_url, "session") as pooler:
        pool = await create_pool(pooler.url, "cortex", size=2)
        pooler.is_full = True
        with pytest.raises(DatabaseError, match=r"does not accept connections now: .*query_wait_timeout") as refused:
            await connect(pooler.url, "cortex")
        assert "up to 7 connections" in refused.value.hint
        assert "default_pool_size" in refused.value.hint
        async with pool.acquire():
            with pytest.raises(LOST) as lost:
                await pool.acquire()
        assert unusable(lost.value).hint == refused.value.hint
        await pool.close()


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("no more connections allowed (max_client_conn)", "A sync uses up to 7 connections"),
        ("no such database: warehouse", "correct what the message names"),
        ("unsupported startup parameter: geqo", "Remove this parameter"),
    ],
)
def test_refusals_of_a_pooler_have_hints(message, hint) -> None:
    refusal = Address.of("postgresql://h/d").refusal(asyncpg.ProtocolViolationError(message), 15)
    assert message in refusal.message
    assert hint in refusal.hint


async def test_test_pooler_loses_sessions(database_url) -> None:
    """Without this, the tests above would prove nothing."""
    async with pooling(database_url, "transaction") as pooler:
        assert not await _preserves_sessions(pooler.url)
        first = await asyncpg.connect(pooler.url, statement_cache_size=0)
        second = await asyncpg.connect(pooler.url, statement_cache_size=0)
        await first.execute("SELECT set_config('application_name', 'mine', false)")
        assert await second.fetchval("SELECT current_setting('application_name')") == "mine"
        await first.close()
        await second.close()
