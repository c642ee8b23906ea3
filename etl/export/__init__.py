"""Export the warehouse to Parquet files, for DuckDB, Spark and pandas.

There is one file per table and month of the run's `created_at` (UTC), such as `runs/2026-11.parquet`. Runs without
`created_at` are in files named `undated`; workflows and their definitions are in files named `all`. `manifest.json`
stores a fingerprint of each month, so that the next export writes only months that have changed.

Times are UTC timestamps with microseconds, JSON is text, and credits are decimals with 22 fractional digits. Values
with more digits are rounded, and values of 10^16 or more become null; the manifest counts both (`decimals_not_exact`).
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
from etl.errors import cannot_write
from etl.export import manifest
from etl.export.arrow import Columns, read_columns, to_record_batch
from etl.files import refuse_foreign_link, replacing
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
_GROUP_ROWS = 50_000  # maximum rows of a row group
_GROUP_BYTES = 64 * 2**20  # approximate maximum size of a row group in memory


@dataclass(frozen=True, slots=True)
class _Month:
    """A month of runs from `start` (inclusive) to `end` (exclusive); both are None for runs without `created_at`."""

    start: datetime | None
    end: datetime | None
    fingerprint: str

    @property
    def name(self) -> str:
        return _UNDATED if self.start is None else f"{self.start:%Y-%m}"


async def export_parquet(url: str, schema: str, directory: Path, *, since: date | None = None) -> dict[Path, int]:
    """Update the Parquet files in a directory.

    Each file is replaced atomically, and the files of a month are written from one snapshot of the database.

    Args:
        url: URL of the database.
        schema: schema of the warehouse.
        directory: the export directory; created if missing.
        since: skip the months before the month of this day.

    Returns:
        The files written, each with the number of its decimals that were rounded or set to null. Empty if nothing has
        changed since the last export.

    Raises:
        SettingsError: the directory cannot be written, or another export is writing to it.
        DatabaseError: the warehouse is unreachable or does not exist.
    """
    try:
        with manifest.locked(directory):
            async with reading(url, schema, purpose="export") as connection:
                return await _Export(connection, directory).run(since)
    except OSError as error:
        raise cannot_write(error.filename or directory, error, hint="Choose a writable directory.") from error


class _Export:
    """One export through one connection."""

    def __init__(self, connection: asyncpg.Connection, directory: Path) -> None:
        self._connection = connection
        self._directory = directory
        self._written: dict[Path, int] = {}

    async def run(self, since: date | None) -> dict[Path, int]:
        tables = {each.name: await read_columns(self._connection, each.name) for each in (*_WHOLE, *_MONTHLY)}
        exported = manifest.read(self._directory, {name: each.layout for name, each in tables.items()})
        await self._write_definitions(exported, tables)
        months = await self._read_months()
        for empty in exported.parts.keys() - {each.name for each in months} - {_DEFINITIONS}:
            exported.drop(empty)
        for month in months:
            is_old = since is not None and month.end is not None and month.end.date() <= since
            if not is_old and not exported.is_current(month.name, month.fingerprint):
                await self._write_month(exported, tables, month)
        return self._written

    async def _read_months(self) -> list[_Month]:
        found = []
        for row in await self._connection.fetch(statements("export")["months"]):
            start = row["month"] and row["month"].replace(tzinfo=UTC)
            found.append(_Month(start, _next_month(start), row["fingerprint"]))
        return found

    async def _write_month(self, exported: Manifest, tables: dict[str, Columns], month: _Month) -> None:
        """Write the files of one month, and record its fingerprint from the same snapshot."""
        bounds = () if month.start is None else (month.start, month.end)
        condition = "runs.created_at IS NULL" if not bounds else "runs.created_at >= $1 AND runs.created_at < $2"
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            current = await self._connection.fetchrow(statements("export")["month"], month.start, month.end)
            if current is None or not current["runs"]:
                return
            files = {}
            for table in _MONTHLY:
                columns = tables[table.name]
                source = table.name
                if table is not RUNS:
                    source += f" JOIN runs ON runs.id = {table.name}.{table.key[0]}"
                query = f"SELECT {columns.selection} FROM {source} WHERE {condition}"  # noqa: S608 -- our own names, quoted
                path = f"{table.name}/{month.name}.parquet"
                files[path] = await self._write_file(path, columns, query, *bounds)
        exported.record(month.name, manifest.Part(current["fingerprint"], files))

    async def _write_definitions(self, exported: Manifest, tables: dict[str, Columns]) -> None:
        """Write the tables that are not split by month if any of them has changed."""
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            state = hashlib.sha256()
            for table in _WHOLE:
                query = f"SELECT count(*), sum(hash_record_extended({table.name}, 0)) FROM {table.name}"  # noqa: S608 -- our own names
                state.update(repr(await self._connection.fetch(query)).encode())
            fingerprint = state.hexdigest()
            if exported.is_current(_DEFINITIONS, fingerprint):
                return
            files = {}
            for table in _WHOLE:
                columns = tables[table.name]
                path = f"{table.name}/all.parquet"
                query = f"SELECT {columns.selection} FROM {table.name}"  # noqa: S608 -- our own names, quoted
                files[path] = await self._write_file(path, columns, query)
        exported.record(_DEFINITIONS, manifest.Part(fingerprint, files))

    async def _write_file(self, name: str, columns: Columns, query: str, *values: object) -> Written:
        """Write the result of a query to one file, replacing the old one atomically."""
        path = self._directory / name
        refuse_foreign_link(path.parent)
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as file:
            with pq.ParquetWriter(file, columns.schema, compression="zstd") as writer:
                rows, inexact = await self._write_row_groups(writer, columns, query, *values)
            size = file.tell()
        self._written[path] = inexact
        return manifest.Written(rows, size, inexact)

    async def _write_row_groups(
        self, writer: pq.ParquetWriter, columns: Columns, query: str, *values: object
    ) -> tuple[int, int]:
        """Write the result of a query in row groups of limited size; return the numbers of rows, inexact decimals."""
        rows = inexact = 0
        group: list[pa.RecordBatch] = []
        cursor = await self._connection.cursor(query, *values)
        while fetched := await cursor.fetch(_FETCHED_ROWS):
            batch, rounded = to_record_batch(fetched, columns.schema)
            group.append(batch)
            rows, inexact = rows + len(fetched), inexact + rounded
            if sum(map(len, group)) >= _GROUP_ROWS or sum(each.nbytes for each in group) >= _GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(group))
                group.clear()
        if group:
            writer.write_table(pa.Table.from_batches(group))
        return rows, inexact


def _next_month(start: datetime | None) -> datetime | None:
    if start is None:
        return None
    if (start.year, start.month) == (9999, 12):
        return datetime.max.replace(tzinfo=UTC)
    return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
