"""Reading a run listing: pages in parallel, handed on in their order, at most a window of them in hand."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

from etl.api.pages import Page
from etl.plan import Extent
from etl.sync.repeats import RepeatGuard

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from etl.api.client import CortexClient
    from etl.events import StreamId

BATCH_ITEMS = 700
"""Items after which a batch is handed on; one transaction takes about this many runs."""

LINGER_S = 0.1
"""How long a batch waits for a page that is under way: commits of few runs cost PostgreSQL much more a run."""


class Listing:
    """The runs of one workflow as the API lists them.

    Args:
        client: the source.
        stream: whose runs.
        take: page size to ask for.
        window: pages in hand at once: those under way and those fetched but not yet committed.
        status: filter.
        origin: filter.
    """

    def __init__(
        self,
        client: CortexClient,
        stream: StreamId,
        *,
        take: int,
        window: int,
        status: str = "ALL",
        origin: str = "ALL",
    ) -> None:
        self._client = client
        self._stream = stream
        self._status, self._origin = status, origin
        self.window = window
        self.take = take
        self.extent = Extent(take)
        self.count: int | None = None
        self.answers = 0
        self.tail: tuple[int, int] | None = None
        self.by_token = False

    def filtered(self, status: str) -> Listing:
        """The same listing through a status filter."""
        return Listing(
            self._client, self._stream, take=self.take, window=self.window, status=status, origin=self._origin
        )

    async def page(self, number: int, token: str | None = None) -> Page:
        """Read one page and learn the listing's extent from it."""
        page = await self._client.list_runs(
            *self._stream, number, self.take, status=self._status, origin=self._origin, next_token=token
        )
        if page.number != number:  # the header says otherwise; what it holds decides
            page = replace(page, number=number)
        self.answers += 1
        self.by_token = self.by_token or page.next_token is not None
        self.extent.observe(number, len(page.items), page.take, page.count)
        self.count = page.count
        return page

    async def probe(self, place: int = 1) -> Page:
        """Read the one item at a place (from 1), with the listing's count."""
        page = await self._client.list_runs(*self._stream, place, 1, status=self._status, origin=self._origin)
        self.count = page.count
        return page

    async def run(self, run_id: str) -> Page:
        """Read one run, as a page (number 0) that holds it alone.

        Raises:
            NotFoundError: the API knows it no more.
        """
        raw = await self._client.get_run(*self._stream, run_id)
        url = f"/apps/{self._stream.app_id}/workflows/{self._stream.workflow_id}/runs/{run_id}"
        return Page([raw], 0, 1, None, url, monotonic(), None, None)

    async def walk(self) -> AsyncGenerator[Page, None]:
        """Read pages one after another from the first one on, for as long as they are wanted.

        Yields:
            Each page with items.

        Raises:
            FatalError: the API repeats a page instead of going on.
        """
        number, token = 1, None
        guard = RepeatGuard(self.page)
        self.extent.begin()
        while self.extent.wants(number):
            page = await self.page(number, token)
            if not page.items or await guard.is_end(page, self.extent.take):
                return
            yield page
            number, token = number + 1, page.next_token
            if self.by_token and token is None:
                return

    async def pages(self, start: int = 1, token: str | None = None) -> AsyncGenerator[list[Page], None]:
        """Read from page `start` (which the API may call `token`) to the end.

        Yields:
            Consecutive pages, as many as have arrived (about `BATCH_ITEMS` items at most).

        Raises:
            FatalError: the API repeats a page instead of going on.
        """
        tasks: dict[int, asyncio.Task[Page]] = {}
        ahead, due = start, start
        guard = RepeatGuard(self.page)
        self.extent.begin()
        try:
            while True:
                while len(tasks) < self.window and self._may_read(ahead, due):
                    tasks[ahead] = asyncio.create_task(self.page(ahead, token))
                    ahead += 1
                if due not in tasks:
                    return
                ready: list[Page] = []
                ended = False
                while not ended and due in tasks and (not ready or await _joins(ready, tasks[due])):
                    page = await tasks.pop(due)
                    ended = await guard.is_end(page, self.extent.take)
                    if not ended:
                        ready.append(page)
                        due += 1
                        token = page.next_token
                        ended = self.by_token and token is None
                if ready:
                    yield ready
                if ended:
                    return
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    def _may_read(self, number: int, due: int) -> bool:
        """Whether page `number` may be asked for: ahead as far as the count reaches, then one at a time to the end."""
        if self.by_token:
            return number == due
        if not self.extent.wants(number):
            return False
        if self.tail is not None and number >= self.tail[0] and self.count == self.tail[1]:
            return False
        pages = self.extent.pages if self.answers else 1
        return number == due or (pages is not None and number <= pages)


async def _joins(ready: list[Page], task: asyncio.Task[Page]) -> bool:
    """Whether a page belongs to the batch that is ready: there is room, and it arrives soon."""
    if sum(len(page.items) for page in ready) >= BATCH_ITEMS:
        return False
    if not task.done():
        await asyncio.wait((task,), timeout=LINGER_S)
    return task.done()
