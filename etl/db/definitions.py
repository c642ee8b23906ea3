"""Load the version documents that runs refer to, keeping the newest copy of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from etl.db.statements import statements
from etl.normalize.rows import effective_updated_at
from etl.tables import WORKFLOW_STEP_LINKS, WORKFLOW_STEPS, WORKFLOW_VERSIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    import asyncpg

    from etl.normalize.rows import RunRows, VersionRows
    from etl.tables import Table

_SQL = statements("load")


async def write_definitions(
    connection: asyncpg.Connection, runs: Iterable[RunRows], *, authoritative: bool = False
) -> int:
    """Write the definitions that runs refer to, if they are new or newer than the stored ones.

    Stored definitions are locked against deletion until the transaction ends.

    Args:
        connection: a connection in the transaction that writes the runs.
        runs: the runs.
        authoritative: whether to replace stored definitions regardless of their age; see `Batch`.

    Returns:
        The number of rows written.
    """
    wanted: dict[str, tuple[VersionRows, datetime | None]] = {}
    for rows in runs:
        as_of = effective_updated_at(rows.updated_at, rows.updated_on_day)
        for version in rows.versions:
            newest = wanted.get(version.id)
            if newest is None or _supersedes(as_of, newest[1]):
                wanted[version.id] = (version, as_of)
    if not wanted:
        return 0
    stored = {row["id"]: row for row in await connection.fetch(_SQL["hold_versions"], list(wanted))}
    new: list[tuple[VersionRows, datetime | None]] = []
    replaced: list[tuple[VersionRows, datetime | None]] = []
    for key, (version, as_of) in sorted(wanted.items()):  # the same order in all transactions prevents deadlocks
        row = stored.get(key)
        if row is None:
            new.append((version, as_of))
        elif row["content_hash"] == version.digest:
            if _later(as_of, row["as_of"]):
                await connection.execute(_SQL["touch_version"], key, as_of)
        elif authoritative or _supersedes(as_of, row["as_of"]):
            replaced.append((version, as_of))
    return await _write(connection, new, replaced)


async def _write(
    connection: asyncpg.Connection,
    new: Sequence[tuple[VersionRows, datetime | None]],
    replaced: Sequence[tuple[VersionRows, datetime | None]],
) -> int:
    if new:
        await copy_rows(connection, WORKFLOW_VERSIONS, [(*version.row[:-1], as_of) for version, as_of in new])
    if replaced:
        await connection.executemany(_UPDATE_VERSION, [(*version.row[:-1], as_of) for version, as_of in replaced])
        await connection.execute(_SQL["delete_version_parts"], [version.id for version, _ in replaced])
    both = [version for version, _ in (*new, *replaced)]
    await copy_rows(connection, WORKFLOW_STEPS, [row for version in both for row in version.steps])
    await copy_rows(connection, WORKFLOW_STEP_LINKS, [row for version in both for row in version.links])
    return len(both) + sum(len(version.steps) + len(version.links) for version in both)


def _later(one: datetime | None, other: datetime | None) -> bool:
    return one is not None and (other is None or one > other)


def _supersedes(incoming: datetime | None, stored: datetime | None) -> bool:
    """Return whether a copy that was received later replaces the stored one: not if its time is earlier."""
    return incoming is None or stored is None or incoming >= stored


async def copy_rows(connection: asyncpg.Connection, table: Table, records: Sequence[tuple[Any, ...]]) -> None:
    """COPY rows into a table, with values in the order of its columns."""
    if records:
        await connection.copy_records_to_table(table.name, columns=table.names, records=records)


_ASSIGNED = ", ".join(f'"{name}" = ${place}' for place, name in enumerate(WORKFLOW_VERSIONS.names, 1) if name != "id")
_UPDATE_VERSION = f"UPDATE workflow_versions SET {_ASSIGNED} WHERE id = $1"  # noqa: S608 - from the descriptors alone
