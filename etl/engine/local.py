"""Runs streams side by side in one process, a bounded number at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from etl.errors import gravest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


class LocalEngine:
    """Works through jobs in their order, at most `width` at once."""

    def __init__(self, width: int) -> None:
        self._width = width

    async def run(self, jobs: Sequence[_Job], work: Callable[[_Job], Awaitable[_Result]]) -> list[_Result]:
        """Do `work` for each job.

        Returns:
            The results in the order of the jobs.

        Raises:
            BaseException: the error that `work` lets out, the gravest of several; the other jobs are cancelled.
        """
        places = asyncio.Semaphore(self._width)

        async def one(job: _Job) -> _Result:
            async with places:
                return await work(job)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(job)) for job in jobs]
        except BaseExceptionGroup as errors:
            raise gravest(errors.exceptions) from None
        return [task.result() for task in tasks]
