"""TLS connections to PostgreSQL, by the `sslmode` in `database.url`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from postgres_proxies import encrypting

from etl.db.connect import connect, create_pool
from etl.errors import DatabaseError

CERTIFICATE = Path(__file__).with_name("self_signed.pem")
OTHER = Path(__file__).with_name("other_authority.pem")


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_encrypted_connection(database_url, mode: str) -> None:
    async with encrypting(database_url, CERTIFICATE) as server:
        url = f"{server}?sslmode={mode}" + ("" if mode == "require" else f"&sslrootcert={CERTIFICATE}")
        connection: Any = await connect(url, "cortex")
        assert connection._transport.get_extra_info("ssl_object") is not None
        assert await connection.fetchval("SELECT count(*) FROM runs") == 0
        await connection.close()
        pool = await create_pool(url, "cortex", size=1)
        assert await pool.fetchval("SELECT 1") == 1
        await pool.close()


@pytest.mark.parametrize("root", ["", f"&sslrootcert={OTHER}", "&sslrootcert=/no/such/file.pem"])
async def test_unverified_server_is_refused(database_url, root: str) -> None:
    async with encrypting(database_url, CERTIFICATE) as server:
        with pytest.raises(DatabaseError) as refused:
            await connect(f"{server}?sslmode=verify-full{root}", "cortex")
        assert "sslrootcert" in refused.value.hint
        assert refused.value.exit_code == 4


async def test_server_requiring_tls_is_not_reached_without_it(database_url) -> None:
    async with encrypting(database_url, CERTIFICATE) as server:
        with pytest.raises(DatabaseError):
            await connect(f"{server}?sslmode=disable", "cortex")
