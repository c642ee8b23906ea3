"""Run several tasks concurrently in one process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from etl.errors import gravest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


async def run_concurrently(width: int, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `work` in `width` concurrent tasks. If one fails, the others are cancelled.

    Raises:
        BaseException: the error of a task; if several failed, the one that takes precedence (see `gravest`).
    """
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(width):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise gravest(errors.exceptions) from None
