"""State shared by the processes of one invocation: its terms, a request to stop, and its summary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from etl.db.statements import statements
from etl.errors import (
    EXIT_DATABASE,
    EXIT_INTERRUPTED,
    EXIT_KEY_REFUSED,
    EXIT_SETTINGS,
    DatabaseError,
    EtlError,
    InterruptedSyncError,
    KeyRefusedError,
    SettingsError,
)
from etl.events import StreamId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etl.db.session import Session

_SQL = statements("sharing")
_KINDS = {EXIT_SETTINGS: SettingsError, EXIT_KEY_REFUSED: KeyRefusedError, EXIT_DATABASE: DatabaseError}


@dataclass(frozen=True, slots=True)
class Notes:
    """The shared state of an invocation. `terms` and, after its end, `summary` are JSON."""

    terms: str
    is_queued: bool
    stop_code: int | None
    stop_error: str | None
    stop_hint: str | None
    summary: str | None

    @property
    def error(self) -> EtlError | None:
        """The error with which all processes must end; None if they need not stop."""
        if self.stop_code is None:
            return None
        if self.stop_code == EXIT_INTERRUPTED:
            return InterruptedSyncError()
        kind = _KINDS.get(self.stop_code, EtlError)
        return kind(self.stop_error or "", hint=self.stop_hint or "")


class SharedSync:
    """The shared state of the invocation `sync_id`, accessed by one of its processes through `session`."""

    def __init__(self, session: Session, sync_id: int) -> None:
        self._session = session
        self._sync_id = sync_id

    async def read(self) -> Notes:
        """Read the shared state.

        Raises:
            DatabaseError: another invocation has closed this one.
        """
        rows = await self._session.rows(_SQL["read"], self._sync_id)
        if not rows:
            raise DatabaseError(
                "Another invocation closed this one while its connection was lost.", hint="Run it again."
            )
        return Notes(*rows[0])

    async def stop(self, error: EtlError) -> None:
        """Ask all processes to end with an error."""
        values = (error.exit_code, error.message, error.hint or None)
        await self._session.rows(_SQL["stop"], self._sync_id, *values)

    async def queue_ended(self, ended: Sequence[tuple[str, bytes]]) -> None:
        """Record the outcomes of apps whose workflows could not be listed: (app id, outcome as JSON) of each."""
        for place, (app_id, outcomes) in enumerate(ended, 1):
            await self._session.rows(_SQL["queue_ended"], self._sync_id, -place, app_id, outcomes.decode())

    async def add_requests(self, requests: int, retries: int) -> None:
        """Count requests that do not belong to a workflow."""
        await self._session.rows(_SQL["add_requests"], self._sync_id, requests, retries)

    async def add(self, terms: str) -> None:
        """Share an invocation that this process has started, so that other processes can work on it."""
        await self._session.rows(_SQL["add"], self._sync_id, None, terms)

    async def remove(self) -> None:
        """Delete the shared state, after all processes have ended or were asked to."""
        await self._session.rows(_SQL["remove"], self._sync_id)

    async def streams(self) -> list[StreamId]:
        """Return the streams in the queue."""
        return [StreamId(*row) for row in await self._session.rows(_SQL["streams"], self._sync_id)]

    async def is_unfinished(self) -> bool:
        """Return whether a workflow is not finished."""
        return bool(await self._session.rows(_SQL["unfinished"], self._sync_id))

    async def outcomes(self) -> tuple[list[str], list[tuple[StreamId, str]]]:
        """Return the outcomes of finished workflows, and of finished windows with their streams, as JSON.

        The JSON of a workflow contains the outcomes of its streams.
        """
        rows = await self._session.rows(_SQL["outcomes"], self._sync_id)
        windows = [(StreamId(row["app_id"], row["workflow_id"]), row["outcomes"]) for row in rows if row["is_window"]]
        return [row["outcomes"] for row in rows if not row["is_window"]], windows

    async def requests(self) -> tuple[int, int]:
        """Return the numbers of requests and of retries of all processes."""
        (row,) = await self._session.rows(_SQL["requests"], self._sync_id)
        return row["requests"], row["retries"]

    async def end(self, summary: bytes) -> None:
        """Store the summary of the invocation, as JSON, for the other processes."""
        await self._session.rows(_SQL["end"], self._sync_id, summary.decode())
