"""An empty warehouse that stores nothing, for a dry run before the warehouse is created."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from etl.db.session import Seen, Session, StreamState

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from etl.events import StreamId
    from etl.plan.window import Window


class EmptyPool:
    """A pool whose queries find no rows."""

    async def fetch(self, _query: str, *_args: object) -> list[asyncpg.Record]:
        """Return no rows."""
        return []

    async def fetchval(self, _query: str, *_args: object) -> int:
        """Return 0, the result of a count."""
        return 0


class EmptySession(Session):
    """A session that finds no rows."""

    def __init__(self) -> None:
        self.liveness = self.shared = ()

    async def close(self) -> None:
        """Do nothing: there is no connection."""

    async def fetch(self, _statement: str, *_args: object) -> Sequence[asyncpg.Record]:
        """Return no rows."""
        return []

    async def read(self, _stream: StreamId) -> StreamState:
        """Return the state of a stream that was never read, by this machine's clock."""
        return StreamState(datetime.now(UTC))

    async def begin_pass(self, stream: StreamId, filters: tuple[str, str], window: Window) -> Seen:
        """Start recording the items seen by a pass."""
        return _SeenInMemory(self.fetch, 0, stream, filters, window)


class _SeenInMemory(Seen):
    """The items seen by a pass; the warehouse has no others."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._keys: set[str] = set()

    async def note(self, keys: Sequence[str]) -> int:
        """Record items as seen; return how many of them were not seen before."""
        before = len(self._keys)
        self._keys.update(keys)
        return len(self._keys) - before
