"""Coordination of the processes of one invocation, which may run on several hosts.

The processes share the lock of the invocation, which therefore counts as running while one of them is alive. A second
lock, the lead, is held by the process that finds the workflows or records the end for all.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from etl import __version__
from etl.app.summary import StreamSummary, SyncSummary
from etl.app.windows import decode
from etl.db.sharing import SharedSync
from etl.errors import InterruptedSyncError, SettingsError
from etl.sync import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

    from etl.app.warehouse import Answer, Warehouse
    from etl.config import Settings
    from etl.db.sharing import Notes
    from etl.sync import Task

POLL_S = 0.5
"""Interval at which a process checks whether it must stop, in seconds."""


def terms_of(settings: Settings, task: Task, apps: Sequence[str], workflows: Sequence[str]) -> dict[str, str]:
    """Return the values that must be equal in all processes of an invocation, by their names in messages."""
    options: dict[str, object] = {"--app": sorted(apps), "--workflow": sorted(workflows)}
    options |= {"--since": task.window.since, "--until": task.window.until}
    chosen = {name: str(value) for name, value in options.items()}
    return {"version": __version__, "mode": task.mode, **chosen, **settings.agreed()}


def refuse_other_terms(ours: dict[str, str], theirs: dict[str, str], what: str) -> None:
    """Compare the terms of two processes.

    Raises:
        SettingsError: the terms differ.
    """
    for name in (*ours, *theirs):
        if ours.get(name) != theirs.get(name):
            raise SettingsError(
                f"{what} differs in {name}",
                hint="Start all with the same version, options and settings, or wait until that one has ended.",
            )


class Sharing:
    """Accesses the shared state of an invocation, reconnecting if necessary.

    Args:
        warehouse: the warehouse.
        sync_id: id of the invocation in `etl_syncs`.
    """

    def __init__(self, warehouse: Warehouse, sync_id: int) -> None:
        self._warehouse = warehouse
        self._sync_id = sync_id

    async def ask(self, question: Callable[[SharedSync], Awaitable[Answer]]) -> Answer:
        """Call a function with the shared state of the invocation."""
        return await self._warehouse.ask(lambda session: question(SharedSync(session, self._sync_id)))

    @asynccontextmanager
    async def lead(self) -> AsyncIterator[Notes]:
        """Hold the lead inside the block; yield the shared state."""
        while not await self._warehouse.ask(lambda session: session.try_lock("lead", self._sync_id)):  # noqa: ASYNC110
            await asyncio.sleep(POLL_S / 2)  # there is no notification when another process releases the lead
        try:
            yield await self.ask(SharedSync.read)
        finally:
            await self._warehouse.ask(lambda session: session.unlock("lead", self._sync_id))

    async def until_stopped(self, work: Coroutine[Any, Any, None], *, has_caller: bool = False) -> None:
        """Await `work`, and cancel it if the invocation is asked to stop.

        Args:
            work: the coroutine.
            has_caller: whether to stop also if no process holds the lock of the invocation any more.

        Raises:
            EtlError: the reason to stop.
        """
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait([task], timeout=POLL_S))[0]:
                if has_caller and await self._warehouse.ask(lambda session: session.is_free("sync", self._sync_id)):
                    raise InterruptedSyncError
                error = (await self.ask(SharedSync.read)).error
                if error is not None:
                    raise error
        finally:
            task.cancel()
            await asyncio.wait([task])
        await task

    async def outcomes(self) -> list[Outcome]:
        """Return the outcomes of streams from all processes; streams of dead processes were interrupted."""
        texts, windows = await self.ask(SharedSync.outcomes)
        ended = {each.stream: each for text in texts for each in msgspec.json.decode(text, type=list[Outcome])}
        for stream, text in windows:
            outcome = ended.setdefault(stream, Outcome(stream, "interrupted"))
            outcome.tally.add(decode(text).tally)
        return list(ended.values())


def summary_of(text: str) -> SyncSummary:
    """Return the summary that another process has stored as JSON."""
    values = msgspec.json.decode(text)
    for name in ("started_at", "ended_at"):
        values[name] = None if values[name] is None else datetime.fromisoformat(values[name])
    streams = [StreamSummary(**_with_texts(each)) for each in values.pop("streams")]
    return SyncSummary(**_with_texts(values), streams=streams)


def _with_texts(values: dict[str, Any]) -> dict[str, Any]:
    return values | {name: values[name] or "" for name in ("error", "hint")}
