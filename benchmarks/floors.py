"""Lower bounds of this machine: `python -m benchmarks.floors fetch|decode|copy ...` prints one JSON object."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from contextlib import suppress
from threading import Thread
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import uvloop
from msgspec import ValidationError

from benchmarks.data import App
from benchmarks.postgres import SCHEMA
from etl.db.connect import connect, set_loading_codecs
from etl.decode.items import digest, split_page
from etl.normalize.normalizer import Normalizer
from etl.normalize.run import RUN
from etl.tables import (
    CHILD_RUNS,
    RUN_STEP_CALLS,
    RUN_STEPS,
    RUN_USAGE_CALLS,
    RUNS,
    WORKFLOW_STEP_LINKS,
    WORKFLOW_STEPS,
    WORKFLOW_VERSIONS,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    import asyncpg

    from etl.tables import Table

CONNECTIONS = 8
BATCH = 1000
CHILDREN = (("steps", RUN_STEPS), ("calls", RUN_STEP_CALLS), ("usage", RUN_USAGE_CALLS), ("child_runs", CHILD_RUNS))


def fetch(port: int, name: str, pages: int) -> float:
    """Read every page over 8 connections and discard it; return the seconds."""
    app = App(name, int(name.rpartition("-")[2]))
    wanted = [(each, number) for each in app.workflows for number in range(1, pages + 1)]

    def read_some() -> None:
        buffer = memoryview(bytearray(2**20))
        with socket.create_connection(("127.0.0.1", port)) as connection:
            while wanted:
                workflow_id, number = wanted.pop()
                target = f"/apps/{name}/workflows/{workflow_id}/runs?page={number}&take=100&status=ALL"
                connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                got = connection.recv_into(buffer)
                head, _, body = bytes(buffer[:got]).partition(b"\r\n\r\n")
                left = int(head.partition(b"Content-Length: ")[2].split(b"\r\n", 1)[0]) - len(body)
                while left:
                    left -= connection.recv_into(buffer)

    readers = [Thread(target=read_some) for _ in range(CONNECTIONS)]
    started = perf_counter()
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return perf_counter() - started


def decode(runs: int) -> float:
    """Decode pages into typed items without decoding payloads; return the seconds."""
    app = App("floor", runs)
    bodies = [
        app.page(each, number, 100) for each in app.workflows for number in range(1, -(-app.runs_each // 100) + 1)
    ]
    started = perf_counter()
    for body in bodies:
        for item in split_page(body):
            with suppress(ValidationError):  # of the few runs with unknown fields, which are decoded field by field
                RUN.decode(item)
    return perf_counter() - started


class Rows:
    """The rows of an app's runs in batches of 1,000 runs, generated before anything is measured."""

    def __init__(self, runs: int) -> None:
        app = App("floor", runs)
        self.versions: dict[str, Any] = {}
        self.batches: list[dict[str, list[Any]]] = []
        normalizers = {each: Normalizer(app.name, each) for each in app.workflows}
        self.rows = 0
        batch: dict[str, list[Any]] = {}
        for index, (workflow_id, raw) in enumerate(app.all_runs()):
            if index % BATCH == 0:
                batch = {"runs": [], **{name: [] for name, _ in CHILDREN}}
                self.batches.append(batch)
            made = normalizers[workflow_id].normalize(raw, digest(raw))
            batch["runs"].append(made.run)
            for name, _ in CHILDREN:
                batch[name] += getattr(made, name)
            self.versions.update({version.id: version for version in made.versions})
        self.rows = sum(len(rows) for batch in self.batches for rows in batch.values())


async def copy(url: str, runs: int, connections: int) -> dict[str, float]:
    """COPY rows straight into their tables, batch by batch: keys and indexes are kept, foreign keys are not checked."""
    rows = Rows(runs)
    pool = [await connect(url, SCHEMA) for _ in range(connections)]
    for each in pool:
        await set_loading_codecs(each)
        await each.execute("SET session_replication_role = replica")
    pending = rows.batches[::-1]
    started, busy = perf_counter(), process_time()
    await _write(
        pool[0],
        (
            (WORKFLOW_VERSIONS, [version.row for version in rows.versions.values()]),
            (WORKFLOW_STEPS, [row for version in rows.versions.values() for row in version.steps]),
            (WORKFLOW_STEP_LINKS, [row for version in rows.versions.values() for row in version.links]),
        ),
    )
    await asyncio.gather(*(_write_batches(connection, pending) for connection in pool))
    return {"seconds": perf_counter() - started, "cpu_s": process_time() - busy, "rows": rows.rows}


async def _write_batches(connection: asyncpg.Connection, pending: list[dict[str, list[Any]]]) -> None:
    while pending:
        batch = pending.pop()
        await _write(connection, [(table, batch[name]) for name, table in (("runs", RUNS), *CHILDREN)])


async def _write(connection: asyncpg.Connection, tables: Iterable[tuple[Table, list[Any]]]) -> None:
    async with connection.transaction():
        for table, records in tables:
            await connection.copy_records_to_table(table.name, columns=table.names, records=records)


def main(what: str, *arguments: str) -> None:
    """Run one of the measurements and print its result."""
    if what == "fetch":
        print(json.dumps({"seconds": fetch(int(arguments[0]), arguments[1], int(arguments[2]))}))
    elif what == "decode":
        print(json.dumps({"seconds": decode(int(arguments[0]))}))
    else:
        print(json.dumps(uvloop.run(copy(arguments[0], int(arguments[1]), int(arguments[2])))))


if __name__ == "__main__":
    main(*sys.argv[1:])
