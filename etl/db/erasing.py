"""Erasing for good: a run or all of a record goes, and a tombstone keeps it from coming back.

A tombstone of a run also says which stream lists it, so that the warehouse's count of a stream still agrees with the
API's. The tombstones are committed first, behind every commit under way; each later commit looks at them once more
before it ends (`erase_landed`), so that no process can bring a run back that it had in hand meanwhile.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etl.db.statements import statements
from etl.decode import spelled_plainly

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import asyncpg

    from etl.events import StreamId

_SQL = statements("erasing")

_PAYLOADS_AT_ONCE = 20  # of the quarantine; each may take megabytes


@dataclass(frozen=True, slots=True)
class Erased:
    """An erased run as it stands in a listing; None where that cannot be told."""

    run_id: str
    status: str | None
    origin: str | None


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was erased: runs with all that belongs to them, and items of the quarantine."""

    runs: int
    rejects: int


class Quotations:
    """Tells which JSON texts name one of some records, wherever and however it stands in them.

    Args:
        record_ids: of the records, as in the tables.
    """

    def __init__(self, record_ids: Iterable[str]) -> None:
        self._needles = [spelled_plainly(json.dumps(each, ensure_ascii=False).encode()) for each in record_ids]

    def are_in(self, raw: bytes) -> bool:
        """Whether a JSON text, valid or not, holds one of the ids as a string."""
        if not self._needles:
            return False
        plain = spelled_plainly(raw)
        return any(needle in plain for needle in self._needles)


async def forget(connection: asyncpg.Connection, runs: Sequence[str], records: Sequence[str]) -> Forgotten:
    """Erase runs, and all runs of records: rows, children, and bytes in quarantine.

    Run again after an interruption, it goes on. Ids that the warehouse does not hold get their tombstone as well.

    Args:
        connection: to the warehouse, outside of a transaction.
        runs: ids of runs.
        records: ids of records.
    """
    async with connection.transaction():
        await connection.execute(_SQL["wait_for_commits"])
        await connection.execute(_SQL["entomb"], "run", list(runs))
        await connection.execute(_SQL["entomb"], "record", list(records))
    doomed = [row["id"] for row in await connection.fetch(_SQL["doomed_runs"], list(runs), list(records))]
    for run_id in doomed:
        await connection.execute(_SQL["erase_run"], run_id)
    rejects = [row["id"] for row in await connection.fetch(_SQL["rejects_of"], [*runs, *doomed])]
    if records:
        quotations = Quotations(records)
        async with connection.transaction():
            found = connection.cursor(_SQL["payloads_of_rejects"], prefetch=_PAYLOADS_AT_ONCE)
            rejects += [row["id"] async for row in found if quotations.are_in(row["payload"])]
    for number in set(rejects):
        await connection.execute(_SQL["erase_reject"], number)
    return Forgotten(len(doomed), len(set(rejects)))


async def keep_erased(
    connection: asyncpg.Connection, stream: StreamId, erased: Sequence[Erased], landed: Sequence[str]
) -> None:
    """End a commit, after its check of the fencing token: nothing that was forgotten may land.

    Args:
        connection: in the transaction.
        stream: whose commit it is.
        erased: erased runs that its listing shows; what is stored of them, from before they came to an erased record,
            goes.
        landed: ids of the runs that the transaction wrote, rows or rejects.
    """
    if erased:
        await connection.execute(_SQL["erase_met"], [each.run_id for each in erased])
    for each in erased:
        await connection.execute(_SQL["bury_met"], each.run_id, *stream, each.status, each.origin)
    if landed and await connection.fetchval(_SQL["anything_erased"]):
        await connection.execute(_SQL["erase_landed"], list(landed))
        await connection.execute(_SQL["erase_landed_rejects"], list(landed))
