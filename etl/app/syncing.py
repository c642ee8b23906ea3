"""sync, backfill and reconcile: in this process, with copies of it, or on the workers of an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.app.sync_invocation import Invocation
from etl.events import ignore
from etl.plan.window import Window
from etl.sync import Task

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
        settings: all of them.
        mode: which of the three.
        apps: only these of the configured apps.
        workflows: only these of their workflows.
        since: backfill runs created at or after.
        until: backfill runs created before.
        dry_run: fetch and normalize, write nothing.
        join: name of an invocation whose copies, on any hosts, share the work; None for one of this process alone.
        listener: receives every event.
        policy: how requests are retried; None for the default.

    Returns:
        The summary, whatever happened: an error that ended the invocation and an interruption (a cancelled task) are
        in it as `cause`.
    """
    sync = settings.sync
    task = Task(mode, lookback=sync.lookback, reconcile_every=sync.reconcile_every, window=Window(since, until))
    if join is not None:
        from etl.app.joined import Copy  # noqa: PLC0415 - for start-up time, as below

        return await Copy(settings, task, listener, name=join, policy=policy).run(apps, workflows)
    if settings.engine.kind != "local" and not dry_run:
        from etl.app.calling import Caller  # noqa: PLC0415

        return await Caller(settings, task, listener, policy=policy).run(apps, workflows)
    return await Invocation(settings, task, listener, dry_run=dry_run, policy=policy).run(apps, workflows)
