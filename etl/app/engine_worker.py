"""What an engine runs on each worker: read the settings, process the queue of an invocation, and report its events.

The events go by NOTIFY to the command that started the workers, at most four times per second and worker. Each worker
uses a separate connection for this, because commits of transactions with NOTIFY wait for each other. Events may be
lost, and events of requests are dropped if there are too many. The outcomes of streams are read from the queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from etl import events
from etl.app.clients import open_clients
from etl.app.queue_worker import QueueWorker
from etl.app.shared_state import SharedState, refuse_other_terms, terms_of
from etl.app.stream_runner import task_of
from etl.app.summary import SyncSummary
from etl.app.warehouse import database_url, open_warehouse
from etl.config import load
from etl.db.connect import connect
from etl.db.refusals import DRIVER_ERRORS, LOST, known_error
from etl.db.statements import statements
from etl.errors import DatabaseError, EtlError
from etl.events import tee

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from datetime import datetime

    import asyncpg

    from etl.config import Settings
    from etl.sync import Task
    from etl.sync.stream import Mode

_SQL = statements("shared_state")
_PAUSE_S = 0.25  # between two notifications
_LONGEST_BYTES = 7900  # the payload of NOTIFY has at most 7,999
_MANY = 200  # if more events are waiting, events of requests are dropped
_MOST = 2000  # events waiting; older ones are dropped
_UNAVAILABLE = (DatabaseError, *DRIVER_ERRORS, *LOST)


def run_worker(sync_id: int, mode: Mode, since: datetime | None, until: datetime | None) -> None:
    """Process the queue of an invocation until it is finished.

    Args:
        sync_id: id of the invocation in `etl_syncs`.
        mode: mode of the invocation.
        since: start of the window of creation times.
        until: end of the window.

    Raises:
        EtlError: this process cannot continue; other processes can.
    """
    settings = load()
    try:
        asyncio.run(_work(settings, task_of(settings, mode, since, until), sync_id))
    except EtlError as error:
        failure = error
    else:
        return
    # An engine sends the error to the caller. Its causes and their frames may be impossible to pickle.
    failure.__cause__ = failure.__context__ = None
    raise failure.with_traceback(None)


async def _work(settings: Settings, task: Task, sync_id: int) -> None:
    """Work until all workflows are finished or the invocation is asked to stop; an error stops all processes."""
    summary, sender = SyncSummary(task.mode, id=sync_id), EventSender()
    listener = tee(summary.listen, sender.listen)
    async with AsyncExitStack() as stack:
        warehouse = await stack.enter_async_context(open_warehouse(settings, listener, migrated=False))
        await stack.enter_async_context(sender.sending(settings, sync_id))
        shared = SharedState(warehouse, sync_id)
        try:
            refuse_other_terms(terms_of(settings), (await shared.read()).terms, "a worker")
            clients = await open_clients(stack, settings, settings.apps, warehouse.leases, listener)
            worker = QueueWorker(settings, task, warehouse, clients, listener, {}, summary=summary, is_shared=True)
            await worker.work_until_stopped(shared, has_caller=True)
        except DatabaseError:  # other workers can continue
            raise
        except Exception as failure:
            error = known_error(failure)
            if isinstance(error, DatabaseError):
                raise error from failure
            await shared.stop(error)


def _channel(settings: Settings, sync_id: int) -> str:
    name = f"{settings.database.schema_name}\n{sync_id}"
    return f"cortex_etl_{sha256(name.encode()).hexdigest()[:16]}"


async def _connect(settings: Settings) -> asyncpg.Connection:
    database = settings.database
    name = "cortex-etl progress"
    url = await database_url(settings)
    return await connect(url, database.schema_name, application_name=name, timeout_s=database.timeout_s)


@asynccontextmanager
async def _meanwhile(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run `work` while the block runs."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


class EventSender:
    """Sends the events of a worker; `listen` is the listener."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque(maxlen=_MOST)

    def listen(self, event: events.Event) -> None:
        """Queue an event to be sent."""
        if not isinstance(event, events.RequestSent) or len(self._waiting) < _MANY:
            self._waiting.append(msgspec.json.encode([type(event).__name__, asdict(event)], enc_hook=str))

    @asynccontextmanager
    async def sending(self, settings: Settings, sync_id: int) -> AsyncIterator[None]:
        """Send events until the block ends, over a new connection if the old one is lost."""
        channel, connection = _channel(settings, sync_id), await _connect(settings)

        async def send() -> None:
            nonlocal connection
            while True:
                await asyncio.sleep(_PAUSE_S)
                with suppress(*_UNAVAILABLE):
                    if connection.is_closed():
                        connection = await _connect(settings)
                    await self._send(connection, channel)

        try:
            async with _meanwhile(send()):
                yield
        finally:
            with suppress(*_UNAVAILABLE):
                await self._send(connection, channel)
            await connection.close()

    async def _send(self, connection: asyncpg.Connection, channel: str) -> None:
        parts: list[bytes] = []
        while self._waiting and sum(map(len, parts)) + len(parts) + len(self._waiting[0]) < _LONGEST_BYTES:
            parts.append(self._waiting.popleft())
        if parts:
            await connection.execute(_SQL["tell"], channel, (b"[" + b",".join(parts) + b"]").decode())
        elif self._waiting:
            self._waiting.popleft()  # too long for a notification


@asynccontextmanager
async def receiving(settings: Settings, sync_id: int, listener: events.Listener) -> AsyncIterator[None]:
    """Pass the events of workers to a listener until the block ends, over a new connection if the old one is lost."""
    channel = _channel(settings, sync_id)

    def receive(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        for name, fields in msgspec.json.decode(str(payload)):
            listener(_event(name, fields))

    connection = await _connect(settings)
    await connection.add_listener(channel, receive)

    async def reconnect() -> None:
        nonlocal connection
        while True:
            await asyncio.sleep(_PAUSE_S)
            if connection.is_closed():
                with suppress(*_UNAVAILABLE):
                    connection = await _connect(settings)
                    await connection.add_listener(channel, receive)

    try:
        async with _meanwhile(reconnect()):
            yield
    finally:
        with suppress(*_UNAVAILABLE):
            await connection.close()


def _event(name: str, fields: dict[str, Any]) -> events.Event:
    """Decode an event."""
    if "stream" in fields and name != "Notice":
        fields["stream"] = events.StreamId(*fields["stream"])
    event: events.Event = getattr(events, name)(**fields)
    return event
