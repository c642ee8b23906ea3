"""Sparing PostgreSQL checks of foreign keys that cannot fail.

A new run is written behind its version, and steps, calls and credits behind their run, in the same transaction: no
other one can see what it wrote or, since it holds locks, take away a version or a run that was there before. PostgreSQL
looks these up all the same for each row, which is a quarter of its work in a load. A role that may set
`session_replication_role` spares it that; for any other all is checked as usual.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from etl.db.statements import statements

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

_SQL = statements("foreign_keys")

_GRANTABLE_SINCE = 15  # the version of PostgreSQL in which a superuser can grant the setting of a parameter


class References:
    """Knows, after the first time, whether the role may leave checks out."""

    def __init__(self) -> None:
        self._may_spare: bool | None = None

    @asynccontextmanager
    async def unchecked(self, connection: asyncpg.Connection) -> AsyncIterator[None]:
        """Within the block, COPY of runs and of their children does not look up what the rows refer to.

        Where these tables have triggers or foreign keys that are not ours, all stays checked.

        Args:
            connection: in a transaction that wrote or locked what is not looked up.
        """
        if self._may_spare is None:
            grantable = connection.get_server_version().major >= _GRANTABLE_SINCE
            self._may_spare = await connection.fetchval(_SQL["may_spare" if grantable else "may_spare_14"])
        spared = self._may_spare and await connection.execute(_SQL["spare"]) == "SELECT 1"
        yield
        if spared:  # an error would have ended the transaction, and the setting with it
            await connection.execute(_SQL["check_again"])
