"""The warehouse as Parquet files, for those who live elsewhere: DuckDB, Spark, pandas.

One file a table and month of the run's `created_at` (UTC): `runs/2026-11.parquet`, `run_steps/2026-11.parquet` and so
on; `undated` for runs without one; `all` for the tables of workflows and their definitions. `manifest.json` remembers
which state of a month its files hold, so that the next export writes only the months that were touched since.

Times are UTC timestamps with microseconds, JSON is text, credits are decimals with 22 digits after the point: one with
more is rounded, one of 10^16 or more is null, and the manifest counts both (`decimals_not_exact`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from etl.db.reading import reading
from etl.db.statements import statements
from etl.errors import SettingsError
from etl.export import manifest
from etl.export.columns import Columns, batch, columns
from etl.tables import APPS, DEFINITIONS, RUN_CHILDREN, RUNS, WORKFLOWS

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from etl.export.manifest import Manifest, Written

__all__ = ["export_parquet"]

_MONTHLY = (RUNS, *RUN_CHILDREN)
_WHOLE = (APPS, WORKFLOWS, *DEFINITIONS)
_DEFINITIONS = "definitions"
_UNDATED = "undated"
_FETCHED_ROWS = 1_000
_GROUP_ROWS = 50_000  # of a row group, at most
_GROUP_BYTES = 64 * 2**20  # of a row group in memory, about


@dataclass(frozen=True, slots=True)
class _Month:
    """A month of runs, from `start` (inclusive) to `end` (exclusive); both None: the runs without created_at."""

    start: datetime | None
    end: datetime | None
    fingerprint: str

    @property
    def name(self) -> str:
        return _UNDATED if self.start is None else f"{self.start:%Y-%m}"


async def export_parquet(url: str, schema: str, directory: Path, *, since: date | None = None) -> dict[Path, int]:
    """Bring the Parquet files in a directory up to date.

    Each file is replaced in one go, and the files of a month come from one snapshot of the database.

    Args:
        url: the database.
        schema: the warehouse's schema.
        directory: made if need be.
        since: leave months before this day's alone.

    Returns:
        The files written, each with how many decimals in it were rounded or left out; none where nothing has changed
        since the last export.

    Raises:
        SettingsError: the directory cannot be written, or another export is writing there.
        DatabaseError: the warehouse cannot be reached, or is not there.
    """
    try:
        with manifest.locked(directory):
            async with reading(url, schema, purpose="export") as connection:
                return await _Export(connection, directory).run(since)
    except OSError as error:
        raise SettingsError(
            f"cannot write to {error.filename or directory}: {error.strerror or error}",
            hint="Name a directory that can be written, with room enough.",
        ) from error


class _Export:
    """One export, on one connection."""

    def __init__(self, connection: asyncpg.Connection, directory: Path) -> None:
        self._connection = connection
        self._directory = directory
        self._written: dict[Path, int] = {}

    async def run(self, since: date | None) -> dict[Path, int]:
        tables = {each.name: await columns(self._connection, each.name) for each in (*_WHOLE, *_MONTHLY)}
        ledger = manifest.read(self._directory, {name: each.layout for name, each in tables.items()})
        await self._definitions(ledger, tables)
        months = await self._months()
        for gone in ledger.parts.keys() - {each.name for each in months} - {_DEFINITIONS}:
            ledger.drop(gone)
        for month in months:
            is_old = since is not None and month.end is not None and month.end.date() <= since
            if not is_old and not ledger.is_current(month.name, month.fingerprint):
                await self._month(ledger, tables, month)
        return self._written

    async def _months(self) -> list[_Month]:
        found = []
        for row in await self._connection.fetch(statements("export")["months"]):
            start = row["month"] and row["month"].replace(tzinfo=UTC)
            found.append(_Month(start, _next_month(start), row["fingerprint"]))
        return found

    async def _month(self, ledger: Manifest, tables: dict[str, Columns], month: _Month) -> None:
        """Write the files of one month, and its fingerprint as it is in the same snapshot."""
        bounds = () if month.start is None else (month.start, month.end)
        condition = "runs.created_at IS NULL" if not bounds else "runs.created_at >= $1 AND runs.created_at < $2"
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            now = await self._connection.fetchrow(statements("export")["month"], month.start, month.end)
            if now is None or not now["runs"]:
                return
            files = {}
            for table in _MONTHLY:
                wanted = tables[table.name]
                source = table.name if table is RUNS else f"{table.name} JOIN runs ON runs.id = {table.name}.run_id"
                query = f"SELECT {wanted.selection} FROM {source} WHERE {condition}"  # noqa: S608 -- names of our own, quoted
                path = f"{table.name}/{month.name}.parquet"
                files[path] = await self._file(path, wanted, query, *bounds)
        ledger.record(month.name, manifest.Part(now["fingerprint"], files))

    async def _definitions(self, ledger: Manifest, tables: dict[str, Columns]) -> None:
        """Write the tables that have no months, if any of them has changed."""
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            state = hashlib.sha256()
            for table in _WHOLE:
                query = f"SELECT count(*), sum(hash_record_extended({table.name}, 0)) FROM {table.name}"  # noqa: S608 -- names of our own
                state.update(repr(await self._connection.fetch(query)).encode())
            fingerprint = state.hexdigest()
            if ledger.is_current(_DEFINITIONS, fingerprint):
                return
            files = {}
            for table in _WHOLE:
                wanted = tables[table.name]
                path = f"{table.name}/all.parquet"
                query = f"SELECT {wanted.selection} FROM {table.name}"  # noqa: S608 -- names of our own, quoted
                files[path] = await self._file(path, wanted, query)
        ledger.record(_DEFINITIONS, manifest.Part(fingerprint, files))

    async def _file(self, name: str, wanted: Columns, query: str, *values: object) -> Written:
        """Write what a query gives to one file, which takes the old one's place when it is whole."""
        path = self._directory / name
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        try:
            with pq.ParquetWriter(temporary, wanted.schema, compression="zstd") as writer:
                rows, misfits = await self._row_groups(writer, wanted, query, *values)
            size = temporary.stat().st_size
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._written[path] = misfits
        return manifest.Written(rows, size, misfits)

    async def _row_groups(
        self, writer: pq.ParquetWriter, wanted: Columns, query: str, *values: object
    ) -> tuple[int, int]:
        """Write what a query gives, in groups of bounded size; return how many rows, and decimals that did not fit."""
        rows = misfits = 0
        group: list[pa.RecordBatch] = []
        cursor = await self._connection.cursor(query, *values)
        while fetched := await cursor.fetch(_FETCHED_ROWS):
            one, unfit = batch(fetched, wanted.schema)
            group.append(one)
            rows, misfits = rows + len(fetched), misfits + unfit
            if sum(map(len, group)) >= _GROUP_ROWS or sum(each.nbytes for each in group) >= _GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(group))
                group.clear()
        if group:
            writer.write_table(pa.Table.from_batches(group))
        return rows, misfits


def _next_month(start: datetime | None) -> datetime | None:
    if start is None:
        return None
    if (start.year, start.month) == (9999, 12):
        return datetime.max.replace(tzinfo=UTC)
    return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
