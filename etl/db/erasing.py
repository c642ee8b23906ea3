"""Erase runs permanently. An erased run keeps the columns needed for counts and sums; all other content is removed.

`forget` waits for running loads, commits the salted hashes of the ids, and then blanks the stored rows. Each later
load checks its runs against the hashes in its own transaction and blanks erased ones, so that no process can restore
content that it read earlier.
"""

from __future__ import annotations

import json
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from asyncpg import ForeignKeyViolationError, LockNotAvailableError
from msgspec.structs import replace

from etl.db.rollups import update_own_credits
from etl.db.statements import statements
from etl.decode.json_text import clean_text
from etl.errors import DatabaseError
from etl.tables import RUNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import asyncpg

    from etl.db.batch import Reject
    from etl.normalize.rows import RunRows

_SQL = statements("erasing")

LOADS_TIMEOUT_S: Final = 30.0
"""How long `forget` waits for running loads, in seconds. New loads queue behind it."""

FORGOTTEN: Final = b'"[forgotten]"'
"""Replaces the bytes of an erased item in the quarantine."""

ERASED: Final = "erased"
"""Replaces the error message of an erased item, because the message may quote the bytes."""

KEPT: Final = (
    "id", "app_id", "workflow_app_id", "workflow_id", "workflow_version_id", "version", "status", "origin",
    "started_at", "ended_at", "created_at", "updated_at", "updated_on_day", "credits", "own_credits", "stream_app_id",
    "listed_under_app_id", "listed_under_workflow_id",
)  # fmt: skip
"""The columns that an erased run keeps."""

OF_VERSION: Final = ("workflow_version_id", "version")
"""Kept columns that are blanked if the run used a draft."""

_RECORD: Final = RUNS.names.index("record_id")
_PAYLOADS_AT_ONCE: Final = 20  # rows of the quarantine per fetch; each may have megabytes
_TEXT: Final = re.compile(rb'((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED: Final = re.compile(rb'\\(["\\])')


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Numbers of erased runs and of erased items in the quarantine."""

    runs: int
    rejects: int


@dataclass(frozen=True, slots=True)
class Erased:
    """The erased items of a batch: ids of runs, and digests of rejects."""

    runs: frozenset[str] = frozenset()
    rejects: frozenset[bytes] = frozenset()


class _Hashes:
    """Computes salted hashes of ids."""

    def __init__(self, salt: str) -> None:
        self._salt = bytes.fromhex(salt)

    def run(self, run_id: str) -> bytes:
        return self._of("run", run_id.encode())

    def record(self, record_id: str) -> bytes:
        return self._of("record", record_id.encode())

    def texts(self, raw: bytes) -> Iterator[bytes]:
        """Hash all strings in a JSON text, which may be invalid, as ids of records."""
        for text in _TEXT.findall(_normalize_escapes(raw)):
            yield self._of("record", _ESCAPED.sub(rb"\1", text))

    def _of(self, kind: str, name: bytes) -> bytes:
        return sha256(b"%b%b\n%b" % (self._salt, kind.encode(), name)).digest()


def blank(rows: RunRows) -> RunRows:
    """Blank the rows of an erased run: no content, no children, no draft."""
    values = dict(zip(RUNS.names, rows.run, strict=True))
    used_draft = (
        values["workflow_draft_id"] is not None and values["workflow_version_id"] == values["workflow_draft_id"]
    )
    kept = {name for name in KEPT if not (used_draft and name in OF_VERSION)}
    values["updated_on_day"] = values["updated_on_day"] or None
    return replace(
        rows,
        run=tuple(value if name in kept else None for name, value in values.items()),
        steps=[],
        calls=[],
        usage=[],
        child_runs=[],
        versions=tuple(
            each for each in rows.versions if "workflow_version_id" in kept and each.id == values["workflow_version_id"]
        ),
        emptied=False,
        retention_due_at=None,
    )


async def find_erased(connection: asyncpg.Connection, runs: Sequence[RunRows], rejects: Sequence[Reject]) -> Erased:
    """Find the erased items of a batch, in the transaction that loads it.

    Record runs of an erased record as erased, and blank stored runs that are not blank yet.
    """
    salt = await connection.fetchval(_SQL["salt"])
    if salt is None:  # nothing was ever erased
        return Erased()
    hashes = _Hashes(salt)
    by_id = {rows.run_id: hashes.run(rows.run_id) for rows in runs}
    by_record = {rows.run_id: hashes.record(rows.run[_RECORD]) for rows in runs if rows.run[_RECORD] is not None}
    in_rejects = {
        each.digest: {*hashes.texts(bytes(each.item.raw)), *([hashes.run(each.run_id)] if each.run_id else [])}
        for each in rejects
    }
    hashed = {*by_id.values(), *by_record.values()}.union(*in_rejects.values())
    known = {row["hash"] for row in await connection.fetch(_SQL["known"], list(hashed))}
    unrecorded = [each for each, of_record in by_record.items() if of_record in known and by_id[each] not in known]
    await _record_hashes(connection, "run", [by_id[each] for each in unrecorded])
    erased = frozenset(each for each, of_run in by_id.items() if of_run in known).union(unrecorded)
    if erased:
        for row in await connection.fetch(_SQL["runs_to_erase"], list(erased), []):
            await _erase_run(connection, row["id"])
    return Erased(erased, frozenset(each for each, found in in_rejects.items() if not known.isdisjoint(found)))


async def count(connection: asyncpg.Connection, runs: Sequence[str], records: Sequence[str]) -> int:
    """Count the runs whose content `forget` would erase."""
    found: int = await connection.fetchval(_SQL["count_to_erase"], list(runs), list(records))
    return found


async def forget(connection: asyncpg.Connection, runs: Sequence[str], records: Sequence[str]) -> Forgotten:
    """Erase runs by id and by record: their content, their children, and their bytes in the quarantine.

    An interrupted call can be repeated. Ids that are not in the warehouse are recorded too, for later loads.

    Args:
        connection: a connection to the warehouse, outside of a transaction.
        runs: ids of runs.
        records: ids of records.

    Raises:
        DatabaseError: a running load did not end in time; nothing was erased.
    """
    async with connection.transaction():
        await _wait_for_loads(connection)
        await connection.execute(_SQL["create_salt"], secrets.token_hex(32))
        hashes = _Hashes(await connection.fetchval(_SQL["salt"]))
        stored = [row["id"] for row in await connection.fetch(_SQL["runs_to_erase"], list(runs), list(records))]
        await _record_hashes(connection, "run", [hashes.run(each) for each in {*runs, *stored}])
        await _record_hashes(connection, "record", [hashes.record(each) for each in records])
    for run_id in stored:
        async with connection.transaction():
            await _erase_run(connection, run_id)
    await update_own_credits(connection)
    return Forgotten(len(stored), await _empty_rejects(connection, [*runs, *stored], records))


async def _wait_for_loads(connection: asyncpg.Connection) -> None:
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = {LOADS_TIMEOUT_S * 1000:.0f}")
            await connection.execute(_SQL["wait_for_loads"])
    except LockNotAvailableError:
        pids = ", ".join(str(row["backend_pid"]) for row in await connection.fetch(_SQL["loads_under_way"]))
        raise DatabaseError(
            f"a sync has been loading runs for more than {LOADS_TIMEOUT_S:.0f} s",
            hint="Wait until it ends, or end it with SELECT pg_terminate_backend(pid). "
            f"Process ids: {pids or 'unknown'}.",
        ) from None


async def _record_hashes(connection: asyncpg.Connection, kind: str, hashes: Sequence[bytes]) -> None:
    if hashes:
        await connection.execute(_SQL["record_hashes"], kind, sorted(hashes))


async def _erase_run(connection: asyncpg.Connection, run_id: str) -> None:
    """Blank the row of a run, delete its children, and delete its draft if no other run uses it."""
    await connection.execute(_SQL["wait_for_rollups"])
    draft = await connection.fetchval(_ERASE_RUN, run_id)
    if draft is not None:
        with suppress(ForeignKeyViolationError):  # a run that uses the draft was loaded in the meantime
            async with connection.transaction():
                await connection.execute(_SQL["delete_draft"], draft)


async def _empty_rejects(connection: asyncpg.Connection, runs: Sequence[str], records: Sequence[str]) -> int:
    found = {row["id"] for row in await connection.fetch(_SQL["rejects_of"], runs, FORGOTTEN)}
    if records:
        quoted = _encode_ids(records)
        async with connection.transaction():
            payloads = connection.cursor(_SQL["payloads_of_rejects"], FORGOTTEN, prefetch=_PAYLOADS_AT_ONCE)
            found |= {
                row["id"]
                async for row in payloads
                if any(each in _normalize_escapes(row["payload"]) for each in quoted)
            }
    for number in sorted(found):
        await connection.execute(_SQL["empty_reject"], number, FORGOTTEN, ERASED)
    return len(found)


def _encode_ids(records: Iterable[str]) -> list[bytes]:
    """Encode ids of records as JSON strings without optional escapes."""
    return [_normalize_escapes(json.dumps(each, ensure_ascii=False).encode()) for each in records]


def _blanked() -> Iterator[str]:
    """Yield SQL assignments that blank a stored run, as `blank` does for a run to be loaded."""
    for name in RUNS.names:
        if name not in KEPT:
            yield f'"{name}" = NULL'
    for name in OF_VERSION:
        yield f"{name} = CASE WHEN runs.workflow_version_id = runs.workflow_draft_id THEN NULL ELSE runs.{name} END"
    yield "updated_on_day = nullif(updated_on_day, false)"


_ERASE_RUN: Final = f"""
WITH erased AS (
    SELECT id, workflow_draft_id, workflow_id, (created_at AT TIME ZONE 'UTC')::date AS day
    FROM runs WHERE id = $1 AND erased_at IS NULL FOR UPDATE
), steps AS (
    DELETE FROM run_steps USING erased WHERE run_id = erased.id
), credit_tree AS (
    DELETE FROM run_usage_calls USING erased WHERE run_id = erased.id
), children AS (
    DELETE FROM child_runs USING erased WHERE parent_run_id = erased.id RETURNING run_id
), first_parents AS (
    SELECT DISTINCT ON (child.id) child.id, named.parent_run_id
    FROM erased
    JOIN child_runs AS mine ON mine.parent_run_id = erased.id
    JOIN runs AS child ON child.id = mine.run_id
    JOIN child_runs AS named ON named.run_id = child.id
    JOIN runs AS parent ON parent.id = named.parent_run_id
    ORDER BY child.id, parent.created_at NULLS LAST, parent.id
), counted AS (
    INSERT INTO etl_counted_children (run_id)
    SELECT first_parents.id FROM first_parents JOIN erased ON erased.id = parent_run_id
    ON CONFLICT DO NOTHING
), messages AS (
    DELETE FROM rollup_failures AS rolled
    USING (
        SELECT workflow_id, day FROM erased
        UNION SELECT workflow_id, day FROM etl_changed_days -- where the run was when they were rolled up
    ) AS stale
    WHERE rolled.workflow_id = stale.workflow_id AND rolled.day = stale.day
), other_parents AS (
    INSERT INTO etl_changed_credits (run_ids) SELECT array_agg(run_id) FROM children
    WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') -- see note_changes
    HAVING count(*) > 0
)
UPDATE runs
SET {", ".join(_blanked())}, payload_removed_at = NULL, erased_at = now(), last_synced_at = now()
FROM erased WHERE runs.id = erased.id
RETURNING erased.workflow_draft_id
"""  # noqa: S608 - made from the descriptors alone


_ESCAPE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.", re.DOTALL)


def _normalize_escapes(raw: bytes) -> bytes:
    r"""Replace the escapes in a JSON text, which may be invalid, by the characters they represent.

    Quotes and backslashes stay escaped (`\"`, `\\`), and characters that PostgreSQL cannot store are replaced as in
    loaded values. A string can then be found in the text however it was escaped there.
    """
    return _ESCAPE.sub(_unescape, raw)


def _unescape(escape: re.Match[bytes]) -> bytes:
    try:
        character = clean_text(str(json.loads(b'"%b"' % escape[0])))
    except ValueError:
        return escape[0]  # not a JSON escape
    return b"\\" + character.encode() if character in '"\\' else character.encode()
