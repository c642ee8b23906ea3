"""List quarantined items, and load them again."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from etl.api.pages import Page
from etl.app.clients import open_clients
from etl.app.warehouse import connected, open_warehouse
from etl.db.statements import statements
from etl.db.store import Store, empty_due_rejects
from etl.decode.items import digest
from etl.decode.json_text import REPLACEMENT
from etl.errors import NotFoundError, SettingsError
from etl.events import StreamId, ignore
from etl.normalize.normalizer import Normalizer
from etl.normalize.redaction import abridge_of, redactor_of
from etl.sync.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from etl.api.client import CortexClient
    from etl.app.warehouse import Warehouse
    from etl.config import Settings
    from etl.events import Listener

_SQL = statements("rejects")


@dataclass(slots=True)
class RetryReport:
    """The result of a retry.

    Attributes:
        loaded: number of loaded items.
        gone: number of items whose run the API answered with 404.
        held: number of items of streams that another invocation holds.
        still_bad: (id, reason, error) of items that were rejected again.
    """

    loaded: int = 0
    gone: int = 0
    held: int = 0
    still_bad: list[tuple[int, str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, for JSON."""
        return asdict(self)


async def list_rejects(settings: Settings, *, resolved: bool = False) -> list[dict[str, Any]]:
    """Return quarantined items, newest first; `resolved` includes resolved ones.

    Raises:
        DatabaseError: the database cannot be reached or used.
    """
    async with connected(settings) as connection:
        return [dict(row) for row in await connection.fetch(_SQL["rejects"], resolved)]


async def retry_rejects(settings: Settings, *, ids: Sequence[int] = (), listener: Listener = ignore) -> RetryReport:
    """Load quarantined items again: first the stored bytes, then the copy that the API returns now.

    Args:
        settings: the settings; without a key, no requests are sent.
        ids: ids of the items; empty for all unresolved items.
        listener: receives events about loaded runs.

    Raises:
        SettingsError: an id is not in quarantine.
        DatabaseError: the database cannot be reached or used.
    """
    async with AsyncExitStack() as stack:
        warehouse = await stack.enter_async_context(open_warehouse(settings, listener))
        items = await warehouse.pool.fetch(_SQL["open_payloads"], list(ids) or None)
        if unknown := set(ids).difference(item["id"] for item in items):
            raise SettingsError(
                f"not in quarantine: {', '.join(map(str, sorted(unknown)))}",
                hint="List the items with: cortex-etl rejects list",
            )
        keys = (settings.api.key, settings.api.key_file)
        apps = [app for app in settings.apps if any((app.key, app.key_file, *keys))]
        clients = await open_clients(stack, settings, apps, warehouse.leases, listener)
        retrying = _Retrying(settings, warehouse, clients, listener)
        for stream, group in groupby(items, key=lambda item: StreamId(item["app_id"], item["workflow_id"])):
            await retrying.stream(stream, list(group))
        if settings.payloads.retention == "honour":
            async with warehouse.pool.acquire() as connection:
                await empty_due_rejects(connection)
    return retrying.report


class _Retrying:
    """One retry of quarantined items."""

    def __init__(
        self, settings: Settings, warehouse: Warehouse, clients: dict[str, CortexClient], listener: Listener
    ) -> None:
        self.report = RetryReport()
        self._settings = settings
        self._warehouse = warehouse
        self._clients = clients
        self._listener = listener

    async def stream(self, stream: StreamId, items: Sequence[asyncpg.Record]) -> None:
        """Retry the items of one stream while holding its lock."""
        session = self._warehouse.session
        state = await session.lock(stream)
        if state is None:
            self.report.held += len(items)
            return
        payloads = self._settings.payloads
        keep = payloads.retention == "keep"
        abridge = abridge_of(payloads)
        store = Store(self._warehouse.pool, session, stream, state, sync_id=None, abridge=abridge, keep_payloads=keep)
        normalizer = Normalizer(*stream, store_payloads=payloads.store == "full", redact=redactor_of(payloads))
        intake = Intake(store, normalizer, self._listener)
        try:
            await intake.begin()
            for item in items:
                await self._item(stream, intake, item)
        finally:
            await session.release(stream)

    async def _item(self, stream: StreamId, intake: Intake, item: asyncpg.Record) -> None:
        is_whole = digest(item["payload"]) == item["digest"]  # the stored bytes are complete
        if is_whole and await self._take(intake, item, item["payload"]):
            self.report.loaded += 1
            return
        client = self._clients.get(stream.app_id)
        # A cleaned id is not the id in the API.
        if client is not None and item["run_id"] is not None and REPLACEMENT not in item["run_id"]:
            try:
                raw = await client.get_run(*stream, item["run_id"])
            except NotFoundError:
                await self._warehouse.pool.execute(_SQL["resolve_reject"], item["id"])
                self.report.gone += 1
                return
            is_known = is_whole and raw == item["payload"]
            if not is_known and await self._take(intake, item, raw, authoritative=True):
                self.report.loaded += 1
                return
        rows = await self._warehouse.pool.fetch(_SQL["still_open"], item["id"], *stream, item["run_id"])
        self.report.still_bad += [(row["id"], row["reason"], row["error"]) for row in rows]

    async def _take(self, intake: Intake, item: asyncpg.Record, raw: bytes, *, authoritative: bool = False) -> bool:
        """Load a copy of an item, stored or from the API; return whether it was accepted."""
        page = Page.of_run(raw, item["url"])
        classified = await intake.classify([page], authoritative=authoritative)
        if classified.batch.rejects and raw == item["payload"]:
            return False
        await intake.load(classified)
        good = not classified.batch.rejects  # PostgreSQL may have refused it
        if good:
            await self._warehouse.pool.execute(_SQL["resolve_reject"], item["id"])
        return good
