"""Foreign keys: write referenced rows before the rows that refer to them, and skip checks that cannot fail.

A new run is written after its app, workflow and version, and its children after the run, in one transaction that locks
the referenced rows that existed before. The foreign key checks would then look up each referenced row again, which
takes a quarter of PostgreSQL's time in a load. They are skipped if the role may set `session_replication_role`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from etl.db.statements import statements

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from typing import Any

    import asyncpg

    Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy[Any]

_SQL = statements("foreign_keys")

_GRANTABLE_SINCE = 15  # first version of PostgreSQL in which the privilege to set a parameter can be granted


async def hold_owners(connection: Connection, apps: Iterable[str | None], workflows: Iterable[str | None]) -> None:
    """Ensure that apps and workflows have rows, and lock these rows until the transaction ends.

    A row created here has only an id. Ids are inserted in sorted order, apps first, to prevent deadlocks.
    """
    missing = {("app", each) for each in apps if each is not None}
    missing |= {("workflow", each) for each in workflows if each is not None}
    for _ in range(2):  # the second round locks rows added concurrently by another transaction
        ids = {kind: sorted(each for of, each in missing if of == kind) for kind in ("app", "workflow")}
        missing -= {tuple(row) for row in await connection.fetch(_SQL["hold_owners"], *ids.values())}
        if not missing:
            break
        for kind, name in (("app", "add_apps"), ("workflow", "add_workflows")):
            await connection.execute(_SQL[name], sorted(each for of, each in missing if of == kind))


class ForeignKeyChecks:
    """Skips foreign key checks if the role has the privilege, which is checked once."""

    def __init__(self) -> None:
        self._may_skip: bool | None = None

    @asynccontextmanager
    async def skipped(self, connection: asyncpg.Connection) -> AsyncIterator[None]:
        """Skip foreign key checks inside the block, for COPY of runs and their children.

        Nothing is skipped if these tables have triggers or foreign keys that the migrations did not create.

        Args:
            connection: a connection in a transaction that has written or locked the referenced rows.
        """
        if self._may_skip is None:
            grantable = connection.get_server_version().major >= _GRANTABLE_SINCE
            self._may_skip = await connection.fetchval(_SQL["may_skip" if grantable else "may_skip_14"])
        are_skipped = self._may_skip and await connection.execute(_SQL["skip"]) == "SELECT 1"
        yield
        if are_skipped:  # after an error, the rollback resets the setting
            await connection.execute(_SQL["check_again"])
