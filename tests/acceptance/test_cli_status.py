"""The output and exit code of `status`."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket

import pytest
from sync_trials import SCHEMA

from etl.db.session import Session
from etl.events import StreamId
from etl.sandbox.faults import Status, lists_runs


async def held(warehouse, database_url: str) -> tuple[Session, StreamId]:
    """Let another invocation lock the first stream."""
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
    assert ended.code == 0, "complete, although it is held"
    assert re.search(rf"^{stream}\n  held by {holder}$", ended.out, re.MULTILINE), ended.out
    assert re.search(r"^last: backfill running \d+s ago$", ended.out, re.MULTILINE), ended.out
    rows = {(row["app_id"], row["workflow_id"]): row for row in (await command("status", "--json")).json["streams"]}
    assert re.fullmatch(holder, rows.pop(stream)["held_by"])
    assert {row["held_by"] for row in rows.values()} == {None}
    await session.close()
    assert "held by" not in (await command("status")).out


def lists_workflows(request) -> bool:
    return request.path.endswith("/workflows")


@pytest.mark.parametrize(("status", "code"), [(401, 3), (403, 1)])
async def test_status_shows_an_app_whose_workflows_could_never_be_listed(at_work, status, code) -> None:
    command, running = at_work
    assert (await command("status")).code == 1, "no sync has run yet"
    running.faults.on(lists_workflows, Status(status, message="no access"))
    synced = await command("sync", "--json")
    assert synced.code == code
    ended = await command("status")
    assert ended.code == 1
    for app_id in running.world.apps:
        assert re.search(rf"^{app_id}/\* +failing", ended.out, re.MULTILINE), ended.out
    names = "\n".join(f"{app_id}/\\*" for app_id in running.world.apps)
    each = names if code == 3 else names.split("\n")[0]  # a refused key is reported once
    assert len(re.findall("^  hint", ended.out, re.MULTILINE)) == 1
    assert re.search(rf"^{each}\n  failing: .*no access\n(.*\n)*  hint.*: .+\.\n", ended.out, re.MULTILINE), ended.out
    assert "last: sync failed" in ended.out
    running.faults.clear()
    assert (await command("sync", "--quiet")).code == 0
    ended = await command("status")
    assert (ended.code, "failing" in ended.out) == (0, False)


async def test_refused_key_makes_every_stream_failing(at_work) -> None:
    command, running = at_work
    assert (await command("sync", "--quiet")).code == 0
    workflows = set(running.world.workflows)
    running.faults.on(lists_runs, Status(401, message="expired"))
    ended = await command("sync", "--json")
    assert (ended.code, ended.json["exit_code"]) == (3, 3)
    assert {each["workflow_id"]: each["status"] for each in ended.json["streams"]} == dict.fromkeys(workflows, "failed")
    for each in ended.json["streams"]:
        assert (each["error"], each["hint"]) == (ended.json["error"], ended.json["hint"])
    shown = await command("sync")
    assert (shown.code, "expired" in shown.out) == (3, False), "it is reported once, on stderr"
    assert len(re.findall("^error: .*expired", shown.err, re.MULTILINE)) == 1
    status = await command("status", "--json")
    assert status.code == 1
    assert {each["workflow_id"]: each["state"] for each in status.json["streams"]} == dict.fromkeys(
        workflows, "failing"
    )
    for each in status.json["streams"]:
        assert (each["last_error"], each["hint"]) == (status.json["last_sync"]["error"], ended.json["hint"])
    assert (await command("status")).out.count("hint") == 1
    running.faults.clear()
    assert (await command("sync", "--quiet")).code == 0
    assert (await command("status")).code == 0


async def test_killed_first_sync_is_shown_as_interrupted(at_work, warehouse) -> None:
    command, running = at_work
    process: asyncio.subprocess.Process | None = None

    async def kill(path: str, query: dict[str, str], number: int) -> None:
        if number > 30:
            process.send_signal(signal.SIGKILL)

    running.faults.before_response = kill
    path = command.folder / "config.yaml"
    path.write_text(path.read_text().replace("api:\n", "api:\n  page_size: 4\n"))
    process = await command.start("sync")
    await process.communicate()
    running.faults.before_response = None
    skipped = "INSERT INTO etl_syncs (mode, status, ended_at) VALUES ('sync', 'skipped', now())"
    await warehouse.execute(skipped)  # before PostgreSQL noticed
    ended = await command("status")
    assert ended.code == 1
    assert re.search(r"^last: sync interrupted \d+s ago$", ended.out, re.MULTILINE), "its requests are not known"
    assert await warehouse.fetchval("SELECT count(*) FROM sync_health WHERE hint ~ 'backfill'") > 1
    assert len(re.findall("hint.*backfill", ended.out)) == 1
    assert await warehouse.fetchval("SELECT status FROM etl_syncs ORDER BY id LIMIT 1") == "running"
    assert (await command("sync", "--quiet")).code == 0
    assert await warehouse.fetchval(
        "SELECT array_agg(status ORDER BY id) FROM etl_syncs WHERE status <> 'skipped'"
    ) == [
        "interrupted",
        "succeeded",
    ]


async def test_new_app_that_lists_nothing_is_named(at_work) -> None:
    command, running = at_work
    running.world.workflows.clear()
    ended = await command("sync")
    assert (ended.code, ended.err.count("app.lists_nothing")) == (0, len(running.world.apps))
    assert "the API lists 0 workflows" in (await command("doctor")).out


async def test_app_that_lists_nothing_any_more_is_a_failure(at_work, warehouse) -> None:
    command, running = at_work
    assert (await command("sync", "--quiet")).code == 0
    workflows, synced_at = dict(running.world.workflows), "SELECT min(last_succeeded_at) FROM etl_streams"
    before = await warehouse.fetchval(synced_at)
    running.world.workflows.clear()
    ended = await command("sync", "--quiet")
    assert (ended.code, "the app lists no workflows, although it did before" in ended.err) == (1, True)
    ended = await command("status")
    assert (ended.code, "failing: the app lists no workflows" in ended.out) == (1, True)
    assert await warehouse.fetchval(synced_at) == before
    running.world.workflows |= workflows
    assert (await command("sync", "--quiet")).code == 0
    assert (await command("status")).code == 0


async def test_status_explains_why_a_sync_of_a_stream_is_expensive(at_work, warehouse) -> None:
    command, _ = at_work
    path = command.folder / "config.yaml"
    path.write_text(path.read_text().replace("api:\n", "api:\n  page_size: 20\n"))
    assert (await command("sync", "--quiet")).code == 0
    assert "not cheap" not in (await command("status")).out
    await warehouse.execute("UPDATE etl_streams SET listing_order = 'none' WHERE api_count > 20")
    ended = await command("status")
    large = await warehouse.fetch("SELECT app_id, workflow_id FROM etl_streams WHERE api_count > 20")
    said, _ = ended.out.split("\n  not cheap: its listing is not sorted by time")
    assert ended.code == 0
    assert set(said.split("\n")[-len(large) :]) == {"/".join(row) for row in large}
