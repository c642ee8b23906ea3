"""The items that a pass has seen, in a temporary table, to find runs of the warehouse that it did not see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.db.statements import statements

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import asyncpg

    from etl.events import StreamId
    from etl.plan.window import Window

_SQL = statements("seen")


class Seen:
    """The items that one pass over a listing has seen.

    Args:
        run: runs a statement in the session that holds the temporary table.
        number: number of the pass in this session.
        stream: the stream.
        filters: (status, origin) of the listing; only runs that match are compared.
        window: the creation times read; only runs in it are compared.
    """

    def __init__(
        self,
        run: Callable[..., Awaitable[Sequence[asyncpg.Record]]],
        number: int,
        stream: StreamId,
        filters: tuple[str, str],
        window: Window,
    ) -> None:
        self._run = run
        self._number = number
        self._stream = stream
        self._compared = (*stream, number, *filters, *window)

    async def note(self, keys: Sequence[str]) -> int:
        """Record items as seen; return how many of them were not seen before."""
        rows = await self._run(_SQL["note"], self._number, list(dict.fromkeys(keys)))
        return int(rows[0]["added"])

    async def unseen_runs(self) -> list[str]:
        """Return the ids of the stream's runs that were not seen, most recently created first."""
        return [row["id"] for row in await self._run(_SQL["unseen_runs"], *self._compared)]

    async def unseen_elsewhere(self, limit: int) -> dict[str, list[str]]:
        """Return up to `limit` runs that were not seen either, of other apps' listings that are not read any more.

        The result has the apps of these listings by run id.
        """
        rows = await self._run(_SQL["unseen_elsewhere"], *self._compared, limit)
        return {row["id"]: row["apps"] for row in rows}

    async def unseen_rejects(self) -> list[bytes]:
        """Return the digests of the stream's quarantined items that were not seen."""
        rows = await self._run(_SQL["unseen_rejects"], *self._stream, self._number)
        return [row["digest"] for row in rows]

    async def forget(self) -> None:
        """Delete the record."""
        await self._run(_SQL["forget"], self._number)
