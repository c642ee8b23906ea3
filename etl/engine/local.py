"""Runs copies of some work side by side in one process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from etl.errors import gravest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


async def run_side_by_side(width: int, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do some work `width` times at once.

    Raises:
        BaseException: the error that it lets out, the gravest of several; the others are cancelled.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(width):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise gravest(errors.exceptions) from None
