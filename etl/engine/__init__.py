"""Engines, which run the workers of an invocation: in this process, in other processes, or on a cluster.

In this process, work runs in concurrent tasks: if one fails, the others are cancelled.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from etl.errors import gravest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Open an `asyncio.TaskGroup` that raises a single error instead of a group of errors.

    Raises:
        BaseException: the error of the block or of a task; if several failed, the one that takes precedence (see
            `gravest`).
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this is a coroutine
    cancellations = task.cancelling()
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        # Until Python 3.13, a group that cancels this task to wake it does not take that back.
        if task.cancelling() > cancellations:
            task.uncancel()
        raise gravest(errors.exceptions) from None


async def run_concurrently(width: int, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `work` in `width` concurrent tasks. If one fails, the others are cancelled; see `task_group`."""
    async with task_group() as group:
        for _ in range(width):
            group.create_task(work())
