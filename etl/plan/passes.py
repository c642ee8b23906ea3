"""One pass over a listing by overlapping pages: which page to request next, and whether it overlaps the last one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - msgspec reads it when it decodes a checkpoint
from itertools import takewhile
from typing import Any, Generic

from etl.plan.order import Order
from etl.plan.paging import HEAD, LINK, MAX_SIZE, Answer, PageT, Paging, Span, link, meets

ATTEMPTS = 3
"""How often a page that does not overlap with the one before is replaced by one that begins earlier, each time more."""

EDGE = 20
"""How many items a checkpoint stores of each end of what was read."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a pass has come: everything before `position` has been loaded.

    Attributes:
        position: the position after the last item read; 0 is the beginning of the listing.
        last: the last items before it, with which the next page must overlap.
        first: the first items of the listing.
        count: the count that came with the last page; None if the API sends none.
        tail: the position and the first items of a part that was read earlier, where the pass ends.
        order: the order of the listing as observed so far.
        newest: the largest `updated_at` loaded.
        began: when the pass began.
    """

    position: int
    last: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    count: int | None = None
    tail: tuple[int, tuple[str, ...]] | None = None
    order: Order | None = None
    newest: datetime | None = None
    began: datetime | None = None


_AT_FIRST_ITEM = Checkpoint(0)


class Pass(Generic[PageT]):
    """One pass over a listing, from a position to its end, without I/O.

    `next_request` returns the page to request; `receive` takes the response and returns the pages that come next in the
    order of the listing. Several requests may be in flight. If a page does not overlap with the one before it, because
    runs were removed in the meantime, it and those after it are replaced by pages that begin earlier.

    Args:
        paging: how the server pages.
        start: where to continue; by default the beginning of the listing.
        ahead: how many pages may be in flight or waiting at once.
        first_size: the largest size of the first page.

    Attributes:
        pages: how many pages were returned in order.
        first: the items of the first page.
        last: the items of the last page.
        start: the position where the pass started.
        reach: the position after the last page.
        end: the position after the last item.
        ended: whether nothing more is to be read: the end of the listing or the tail was reached, the position of the
            checkpoint was not found, or the caller stopped the pass.
        joined: whether the pass reached the tail.
        linked: whether each page overlapped with the next.
        count: the count that came with the last page.
        counts: all counts received.
        repeats: how many pages in a row showed nothing new, or were others than the next ones.
        token: requests the next page, if the server pages by token.
    """

    def __init__(
        self,
        paging: Paging,
        start: Checkpoint = _AT_FIRST_ITEM,
        *,
        ahead: int = 1,
        first_size: int = MAX_SIZE,
    ) -> None:
        self.paging = paging
        self.pages = self.repeats = 0
        self.first, self.last = start.first, start.last
        self.start = self.reach = self.end = start.position
        self.ended = self.joined = False
        self.linked = True
        self.count, self.counts = start.count, set[int | None]()
        self.token: str | None = None
        self.tail = start.tail
        self._ahead = ahead
        self._first_size = first_size
        self._queue: dict[Span, Answer[PageT] | None] = {}  # requested pages in order; None until the response arrives
        self._attempts = 0  # to find a page that overlaps with the last one
        self._refused: tuple[Span, ...] = ()  # pages that cannot be read; smaller pages replace each up to its end

    def next_request(self) -> Span | None:
        """Return the next page to request; None if a response is needed first."""
        if self._queue:
            position, overlap = next(reversed(self._queue)).end, LINK
            if not self._may_read_ahead(position):
                return None
        else:
            position, overlap = self.reach, None
        if self.ended:
            return None
        span = self._next(position, overlap)
        self._queue[span] = None
        return span

    def _next(self, position: int, overlap: int | None) -> Span:
        """Return the page to request at a position; a smaller one where a page could not be read.

        `overlap` is how many items to read again; None for more of them with each attempt.
        """
        refused = [span.size for span in self._refused if span.start <= position < span.end]
        first = MAX_SIZE if self.pages else self._first_size
        most = min((max(size // 4, LINK + 1) if size > LINK + 1 else 1 for size in refused), default=first)
        if overlap is None:
            size = min(self.paging.size, most)
            overlap = max(size * self._attempts // (ATTEMPTS + 1), LINK + self._attempts)
        span = self.paging.next(position, overlap, most)
        if any(span.start <= other.start and other.end <= span.end for other in self._refused):
            return self.paging.next(position, overlap, most, capped=True)
        return span

    def refuse(self, span: Span) -> None:
        """Have a page that cannot be read replaced by smaller ones, and those after it requested again."""
        self._refused += (span,)
        self._queue = dict(takewhile(lambda requested: requested[0] != span, self._queue.items()))

    def _may_read_ahead(self, position: int) -> bool:
        """Return whether the count shows that there are items at a position."""
        if not self.pages or self.count is None or self.token is not None or len(self._queue) >= self._ahead:
            return False
        return position < (self.count if self.tail is None else min(self.count, self.tail[0]))

    def receive(self, span: Span, answer: Answer[PageT]) -> list[PageT]:
        """Take a response; return the pages that come next in the order of the listing."""
        if span in self._queue:
            self._queue[span] = answer
        ready: list[PageT] = []
        while self._queue and not self.ended:
            span, received = next(iter(self._queue.items()))
            if received is None:
                break
            received = self._with_size(span, received)
            shown = self.paging.observe(span, received, self.reach)
            is_next = shown == span or shown.start <= self.reach < shown.end
            is_gap = is_next and self.last and self.linked and not self._overlaps(shown, received)
            if not is_next or (is_gap and self._replace(shown, received)):
                self.repeats += not is_next
                self._queue.clear()
                break
            del self._queue[span]
            if shown != span:  # those after it were planned for its size
                self._queue.clear()
            self._accept(shown, received)
            ready.append(received.page)
        return ready

    def _with_size(self, span: Span, answer: Answer[PageT]) -> Answer[PageT]:
        """Add its size to a short page that begins where a page of this size does: the server rounds page sizes."""
        first, size = answer.keys[:1], len(answer.keys)
        if answer.size is None and size < span.size and first and first[0] in self.last:
            begins = self.end - len(self.last) + self.last.index(first[0])
            if begins == (span.number - 1) * size != span.start:
                return answer._replace(size=size)
        return answer

    def checkpoint(self) -> Checkpoint:
        """Return how far the pass came."""
        return Checkpoint(self.end, self.last[-EDGE:], self.first[:EDGE], self.count, self.tail)

    @property
    def is_single(self) -> bool:
        """Whether the pass read a single page, from the beginning."""
        return self.pages == 1 and self.start == 0

    def stop(self) -> None:
        """End the pass: what follows is not needed."""
        self.ended = True

    def _overlaps(self, span: Span, answer: Answer[Any]) -> bool:
        """Return whether a page overlaps with the one before it."""
        keys, shared = answer.keys, self.reach - span.start
        if not self.pages:  # only the last items before the checkpoint are known
            here = set(self.last)
            keys = keys[next((place for place, key in enumerate(keys) if key in here), 0) :]
        elif not keys and self.end <= span.start and self.end < self.reach:
            return True  # the page before showed the end of the listing, and this one is empty
        else:  # a small page may begin before the last one
            keys = keys[max(0, self.end - len(self.last) - span.start) :]
        wanted = min(LINK, shared, len(self.last), max(len(answer.keys), 1))
        return shared > 0 and link(self.last, keys) >= wanted

    def _replace(self, span: Span, answer: Answer[Any]) -> bool:
        """Have a page that does not overlap replaced by one that begins earlier.

        Returns:
            Whether the page is dropped. After the last attempt it is used, and the pass is not linked; but a pass that
            did not find the position of its checkpoint ends.
        """
        if self.paging.notice_cap(span, answer):  # the server counts in other pages than were requested
            self._attempts = 0
            return True
        self._attempts += 1
        if not self.pages and self._attempts == 1 and None not in (answer.total, self.count):
            # If runs were created or removed at the top, the items before the checkpoint moved as far as the count.
            self.reach += (answer.total or 0) - (self.count or 0)
        can_overlap = self.paging.next(self.reach).start < self.reach
        if can_overlap and self._attempts <= ATTEMPTS and self.reach > 0:
            return True
        self.linked = False
        self.ended = not self.pages
        self.paging.aligned = self.paging.aligned or self.paging.uneven  # page sizes may be rounded without a notice
        return self.ended

    def _accept(self, span: Span, answer: Answer[Any]) -> None:
        keys, here = answer.keys, span.start + len(answer.keys)
        self.end = here if keys else self.end
        is_short, is_new = len(keys) < span.size, not set(keys) <= {*self.first, *self.last}
        self.paging.uneven = self.paging.uneven or (is_short and bool(keys) and answer.total not in (None, here))
        self.ended = self._is_end(answer, here, is_short=is_short)
        self.count, self.token = answer.total, answer.token
        self.counts.add(answer.total)
        self.pages += 1
        self.repeats = 0 if is_new or self.ended else self.repeats + 1
        self._attempts = 0
        if len(self.first) < LINK:  # a page of a single run cannot be linked
            self.first = tuple(dict.fromkeys((*self.first, *keys)))
        self.last = keys or self.last
        may_be_capped = is_short and answer.total is None and not self.paging.aligned
        self.reach = here if may_be_capped and here > self.reach else span.end

    def _is_end(self, answer: Answer[Any], here: int, *, is_short: bool) -> bool:
        """Return whether a page is the end of the listing.

        A full page never is, whatever the count says. A short page is if the count agrees. Otherwise only an empty page
        is: a server may filter each page after cutting it.
        """
        self.joined = self.tail is not None and meets(answer.keys, self.tail[1])
        if self.joined:
            return True
        if self.token is not None or answer.token is not None:
            return answer.token is None or not answer.keys
        counted = answer.total == here and not self.paging.uneven
        return not answer.keys or (is_short and counted)


def closing_pass(main: Pass[PageT], order: Order | None) -> Pass[PageT] | None:
    """Return the pass that reads the newest end again after everything else; None if the listing has no order."""
    size = HEAD if main.linked else MAX_SIZE  # whole pages are compared if they are not linked
    if order is Order.CREATED_ASC:
        return Pass(main.paging, Checkpoint(main.end, last=main.last, count=main.count), first_size=size)
    if order is not None and order.newest_first:
        return Pass(main.paging, Checkpoint(0, tail=(0, main.first)), first_size=size)
    return None
