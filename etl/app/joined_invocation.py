"""An invocation that several copies of a command share (`--join`)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from etl.app.outcomes import Outcomes
from etl.app.shared_state import SharedState, refuse_other_terms, terms_of
from etl.app.summary import SyncSummary
from etl.app.sync_invocation import RECORD_TIMEOUT_S, SyncInvocation
from etl.db.refusals import LOST
from etl.errors import DatabaseError, InterruptedSyncError
from etl.events import SyncStarted

if TYPE_CHECKING:
    from etl.config import Settings
    from etl.events import Listener
    from etl.sync import Task


class JoinedInvocation(SyncInvocation):
    """An invocation in one of the copies that share it. If a copy ends early, the others take over its streams.

    Args:
        task: the mode and the window.
        name: name of the invocation to join, or to start if it is not running.
        options: see `SyncInvocation`.
    """

    _shared: SharedState

    def __init__(self, settings: Settings, task: Task, listener: Listener, *, name: str, **options: Any) -> None:
        super().__init__(settings, task, listener, **options)
        self._name = name

    async def _begin(self) -> None:
        """Join the running invocation, or start one.

        Raises:
            SettingsError: the running invocation has other terms.
        """
        task, apps, workflows = self._task, sorted(self._selected_apps), sorted(self._selected_workflows)
        window = {"--since": str(task.window.since), "--until": str(task.window.until)}
        options = {"mode": task.mode, "--app": str(apps), "--workflow": str(workflows)} | window
        ours = terms_of(self._settings, options)
        row, theirs = await self._warehouse.session.join_sync(self._name, task.mode, ours)
        refuse_other_terms(ours, theirs, f"the running invocation {self._name}")
        self._summary.begin(row)
        self._shared = SharedState(self._warehouse, self._sync_id)

    async def _run_streams(self) -> None:
        """Queue the workflows if no other copy has, and work until all are finished."""
        clients = await self._open_clients()
        async with self._shared.lead() as state:
            if not state.is_queued:
                streams = await self._find_streams(clients)
                await self._shared.queue_ended(self._outcomes.ended.values())
                await self._shared.add_requests(self._summary.requests, self._summary.retries)
                await self._queue(streams)
        self._apps = []
        self._listener(SyncStarted(self._task.mode, tuple(await self._shared.streams()), self._sync_id))
        worker = self._queue_worker(clients, is_shared=True)
        try:
            await worker.work_until_stopped(self._shared)
        except asyncio.CancelledError:  # ends only this copy
            with suppress(DatabaseError, *LOST):
                recording = self._shared.add_requests(*worker.unrecorded_requests())
                await asyncio.wait_for(recording, RECORD_TIMEOUT_S)
            raise

    async def _end(self) -> None:
        """Record the end of the invocation, or read the summary if another copy has recorded it."""
        cause = self._summary.cause
        if isinstance(cause, (InterruptedSyncError, DatabaseError)):  # ends only this copy
            self._conclude()
            return
        if cause is not None:
            await self._shared.stop(cause)
        async with self._shared.lead() as state:
            if state.summary is not None:
                self._summary = SyncSummary.from_json(state.summary)
                self._summary.cause = state.error
                return
            self._outcomes = Outcomes(await self._shared.streams(), await self._shared.outcomes())
            if cause is None:
                await self._caught(self._compare_again())
            self._summary.requests, self._summary.retries = await self._shared.requests()
            await super()._end()
            await self._shared.end(msgspec.json.encode(self._summary.as_dict()))
