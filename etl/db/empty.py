"""A warehouse that holds nothing and stores nothing, for a dry run where none was created yet."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from etl.db.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg


class EmptyPool:
    """A pool whose queries find no rows."""

    async def fetch(self, _query: str, *_args: object) -> list[asyncpg.Record]:
        """Return no rows."""
        return []

    async def fetchval(self, _query: str, *_args: object) -> int:
        """Return 0, which is what a count finds."""
        return 0


class EmptySession(Session):
    """A session that finds no rows and keeps in memory what a pass meets."""

    def __init__(self) -> None:
        self.liveness = self.shared = ""
        self._passes = 0
        self._met: defaultdict[int, set[str]] = defaultdict(set)

    async def close(self) -> None:
        """Do nothing: there is no connection."""

    async def _rows(self, _name: str, *_args: object) -> Sequence[asyncpg.Record]:
        return []

    async def clock(self) -> datetime:
        """Return the present time, by this machine's clock."""
        return datetime.now(UTC)

    async def begin_pass(self) -> int:
        """Begin to note which runs a pass over a listing meets; returns the pass's number."""
        self._passes += 1
        return self._passes

    async def note_seen(self, number: int, keys: Sequence[str]) -> int:
        """Note items as met in a pass; return how many of them are new to it."""
        met = self._met[number]
        before = len(met)
        met.update(keys)
        return len(met) - before

    async def end_pass(self, number: int) -> None:
        """Forget what a pass met."""
        self._met.pop(number, None)
