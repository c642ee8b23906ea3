"""The runs of a listing that were erased for good: passed over, and still counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from etl.db.erasing import Erased, Quotations
from etl.tables import RUNS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import asyncpg

    from etl.db.store import Store
    from etl.normalize import RunRows

_RECORD: Final = RUNS.names.index("record_id")
_ORIGIN: Final = RUNS.names.index("origin")

FORGOTTEN: Final = b'"[forgotten]"'
"""What the quarantine keeps of an item that quotes a forgotten record."""


class ErasedRuns:
    """Tells which runs of one stream's listing were erased; asks the warehouse page by page, if anything ever was."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records: frozenset[str] | None = None
        self._quotations = Quotations(())
        self._any = False
        self._runs: Mapping[str, asyncpg.Record] = {}

    async def look_up(self, ids: Sequence[str]) -> None:
        """Learn which of these runs, which are about to be taken in, were erased."""
        if self._records is None:
            records = await self._store.erased_records()
            self._any = records is not None
            self._records = frozenset(records or ())
            self._quotations = Quotations(self._records)
        if self._any:
            self._runs = await self._store.erased_runs(ids)

    def covers(self, run_id: str | None) -> bool:
        """Whether this run was erased, by its own id or, when it was met before, with its record."""
        return run_id in self._runs

    def covers_record_of(self, rows: RunRows) -> bool:
        """Whether the run's record was erased."""
        return bool(self._records) and rows.run[_RECORD] in (self._records or ())

    def quoted_in(self, raw: bytes) -> bool:
        """Whether an item names an erased record anywhere in its bytes."""
        return self._quotations.are_in(raw)

    def tombstone(self, run_id: str, rows: RunRows | None) -> list[Erased]:
        """The tombstone to write for an erased run that is listed here; none where the one there says the same.

        Args:
            run_id: of the run.
            rows: what was made of it; None where nothing could be.
        """
        made = Erased(run_id, rows.status if rows else None, rows.run[_ORIGIN] if rows else None)
        there = self._runs.get(run_id)
        if there is None or not there["is_listed"]:
            return [made]
        is_same = made.status in (None, there["status"]) and made.origin in (None, there["origin"])
        return [] if is_same else [made]
