"""An empty warehouse that stores nothing, for a dry run before the warehouse is created."""

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
        """Return 0, the result of a count."""
        return 0


class EmptySession(Session):
    """A session that finds no rows and keeps the items seen by a pass in memory."""

    def __init__(self) -> None:
        self.liveness = self.shared = ""
        self._passes = 0
        self._seen: defaultdict[int, set[str]] = defaultdict(set)

    async def close(self) -> None:
        """Do nothing: there is no connection."""

    async def _rows(self, _name: str, *_args: object) -> Sequence[asyncpg.Record]:
        return []

    async def clock(self) -> datetime:
        """Return the current time by this machine's clock."""
        return datetime.now(UTC)

    async def begin_pass(self) -> int:
        """Start recording the items seen by a pass; return the number of the pass."""
        self._passes += 1
        return self._passes

    async def note_seen(self, number: int, keys: Sequence[str]) -> int:
        """Record items as seen by a pass; return how many of them it had not seen before."""
        seen = self._seen[number]
        before = len(seen)
        seen.update(keys)
        return len(seen) - before

    async def end_pass(self, number: int) -> None:
        """Discard the items seen by a pass."""
        self._seen.pop(number, None)
