"""Which streams an invocation works on: those configured, those discovered, those asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from etl.db.workflows import name_workflows, save_workflows
from etl.decode import peek_id
from etl.errors import FatalError, RecordError, SettingsError, TransientError
from etl.events import Notice, StreamId
from etl.normalize import normalize_workflow
from etl.sync.received import LONGEST_ID_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import asyncpg

    from etl.api.client import CortexClient
    from etl.api.pages import Page
    from etl.config import AppSettings, Settings
    from etl.events import Listener
    from etl.normalize import Redactor, Row

_MAX_PAGES = 10_000
_PASSES = 4


def chosen_apps(settings: Settings, apps: Sequence[str]) -> list[AppSettings]:
    """The configured apps, or those of them that are asked for.

    Raises:
        SettingsError: none is configured, or one that is asked for is not.
    """
    if not settings.apps:
        raise SettingsError("no app is configured", hint="Name one under `apps:` in config.yaml: `- id: app_123`.")
    configured = [app.id for app in settings.apps]
    for name in apps:
        if name not in configured:
            raise SettingsError(f"the app {name} is not configured", hint=f"Configured are: {', '.join(configured)}.")
    return [app for app in settings.apps if not apps or app.id in apps]


async def find_streams(
    app: AppSettings,
    client: CortexClient,
    pool: asyncpg.Pool | None,
    listener: Listener,
    *,
    take: int,
    redactor: Redactor | None = None,
) -> tuple[list[StreamId], str]:
    """The streams of an app, from its settings or by discovery; what discovery finds is written to the warehouse.

    Args:
        app: its settings.
        client: asks with the app's key.
        pool: to the warehouse; None writes nothing.
        listener: hears of workflows that cannot be read.
        take: page size.
        redactor: applied to a workflow before anything is made of it.

    Returns:
        The streams, and why there may be more of them ("" where these are all).

    Raises:
        FatalError, TransientError: the app's workflows cannot be listed.
    """
    if app.workflows != "all":
        if pool is not None:
            await name_workflows(pool, app.workflows)
        return [StreamId(app.id, workflow_id) for workflow_id in app.workflows], ""
    found = await _discover(app.id, client, listener, take, redactor)
    if pool is not None:
        rows = [row for row in found.workflows.values() if row is not None]
        bare = [workflow_id for workflow_id, row in found.workflows.items() if row is None]
        refused = await save_workflows(pool, app.id, rows, bare=bare, whole=not found.trouble)
        for workflow_id, error in refused.items():
            _tell(listener, app.id, f"PostgreSQL refused {workflow_id}: {error}")
    return [StreamId(app.id, workflow_id) for workflow_id in found.workflows], found.trouble


@dataclass(slots=True)
class _Discovered:
    """What an app's listing showed: each workflow's rows, None where only its id can be read; and what is amiss."""

    workflows: dict[str, tuple[Row, Row | None] | None] = field(default_factory=dict)
    trouble: str = ""


async def _discover(
    app_id: str, client: CortexClient, listener: Listener, take: int, redactor: Redactor | None
) -> _Discovered:
    """Read the listing until it stands still: one that leaves meanwhile lets another slide past the reader."""
    for _ in range(_PASSES):
        found, counts, listed = _Discovered(), set[int | None](), set[str | bytes]()
        async for page in _pages(app_id, client, take, listed):
            counts.add(page.count)
            for raw in page.items:
                _take(raw, app_id, found, listener, redactor)
        if len(counts) == 1:
            count = counts.pop()
            if count is not None and len(listed) < count and not found.trouble:
                found.trouble = f"the API counts {count} workflows and lists {len(listed)}"
            return found
    found.trouble = "the listing of workflows kept moving while it was read"
    return found


async def _pages(app_id: str, client: CortexClient, take: int, listed: set[str | bytes]) -> AsyncIterator[Page]:
    """The pages of one reading; what they list is added to `listed`."""
    token: str | None = None
    for number in range(1, _MAX_PAGES):
        page = await client.list_workflows(app_id, number, take, next_token=token)
        before = len(listed)
        listed.update(peek_id(raw) or raw for raw in page.items)
        yield page
        token = page.next_token
        # A server may cap `take` without saying so: a short page ends nothing while more is counted, or none at all.
        if len(listed) == before or (token is None and len(listed) == page.count):
            return


def _take(raw: bytes, app_id: str, found: _Discovered, listener: Listener, redactor: Redactor | None) -> None:
    """Take a workflow; one with an odd field is known by its id alone, for its runs are as good as any."""
    workflow_id, rows, error = peek_id(raw), None, "it has no id"
    try:
        rows = normalize_workflow(raw, redactor)
        workflow_id = str(rows[0][0])
    except RecordError as refusal:
        error = refusal.message
        _tell(listener, app_id, error)
    if workflow_id is not None and len(workflow_id.encode()) > LONGEST_ID_BYTES:
        workflow_id, error = None, f"id: expected at most {LONGEST_ID_BYTES} bytes"
    if workflow_id is None:
        found.trouble = f"a workflow of the listing cannot be read: {error}"
    elif rows is not None:
        found.workflows[workflow_id] = rows
    else:
        found.workflows.setdefault(workflow_id)


def _tell(listener: Listener, app_id: str, error: str) -> None:
    listener(Notice("workflow.refused", {"app_id": app_id, "error": error}, level="warning"))


def only(streams: Sequence[StreamId], workflows: Sequence[str]) -> list[StreamId]:
    """The streams of the workflows asked for; all where none is named.

    Raises:
        SettingsError: a workflow that is asked for is in none of the apps.
    """
    known = {stream.workflow_id for stream in streams}
    for name in workflows:
        if name not in known:
            raise SettingsError(
                f"the workflow {name} is in none of the apps asked for",
                hint="Add it under `workflows:` in config.yaml, or correct --workflow.",
            )
    return [stream for stream in streams if not workflows or stream.workflow_id in workflows]


NOT_DISCOVERED = (FatalError, TransientError)
"""What keeps one app's workflows from being listed, and leaves the other apps alone; a refused key stops all."""
