"""sync, backfill and reconcile: in this process, together with other processes, or on the workers of an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from etl.app.sync_invocation import SyncInvocation, task_of
from etl.events import ignore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from etl.api.retry import RetryPolicy
    from etl.app.summary import SyncSummary
    from etl.config import Settings
    from etl.events import Listener
    from etl.sync.stream import Mode


async def run_sync(  # noqa: PLR0913 - the options of the commands
    settings: Settings,
    mode: Mode,
    *,
    apps: Sequence[str] = (),
    workflows: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    dry_run: bool = False,
    join: str | None = None,
    listener: Listener = ignore,
    policy: RetryPolicy | None = None,
) -> SyncSummary:
    """Sync, backfill or reconcile.

    Args:
        mode: `sync`, `backfill` or `reconcile`.
        apps: ids of the apps to sync; empty for all configured apps.
        workflows: ids of the workflows to sync; empty for all.
        since: with `backfill`, load runs created at or after this time.
        until: with `backfill`, load runs created before this time.
        dry_run: whether to fetch and normalize only, without writing.
        join: name of the invocation to join, or to start if it is not running; None for an invocation of this process.
        policy: the retry policy; None for the default.

    Returns:
        The summary. It is returned in all cases: `cause` is the error that ended the invocation, or an interruption if
        the task was cancelled.
    """
    task = task_of(settings, mode, since, until)
    options: dict[str, Any] = {"apps": apps, "workflows": workflows, "policy": policy}
    if join is not None:
        from etl.app.joined_invocation import JoinedInvocation  # noqa: PLC0415 - for start-up time, as below

        return await JoinedInvocation(settings, task, listener, name=join, **options).run()
    if settings.engine.kind != "local" and not dry_run:
        from etl.app.engine_invocation import EngineInvocation  # noqa: PLC0415

        return await EngineInvocation(settings, task, listener, **options).run()
    return await SyncInvocation(settings, task, listener, dry_run=dry_run, **options).run()
