"""What `status` shows, and its exit code."""

from __future__ import annotations

import os
import re
import socket

from sync_trials import SCHEMA

from etl.db.session import Session
from etl.events import StreamId


async def held(warehouse, database_url: str) -> tuple[Session, StreamId]:
    """Let another invocation hold the first stream."""
    session = await Session.open(database_url, SCHEMA)
    await session.start_sync("backfill")
    stream = StreamId(*await warehouse.fetchrow("SELECT app_id, workflow_id FROM etl_streams ORDER BY 1, 2 LIMIT 1"))
    assert await session.lock(stream) is not None
    return session, stream


async def test_status_names_the_holder_of_a_stream_and_since_when(at_work, warehouse, database_url) -> None:
    command, _ = at_work
    await command("sync", "--quiet")
    session, stream = await held(warehouse, database_url)
    holder = rf"backfill \d+ \(process {os.getpid()} on {socket.gethostname()}, since \d{{4}}-\d\d-\d\d \d\d:\d\d UTC\)"
    ended = await command("status")
    assert ended.code == 0, "complete, whoever holds it"
    assert re.search(rf"^{stream}\n  held by {holder}$", ended.out, re.MULTILINE), ended.out
    rows = {(row["app_id"], row["workflow_id"]): row for row in (await command("status", "--json")).json["streams"]}
    assert re.fullmatch(holder, rows.pop(stream)["held_by"])
    assert {row["held_by"] for row in rows.values()} == {None}
    await session.close()
    assert "held by" not in (await command("status")).out
