"""Copies of one command, on any hosts, that are one invocation: each takes workflows, and one records the end.

They share the lock of the invocation, so that it lives while one of them does. A second lock, the lead, is for what one
of them does for all: finding the workflows and recording the end.
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
"""How often a process looks whether it is to stop."""


def terms_of(settings: Settings, task: Task, apps: Sequence[str], workflows: Sequence[str]) -> dict[str, str]:
    """Return what all processes of an invocation must agree in, by the name that a message gives it."""
    options: dict[str, object] = {"--app": sorted(apps), "--workflow": sorted(workflows)}
    options |= {"--since": task.window.since, "--until": task.window.until}
    chosen = {name: str(value) for name, value in options.items()}
    return {"version": __version__, "mode": task.mode, **chosen, **settings.agreed()}


def refuse_other_terms(ours: dict[str, str], theirs: dict[str, str], what: str) -> None:
    """Compare terms.

    Raises:
        SettingsError: they differ.
    """
    for name in (*ours, *theirs):
        if ours.get(name) != theirs.get(name):
            raise SettingsError(
                f"{what} differs in {name}",
                hint="Start all with the same version, options and settings, or wait until that one has ended.",
            )


class Sharing:
    """What one process does with the others of an invocation.

    Args:
        warehouse: where they meet.
        sync_id: the row of `etl_syncs`.
    """

    def __init__(self, warehouse: Warehouse, sync_id: int) -> None:
        self._warehouse = warehouse
        self._sync_id = sync_id

    async def ask(self, question: Callable[[SharedSync], Awaitable[Answer]]) -> Answer:
        """Ask the row of the invocation something."""
        return await self._warehouse.ask(lambda session: question(SharedSync(session, self._sync_id)))

    @asynccontextmanager
    async def lead(self) -> AsyncIterator[Notes]:
        """Wait until no other process leads; yield what they know by then."""
        while not await self._warehouse.ask(lambda session: session.try_lock("lead", self._sync_id)):  # noqa: ASYNC110
            await asyncio.sleep(POLL_S / 2)  # no event tells that another process lets go
        try:
            yield await self.ask(SharedSync.read)
        finally:
            await self._warehouse.ask(lambda session: session.unlock("lead", self._sync_id))

    async def until_stopped(self, work: Coroutine[Any, Any, None], *, has_caller: bool = False) -> None:
        """Await some work, unless all processes are to stop.

        Args:
            work: to be cancelled then.
            has_caller: whether they are to stop too when nobody holds the invocation's lock any more.

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
        """Return how the streams of all processes ended; one whose process is dead was interrupted."""
        texts, windows = await self.ask(SharedSync.outcomes)
        ended = {each.stream: each for text in texts for each in msgspec.json.decode(text, type=list[Outcome])}
        for stream, text in windows:
            outcome = ended.setdefault(stream, Outcome(stream, "interrupted"))
            outcome.tally.add(decode(text).tally)
        return list(ended.values())


def summary_of(text: str) -> SyncSummary:
    """Return the summary that another process has left."""
    values = msgspec.json.decode(text)
    for name in ("started_at", "ended_at"):
        values[name] = None if values[name] is None else datetime.fromisoformat(values[name])
    streams = [StreamSummary(**_with_texts(each)) for each in values.pop("streams")]
    return SyncSummary(**_with_texts(values), streams=streams)


def _with_texts(values: dict[str, Any]) -> dict[str, Any]:
    return values | {name: values[name] or "" for name in ("error", "hint")}
