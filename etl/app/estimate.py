"""Estimate a backfill or a sync from one small request per stream, which returns the number of runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from etl.app.clients import open_clients
from etl.app.discovery import chosen_apps, find_streams, only
from etl.app.stream_runner import allowance_of
from etl.app.warehouse import open_unchanged
from etl.db.health import read_server_limits
from etl.db.store import Store
from etl.decode.items import digest
from etl.errors import RecordError
from etl.events import ignore
from etl.limits import Work, near_limits
from etl.normalize.normalizer import Normalizer
from etl.plan.window import EVERYTHING
from etl.sync.listing import paging_of
from etl.sync.stream import due_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etl.api.client import CortexClient
    from etl.api.pages import Page
    from etl.app.warehouse import Warehouse
    from etl.config import Settings
    from etl.events import Listener, StreamId
    from etl.plan.window import Allowance

_SAMPLE = 20  # runs per probe; the newest may still be open and have few rows


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """The estimate of one stream: the numbers of runs in the API and in the warehouse, and the work to do.

    Attributes:
        work: 'backfill', 'reconcile' or 'sync'.
        requests: estimated number of requests.
        runs: number of runs that are missing in the warehouse.
        rows: estimated number of rows to write; None if the probe returned no valid run.
        run_bytes: average size in bytes of the runs that the probe returned; None if it returned no run.
        reconcile_requests: number of requests that read the complete stream.
        reconcile_left: number of requests that remain if a reconcile takes several syncs; otherwise None.
    """

    app_id: str
    workflow_id: str
    work: str
    api_count: int | None
    warehouse_count: int
    requests: int
    runs: int
    rows: int | None
    run_bytes: int | None
    reconcile_requests: int
    reconcile_left: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The estimate of all streams.

    `requests` includes those for the lists of workflows. `minutes` is the duration at the configured rate limit,
    without the probes. `limits` are messages about limits of one address or of one PostgreSQL server that are near or
    exceeded.
    """

    mode: str
    streams: list[StreamPlan] = field(default_factory=list)
    requests: int = 0
    runs: int = 0
    rows: int = 0
    minutes: float = 0.0
    limits: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the estimate as plain values, for JSON."""
        return asdict(self)


async def make_plan(
    settings: Settings,
    mode: Literal["sync", "backfill"] = "sync",
    *,
    apps: Sequence[str] = (),
    workflows: Sequence[str] = (),
    listener: Listener = ignore,
) -> Plan:
    """Estimate the requests, rows and minutes of a command.

    Raises:
        SettingsError: the settings name no app, no key, or not the app or workflow selected.
        KeyRefusedError, FatalError, TransientError: the API cannot be read.
        DatabaseError: the database cannot be reached or used.
    """
    wanted = chosen_apps(settings, apps)
    async with AsyncExitStack() as stack:
        warehouse = await stack.enter_async_context(open_unchanged(settings, listener))
        clients = await open_clients(stack, settings, wanted, warehouse.leases, listener)
        streams: list[StreamId] = []
        for app in wanted:
            found, _ = await find_streams(app, clients[app.id], None, listener, size=settings.api.usual_page_size)
            streams += found
        places, allowance = asyncio.Semaphore(settings.api.concurrency), allowance_of(settings)

        async def one(stream: StreamId) -> StreamPlan:
            async with places:
                return await _plan_stream(settings, mode, warehouse, clients[stream.app_id], stream, allowance)

        plans = await asyncio.gather(*(one(stream) for stream in only(streams, workflows)))
        connections, locks = await read_server_limits(warehouse.pool)
    listings = sum(app.workflows == "all" for app in wanted)  # of workflows, one request each if they are few
    requests = listings + sum(plan.requests for plan in plans)
    return Plan(
        mode,
        list(plans),
        requests,
        sum(plan.runs for plan in plans),
        sum(plan.rows or 0 for plan in plans),
        round(requests / settings.api.requests_per_minute, 2),
        near_limits(_work(settings, plans, requests), connections=connections, locks=locks),
    )


def _work(settings: Settings, plans: Sequence[StreamPlan], requests: int) -> Work:
    """Return the size of the work and the number of processes, for comparison with the limits."""
    sizes = [plan.run_bytes for plan in plans if plan.run_bytes is not None]
    return Work(
        sum(plan.api_count or 0 for plan in plans),
        round(fmean(sizes)) if sizes else None,
        requests,
        sum(plan.reconcile_requests for plan in plans),
        settings.sync.reconcile_every,
        settings.api.requests_per_minute,
        settings.engine.processes,
        max(Counter(plan.workflow_id for plan in plans).values(), default=1),
    )


async def _plan_stream(
    settings: Settings, mode: str, warehouse: Warehouse, client: CortexClient, stream: StreamId, allowance: Allowance
) -> StreamPlan:
    api = settings.api
    state = await warehouse.session.read(stream)
    store = Store(
        warehouse.pool, warehouse.session, stream, state, sync_id=None, filters=(api.status, api.origin), dry_run=True
    )
    page = await client.probe_count(*stream, size=_SAMPLE, status=api.status, origin=api.origin)
    ours, count = await store.count(), page.count or 0
    known = state.page_size or api.usual_page_size  # whether the API returns larger pages is unknown
    paging = paging_of(api.page_size, known, state.run_bytes)
    pages, missing = len(paging.spans(0, count)), max(0, count - ours)
    everything = max(1, pages + (pages > 1))  # one more request, to check for runs created since the first
    work, due = "sync", None
    requests = max(1, len(paging.spans(0, missing))) + len(await store.open_runs())
    if mode == "backfill" or not state.backfill_done:
        work, requests = "backfill", everything
    else:
        due = await due_part(store, paging, allowance, settings.sync.reconcile_every)
    if due is not None and due.window == EVERYTHING:
        work, requests = "reconcile", everything
    elif due is not None and due.window is not None:
        work, requests = "reconcile", requests + due.taken
    each = _rows_of(stream, page)
    rows = None if each is None else round(missing * each)
    run_bytes = page.bytes // len(page.items) if page.items else None
    left = due.pages + 1 if due is not None and due.taken < due.pages else None
    return StreamPlan(*stream, work, page.count, ours, requests, missing, rows, run_bytes, everything, left)


def _rows_of(stream: StreamId, page: Page) -> float | None:
    """Return the average number of rows per run on the page of the probe; None if it has no valid run."""
    made = []
    for raw in page.items:
        with suppress(RecordError):
            rows = Normalizer(*stream).normalize(raw, digest(raw))
            made.append(1 + len(rows.steps) + len(rows.calls) + len(rows.usage))
    return fmean(made) if made else None
