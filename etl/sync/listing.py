"""Requests to one run listing. Several pages are requested at once and returned in their order."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from etl.api.pages import Page
from etl.decode.items import digest, guess_id, peek_id
from etl.decode.json_text import REPLACEMENT
from etl.errors import FatalError, NoDocumentError, NotFoundError, PageTooLargeError, TransientError
from etl.plan.paging import FIRST_TRIED, MAX_SIZE, Answer, Paging, Span

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from etl.api.client import CortexClient
    from etl.events import StreamId
    from etl.plan.passes import Pass

BATCH_ITEMS = 700
"""How many items make a batch: about as many runs are loaded in one transaction."""

LINGER_S = 0.1
"""How long a batch waits for a page in flight: a small commit costs PostgreSQL much more per run."""

UNANSWERED_RUNS = 3
"""How many runs may stay unanswered when they are requested one by one; if there are more, the API is failing."""

REPEATED_PAGES = 5
"""How many full pages in a row may show nothing new: many new runs can shift a listing by whole pages."""

BYTES_AT_ONCE = 32 * 1024 * 1024
"""How many bytes of pages may be in flight or waiting for a commit, across all listings."""


class Listing:
    """The runs of one workflow as the API lists them.

    Args:
        client: sends the requests.
        stream: the app and the workflow.
        paging: how the server pages, as far as known.
        concurrency: how many pages may be in flight or waiting for a commit.
        status: status filter.
        origin: origin filter.
        head: how many runs to request first at the newest end.
        has_common_key: whether the client sends the key of all apps.

    Attributes:
        count: the API's count of the items in its last response; None if it sends none.
    """

    def __init__(
        self,
        client: CortexClient,
        stream: StreamId,
        *,
        paging: Paging,
        concurrency: int,
        status: str = "ALL",
        origin: str = "ALL",
        head: int = MAX_SIZE,
        has_common_key: bool = True,
    ) -> None:
        self.paging = paging
        self.head = head
        self.count: int | None = None
        self.concurrency = concurrency
        self._items = self._bytes = 0
        self._largest = 0  # of the last pages, in bytes
        self._timeouts = 0  # in a row
        self._late = 0  # the page size at the first of the last timeouts in a row
        self._ahead: dict[Span, Page] = {}
        self._client = client
        self._stream = stream
        self._status, self._origin = status, origin
        self._has_common_key = has_common_key

    @property
    def run_bytes(self) -> int | None:
        """The average size of the runs read."""
        return self._bytes // self._items if self._items else None

    def filtered(self, status: str) -> Listing:
        """Return the same listing with a status filter."""
        paging = replace(self.paging, uneven=False)
        return Listing(
            self._client, self._stream, paging=paging, concurrency=self.concurrency, status=status, origin=self._origin
        )

    async def read(self, span: Span, token: str | None = None, *, divisible: bool = True) -> Page:
        """Read one page, unless it was read ahead; see `CortexClient.list_runs`."""
        if span in self._ahead:
            return self._ahead.pop(span)
        page = await self._client.list_runs(
            *self._stream,
            span.number,
            span.size,
            status=self._status,
            origin=self._origin,
            next_token=token,
            divisible=divisible,
            failures=self._timeouts if divisible else 0,
        )
        self.count = page.count
        self.paging.weigh(len(page.items), page.bytes)
        self._items += len(page.items)
        self._bytes += page.bytes
        return page

    async def read_ahead(self, span: Span) -> Page:
        """Read a page ahead of the next pass, which does not request it again."""
        self._ahead[span] = page = await self.read(span)
        return page

    def forget_ahead(self) -> None:
        """Let the next pass request all of its pages."""
        self._ahead.clear()

    async def probe(self, place: int) -> Page:
        """Read the single item at a place (from 1), and the listing's count."""
        return await self.read(Span(place, 1), divisible=False)

    async def runs(self, ids: Sequence[str]) -> AsyncGenerator[dict[str, Page | NotFoundError | TransientError], None]:
        """Request runs by id, a few at a time.

        Yields:
            The API's responses by id: a page (number 0) with the run alone; `NotFoundError` if the API does not have
            the run; `NoDocumentError` if the response is not a run, or if the run cannot be requested because its id
            was cleaned; another `TransientError` if there is no usable response.

        Raises:
            TransientError: more than `UNANSWERED_RUNS` runs have no usable response.
        """
        unanswered = 0
        for start in range(0, len(ids), self.concurrency):
            some = ids[start : start + self.concurrency]
            answers = dict(zip(some, await asyncio.gather(*map(self._run, some)), strict=True))
            yield answers
            for answer in answers.values():
                unanswered += not isinstance(answer, Page | NotFoundError | NoDocumentError)
                if isinstance(answer, TransientError) and unanswered > UNANSWERED_RUNS:
                    raise answer

    async def _run(self, run_id: str) -> Page | NotFoundError | TransientError:
        if REPLACEMENT in run_id:
            return NoDocumentError(
                f"the run {run_id} cannot be requested: its id contained characters that were replaced"
            )
        try:
            raw = await self._client.get_run(*self._stream, run_id)
        except (NotFoundError, TransientError) as error:
            return error
        found = peek_id(raw)
        if found is None:
            return NoDocumentError(f"the API returned a document without an id for the run {run_id}")
        if found != run_id:
            return TransientError(f"the API returned another run for the run {run_id}")
        return Page.of_run(raw, f"/apps/{self._stream.app_id}/workflows/{self._stream.workflow_id}/runs/{run_id}")

    async def lacks(self, run_id: str, apps: Sequence[str]) -> bool | None:
        """Return whether neither this app nor any of `apps` has a run; None if the API does not answer."""
        if REPLACEMENT in run_id or not self._has_common_key:  # an API may answer 404 to a key of another account
            return False
        for app_id in (self._stream.app_id, *apps):
            try:
                await self._client.get_run(app_id, self._stream.workflow_id, run_id)
            except NotFoundError:
                continue
            except TransientError:
                return None
            except FatalError:
                pass
            return False
        return True

    async def pages(self, reading: Pass[Page]) -> AsyncGenerator[list[Page], None]:
        """Read the pages of a pass.

        Args:
            reading: the pass.

        Yields:
            Consecutive pages, as many as have arrived (about `BATCH_ITEMS` items at most, or one page).

        Raises:
            FatalError: the API returns the same items over and over.
        """
        tasks: dict[asyncio.Task[Page], Span] = {}
        ready: list[Page] = []
        self._client.readers += 1
        try:
            while True:
                if ready and (reading.ended or not tasks or _is_full(ready)):
                    yield ready
                    ready = []
                while len(tasks) + len(ready) < self._room and (span := reading.next_request()) is not None:
                    token = reading.token if span.number > 1 else None
                    tasks[asyncio.create_task(self.read(span, token))] = span
                if reading.ended or not tasks:
                    if not ready:
                        return  # requests that are still in flight are cancelled: their pages are not needed
                    continue
                waiting = LINGER_S if ready else None
                done, _ = await asyncio.wait(tasks, timeout=waiting, return_when=asyncio.FIRST_COMPLETED)
                if ready and (not done or any(task.exception() for task in done)):
                    yield ready
                    ready = []
                for task in done:
                    ready += self._receive(tasks.pop(task), task, reading)
                _check_progress(reading)
        finally:
            self._client.readers -= 1
            self.forget_ahead()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def _room(self) -> int:
        """How many pages of this listing may be in flight or waiting: it has an equal share of `BYTES_AT_ONCE`.

        While a page times out, the pages after it are not read ahead.
        """
        if self._timeouts:
            return 1
        return min(self.concurrency, max(1, BYTES_AT_ONCE // self._client.readers // max(self._largest, 1)))

    def _receive(self, span: Span, task: asyncio.Task[Page], reading: Pass[Page]) -> list[Page]:
        """Pass a response on to the pass; have smaller pages read in place of one that cannot be read."""
        try:
            page = task.result()
        except PageTooLargeError as error:
            if error.because == "time":
                is_next = span.start <= reading.reach  # not one of those that were read ahead
                if is_next and not self._timeouts:
                    if span.size == self._late and 2 * span.size > self.paging.usual:
                        self.paging.lower(span.size)  # not if it is a small one in place of another
                    self._late = span.size
                self._timeouts += is_next
            elif span.size == 1 or self.paging.fixed:  # it cannot be smaller
                raise
            elif error.because == "refused":
                self.paging.lower(span.size)
            else:
                self._largest = max(self._largest, BYTES_AT_ONCE // 2)
            reading.refuse(span)
            return []
        self._largest = max(page.bytes, self._largest // 2)
        ready = reading.receive(span, answer_of(page))
        if ready:  # pages that were read ahead may arrive while one before them always times out
            self._timeouts = 0
        return ready


def paging_of(page_size: int | Literal["auto"], known: int | None, run_bytes: int | None) -> Paging:
    """Return how to page until responses tell more.

    Args:
        page_size: the setting.
        known: the largest page that the server has given to the app; None if unknown.
        run_bytes: the average size of the stream's runs in bytes; None if unknown.
    """
    if page_size != "auto":
        return Paging(page_size)
    paging = Paging(min(known or FIRST_TRIED, FIRST_TRIED), known)
    paging.weigh(1, run_bytes or 0)
    return paging


def answer_of(page: Page) -> Answer[Page]:
    """Return what planning needs to know of a page."""
    keys = tuple(guess_id(item) or peek_id(item) or digest(item).hex() for item in page.items)
    return Answer(page, keys, page.count, page.size if page.tells_size else None, page.next_token)


def _is_full(batch: Sequence[Page]) -> bool:
    """Return whether another page as large as the last one would be too much for a batch."""
    return sum(len(page.items) for page in [*batch, batch[-1]]) > BATCH_ITEMS


def _check_progress(reading: Pass[Page]) -> None:
    if reading.repeats >= REPEATED_PAGES and not reading.ended:
        raise FatalError(
            "paging does not work: page after page shows no new items",
            hint="Set api.page_size to the size of the pages that the API gives. If that does not help, report it to "
            "whoever runs the API. What was read is kept.",
        )
