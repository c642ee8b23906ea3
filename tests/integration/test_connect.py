"""Connections: name resolution, codecs, and errors."""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import asyncpg
import pytest
from postgres_proxies import gated

from etl.db.connect import connect, create_pool, quote_identifier, redact_url
from etl.db.reading import connect_to_read
from etl.db.refusals import LOST
from etl.errors import DatabaseError


async def test_names_resolve_to_the_schema(database_url: str) -> None:
    connection = await connect(database_url, "cortex", application_name="who asks")
    assert await connection.fetchval("SELECT count(*) FROM runs") == 0
    assert await connection.fetchval("SHOW application_name") == "who asks"
    assert await connection.fetchval("SHOW timezone") == "UTC"
    await connection.execute("CREATE TABLE pg_class ()")  # cannot stand in for the catalogue's
    assert await connection.fetchval("SELECT count(*) > 100 FROM pg_class")
    await connection.close()


async def test_jsonb_is_transferred_as_text(warehouse: asyncpg.Connection) -> None:
    await warehouse.execute("CREATE TEMPORARY TABLE sent (place integer, value jsonb)")
    values: list[bytes | str | None] = [b'{"a": 1.10}', '"\u00e9 \U0001f600"', None]
    await warehouse.copy_records_to_table("sent", records=list(enumerate(values)))
    found = await warehouse.fetch("SELECT value FROM sent ORDER BY place")
    assert [row["value"] for row in found] == ['{"a": 1.10}', '"\u00e9 \U0001f600"', None]
    assert await warehouse.fetchval("SELECT $1::jsonb -> 'a'", b'{"a": [1]}') == "[1]"


async def test_all_calendar_times_are_transferred_exactly(warehouse: asyncpg.Connection) -> None:
    await warehouse.execute("CREATE TEMPORARY TABLE sent (place integer, time timestamptz)")
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    elsewhere = datetime(2026, 9, 2, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=-9)))
    times = [first, elsewhere, last, None]
    await warehouse.copy_records_to_table("sent", records=list(enumerate(times)))
    found = await warehouse.fetch("SELECT time, time::text AS text FROM sent ORDER BY place")
    assert [row["time"] for row in found] == times
    assert [row["text"] for row in found] == [
        "0001-01-01 00:00:00+00",
        "2026-09-02 10:02:03.000004+00",
        "9999-12-31 23:59:59.999999+00",
        None,
    ]


async def test_pool_connections_are_configured(database_url: str) -> None:
    pool = await create_pool(database_url, "cortex", size=2)
    async with pool.acquire() as one, pool.acquire() as two:
        for connection in (one, two):
            assert await connection.fetchval("SELECT '[1]'::jsonb") == b"\x01[1]"
            assert await connection.fetchval("SELECT count(*) FROM runs") == 0
    await pool.close()


async def test_transaction_of_a_frozen_process_does_not_block_others(
    database_url: str, warehouse: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl.db.connect.IDLE_TRANSACTION_S", 1)
    pool = await create_pool(database_url, "cortex", size=1)
    async with pool.acquire() as frozen:
        await frozen.execute("BEGIN; LOCK TABLE apps")
        await asyncio.wait_for(warehouse.execute("SELECT count(*) FROM apps"), 20)
        with pytest.raises(LOST):
            await frozen.execute("SELECT 1")
    await pool.close()


async def test_released_connection_is_reset_without_a_statement(database_url: str) -> None:
    pool = await create_pool(database_url, "cortex", size=1)
    said: list[str] = []
    async with pool.acquire() as connection:
        connection.add_query_logger(lambda each: said.append(each.query))
        await connection.execute("SELECT 1")
    assert said == ["SELECT 1"]
    async with pool.acquire() as connection:
        await connection.execute("BEGIN")
        await connection.execute("SET LOCAL search_path TO nowhere")
    async with pool.acquire() as again:
        assert not again.is_in_transaction()
        assert await again.fetchval("SELECT count(*) FROM runs") == 0
    assert said.count("SELECT 1") == 1
    await pool.close()


async def test_connection_to_read_cannot_write(database_url: str) -> None:
    connection = await connect_to_read(database_url, "cortex", purpose="test")
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await connection.execute("DELETE FROM runs")
    assert await connection.fetchval("SELECT current_user") == "pg_read_all_data"
    await connection.execute("SET default_transaction_read_only = off")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("DELETE FROM runs")
    await connection.close()


def test_identifiers_are_quoted_or_refused() -> None:
    assert quote_identifier("cortex") == '"cortex"'
    assert quote_identifier('a"; DROP SCHEMA b; --') == '"a""; DROP SCHEMA b; --"'
    for name in ("", "a\0b", "é" * 32):
        with pytest.raises(DatabaseError, match="cannot be the name of a schema"):
            quote_identifier(name)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:s3cret@h:5432/d", "postgresql://u:***@h:5432/d"),
        ("postgres://u:s3%40cret:x@h/d?sslmode=require", "postgres://u:***@h/d?sslmode=require"),
        ("postgresql://u:s3@cret@h/d", "postgresql://u:***@h/d"),
        ("postgresql://h/d?user=u&password=s3cret&sslpassword=x", "postgresql://h/d?user=u&password=***&sslpassword=***"),
        ("postgresql://u@/d?host=/run/pg", "postgresql://u@/d?host=/run/pg"),
        ("postgresql://u:s3cret@[broken/d", "***"),
    ],
)  # fmt: skip
def test_passwords_are_masked(url: str, shown: str) -> None:
    assert redact_url(url) == shown


def _closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def refusal(url: str) -> DatabaseError:
    with pytest.raises(DatabaseError) as caught:
        await connect(url, "cortex")
    with pytest.raises(DatabaseError):
        await create_pool(url, "cortex", size=1)
    error = caught.value
    assert error.hint
    assert error.__cause__ is None
    assert "s3cret" not in f"{error} {error.hint}"
    return error


async def test_unreachable_server() -> None:
    port = _closed_port()
    error = await refusal(f"postgresql://u:s3cret@127.0.0.1:{port}/d")
    assert f'PostgreSQL cannot be reached at 127.0.0.1:{port}, database "d"' in error.message


async def test_no_such_host_or_socket() -> None:
    assert "no-such-host.invalid:5432" in (await refusal("postgresql://u:s3cret@no-such-host.invalid/d")).message
    assert "at /no/where, database" in (await refusal("postgresql://u:s3cret@/d?host=/no/where")).message


async def test_no_such_database_or_role(pg_server: str) -> None:
    missing = pg_server.replace("/cortex?", "/s3cret_not?").replace("/postgres?", "/missing?")
    with pytest.raises(DatabaseError, match=r'^the database does not exist: .*"$') as caught:
        await connect(missing, "cortex")
    assert "createdb" in caught.value.hint
    with pytest.raises(DatabaseError, match=r'role "nobody_here" does not exist'):
        await connect(pg_server.replace("//postgres@", "//nobody_here@"), "cortex")


async def test_libpq_only_parameters_are_ignored(database_url: str) -> None:
    """Hosting providers include these parameters in their URLs."""
    mark = "&" if "?" in database_url else "?"
    own = "connect_timeout=10&channel_binding=prefer&keepalives_idle=30&gssencmode=disable&client_encoding=utf8"
    connection = await connect(f"{database_url}{mark}{own}&application_name=mine", "cortex")
    assert await connection.fetchval("SELECT current_schema()") == "cortex"
    await connection.close()
    pool = await create_pool(f"{database_url}{mark}{own}", "cortex", size=1)
    await pool.close()
    with pytest.raises(DatabaseError, match='unrecognized configuration parameter "no_such"') as caught:
        await connect(f"{database_url}{mark}no_such=1", "cortex")
    assert "Remove this parameter" in caught.value.hint


async def test_server_that_does_not_match_target_session_attrs_is_refused(database_url: str) -> None:
    mark = "&" if "?" in database_url else "?"
    connection = await connect(f"{database_url}{mark}target_session_attrs=read-write", "cortex")
    await connection.close()
    with pytest.raises(DatabaseError, match="target attribute"):
        await connect(f"{database_url}{mark}target_session_attrs=standby", "cortex")


async def test_keepalives_of_libpq_are_set(database_url: str) -> None:
    def options(connection: Any) -> list[int]:
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        found = [connection._socket.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names]
        return [connection._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), *found]

    async with gated(database_url) as server:
        connection = await connect(server.url, "cortex")
        assert options(connection) == [1, 30, 10, 3, 60_000]
        await connection.close()
        pool = await create_pool(f"{server.url}?keepalives_idle=7&tcp_user_timeout=9000", "cortex", size=1)
        async with pool.acquire() as pooled:
            assert options(pooled) == [1, 7, 10, 3, 9000]
        await pool.close()
        connection = await connect(f"{server.url}?keepalives=0", "cortex")
        assert options(connection)[0] == 0
        await connection.close()
        with pytest.raises(DatabaseError, match=r"keepalives_idle in database\.url is not a whole number"):
            await connect(f"{server.url}?keepalives_idle=soon", "cortex")


async def test_server_detects_dead_clients(database_url: str) -> None:
    connection = await connect(database_url, "cortex")
    assert await connection.fetchval("SHOW client_connection_check_interval") == "10s"
    await connection.close()


async def test_database_without_connect_privilege(warehouse: asyncpg.Connection, database_url: str) -> None:
    role = f"stranger_{warehouse.get_server_pid()}"
    database = await warehouse.fetchval("SELECT current_database()")
    await warehouse.execute(f"CREATE ROLE {role} LOGIN; REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")
    try:
        with pytest.raises(DatabaseError, match="refused the login: permission denied for database") as caught:
            await connect(database_url.replace("//postgres@", f"//{role}@"), "cortex")
        assert "GRANT CONNECT ON DATABASE" in caught.value.hint
    finally:
        await warehouse.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:s3cret@h:port/d", "mysql://u:s3cret@h/d", "postgresql://u:s3cret@[::1/d", "s3cret", "postgresql://u:s3cret@h/d?sslmode=perhaps"],
)  # fmt: skip
async def test_unusable_urls(url: str) -> None:
    await refusal(url)


async def test_server_without_tls_is_refused_if_required() -> None:
    answering = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.current_task())
        await reader.read(8)
        writer.write(b"N")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    error = await refusal(f"postgresql://u:s3cret@127.0.0.1:{port}/d?sslmode=require")
    assert "SSL" in error.message
    server.close()
    await asyncio.gather(*answering)
