"""Which streams an invocation works on: those configured, those discovered, those asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.db.workflows import name_workflows, save_workflows
from etl.errors import FatalError, KeyRefusedError, RecordError, SettingsError, TransientError
from etl.events import Notice, StreamId
from etl.normalize import normalize_workflow

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from etl.api.client import CortexClient
    from etl.config import AppSettings, Settings
    from etl.events import Listener
    from etl.normalize import Row

_MAX_PAGES = 10_000


def chosen_apps(settings: Settings, apps: Sequence[str]) -> list[AppSettings]:
    """The configured apps, or those of them that are asked for.

    Raises:
        SettingsError: none is configured, or one that is asked for is not.
    """
    if not settings.apps:
        raise SettingsError("no app is configured", mend="Name one under `apps:` in config.yaml: `- id: app_123`.")
    configured = [app.id for app in settings.apps]
    for name in apps:
        if name not in configured:
            raise SettingsError(f"the app {name} is not configured", mend=f"Configured are: {', '.join(configured)}.")
    return [app for app in settings.apps if not apps or app.id in apps]


async def find_streams(
    app: AppSettings, client: CortexClient, pool: asyncpg.Pool | None, listener: Listener, *, take: int
) -> list[StreamId]:
    """The streams of an app, from its settings or by discovery; what discovery finds is written to the warehouse.

    Args:
        app: its settings.
        client: asks with the app's key.
        pool: to the warehouse; None writes nothing.
        listener: hears of workflows that cannot be read.
        take: page size.

    Raises:
        FatalError, TransientError: the app's workflows cannot be listed.
    """
    if app.workflows != "all":
        if pool is not None:
            await name_workflows(pool, app.workflows)
        return [StreamId(app.id, workflow_id) for workflow_id in app.workflows]
    rows = await _discover(app.id, client, listener, take)
    if pool is not None:
        await save_workflows(pool, app.id, rows)
    return [StreamId(app.id, str(row[0])) for row, _ in rows]


async def _discover(app_id: str, client: CortexClient, listener: Listener, take: int) -> list[tuple[Row, Row | None]]:
    found: dict[str, tuple[Row, Row | None]] = {}
    token: str | None = None
    listed: set[bytes] = set()
    for number in range(1, _MAX_PAGES):
        page = await client.list_workflows(app_id, number, take, next_token=token)
        before = len(listed)
        listed.update(page.items)
        for raw in page.items:
            try:
                row, app = normalize_workflow(raw)
            except RecordError as error:
                listener(Notice("workflow.refused", {"app_id": app_id, "error": error.message}, level="warning"))
            else:
                found[str(row[0])] = (row, app)
        token = page.next_token
        # A server may cap `take` without saying so: a short page ends nothing while more is counted, or none at all.
        if len(listed) == before or (token is None and len(listed) == page.count):
            break
    return list(found.values())


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
                mend="Add it under `workflows:` in config.yaml, or mend --workflow.",
            )
    return [stream for stream in streams if not workflows or stream.workflow_id in workflows]


NOT_DISCOVERED = (FatalError, TransientError)
"""What keeps one app's workflows from being listed, and leaves the other apps alone; a refused key stops all."""

__all__ = ["NOT_DISCOVERED", "KeyRefusedError", "chosen_apps", "find_streams", "only"]
