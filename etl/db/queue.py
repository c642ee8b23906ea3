"""The work queue of an invocation, from which its processes claim workflows one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from etl.db.statements import statements
from etl.events import StreamId

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from etl.db.session import Session, StreamState

_SQL = statements("queue")


@dataclass(frozen=True, slots=True)
class Unit:
    """A workflow with all apps that list it.

    Attributes:
        place: position in the queue.
        workflow_id: id of the workflow.
        app_ids: the apps that list it.
        claimed_by: the process that has claimed it; None if no process has.
        held_s: seconds since another invocation was first found to hold one of its streams; None if none was.
    """

    place: int
    workflow_id: str
    app_ids: Sequence[str]
    claimed_by: str | None = None
    held_s: float | None = None

    @property
    def streams(self) -> list[StreamId]:
        """The streams of the workflow, to be read one after another."""
        return [StreamId(app_id, self.workflow_id) for app_id in self.app_ids]


@dataclass(frozen=True, slots=True)
class Claim:
    """A workflow that this process has claimed, with the states of the streams that `session` has locked."""

    unit: Unit
    states: Mapping[StreamId, StreamState]
    session: Session


class Queue:
    """The queue of the invocation `sync_id`, used by the process `worker`; `session` holds its locks."""

    def __init__(self, session: Session, sync_id: int, worker: str) -> None:
        self._session = session
        self._sync_id = sync_id
        self._worker = worker

    async def fill(self, streams: Sequence[StreamId]) -> None:
        """Queue the streams of the invocation."""
        apps, workflows = ([stream[place] for stream in streams] for place in (0, 1))
        await self._session.rows(_SQL["fill"], self._sync_id, apps, workflows)

    async def claim(self) -> Claim | None:
        """Claim and lock the next unclaimed workflow. Workflows that another invocation holds are postponed."""
        while rows := await self._session.rows(_SQL["claim"], self._sync_id, self._worker):
            unit = Unit(*rows[0])
            if (claim := await self._lock(unit)) is not None:
                return claim
            await self._put_back(unit)
        return None

    async def unfinished(self) -> list[Unit]:
        """Return the workflows that are not finished."""
        return [Unit(*row) for row in await self._session.rows(_SQL["unfinished"], self._sync_id)]

    async def claim_again(self, unit: Unit, *, last: bool) -> Claim | None:
        """Claim a workflow that was postponed, or whose process is dead.

        Args:
            unit: the workflow.
            last: whether to claim it even if another invocation holds some of its streams.
        """
        claim = await self._lock(unit, partly=last)
        if claim is None:
            await self._put_back(unit)
        elif not await self._session.rows(_SQL["claim_again"], self._sync_id, self._worker, unit.place):
            await self._session.release(*claim.states)  # another process has finished it
            return None
        return claim

    async def finish(self, unit: Unit, outcomes: bytes, requests: int, retries: int) -> None:
        """Record the outcomes of a workflow's streams and release them.

        Args:
            unit: the workflow.
            outcomes: the outcomes as JSON.
            requests: number of requests that this process has sent since it last finished a workflow.
            retries: number of retries among them.
        """
        values = (unit.place, outcomes.decode(), requests, retries)
        await self._session.rows(_SQL["finish"], self._sync_id, self._worker, *values)
        await self._session.release(*unit.streams)

    async def _lock(self, unit: Unit, *, partly: bool = False) -> Claim | None:
        states = await self._session.take(unit.streams)
        if partly or len(states) == len(unit.streams):
            return Claim(unit, states, self._session)
        await self._session.release(*states)
        return None

    async def _put_back(self, unit: Unit) -> None:
        await self._session.rows(_SQL["put_back"], self._sync_id, self._worker, unit.place)
