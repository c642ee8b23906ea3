"""One reading of a listing by pages that overlap: which request comes next, and whether each page joins the last."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - msgspec reads it when it decodes a checkpoint
from typing import Any, Generic

from etl.plan.order import Order
from etl.plan.paging import HEAD, LINK, MAX_SIZE, Answer, PageT, Paging, Span, link, meets

REPAIRS = 3
"""How often two pages that do not meet are bridged by a page that overlaps both, each time by more."""

EDGE = 20
"""How many items a checkpoint names where a part of the listing begins or ends."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a reading of a listing came: the part that it took in, from its first item on.

    Attributes:
        position: the position behind the last item; 0 is the listing's first.
        last: the last items before it, which the next page must meet.
        first: the first items of the listing.
        count: the count that came with the last page; None where the API tells none.
        tail: the position and the first items of a part that was read beforehand; the reading ends where it meets them.
        order: of the listing, as far as it had shown.
        newest: the largest updated_at taken in.
        began: when the reading began.
    """

    position: int = 0
    last: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    count: int | None = None
    tail: tuple[int, tuple[str, ...]] | None = None
    order: Order | None = None
    newest: datetime | None = None
    began: datetime | None = None


_AT_FIRST_ITEM = Checkpoint()


class Pass(Generic[PageT]):
    """A reading of a listing from a position to its end; pure.

    Ask `next_request` for what to send, and give each answer to `receive`, which returns the pages that come next in
    the order of the listing. Several requests may be under way at once. Where a page does not meet the one before it,
    because runs were removed meanwhile, a page that overlaps both is read in between.

    Args:
        paging: what is known of the server's pages.
        start: where to go on; by default the listing's first item.
        ahead: how many pages may be asked for or waiting at once.
        head: bounds the size of the first page.

    Attributes:
        pages: how many pages were read in order.
        first: the first page's items.
        last: the last page's items.
        began: the position where it began.
        reach: the position behind the last page, `end` that behind its last item.
        ended: whether the end of the listing showed.
        joined: whether the pass reached the tail.
        linked: whether the end of each page was the beginning of the next.
        count: the count that came with the last page.
        counts: all counts that came.
        repeats: how many pages in a row showed nothing new.
        token: leads to the next page where the server hands tokens out.
    """

    def __init__(
        self,
        paging: Paging,
        start: Checkpoint = _AT_FIRST_ITEM,
        *,
        ahead: int = 1,
        head: int = MAX_SIZE,
    ) -> None:
        self.paging = paging
        self.pages = self.repeats = 0
        self.first, self.last = start.first, start.last
        self.began = self.reach = self.end = start.position
        self.ended = self.joined = False
        self.linked = True
        self.count, self.counts = start.count, set[int | None]()
        self.token: str | None = None
        self.tail = start.tail
        self._ahead = ahead
        self._head = head
        self._queue: dict[Span, Answer[PageT] | None] = {}  # in their order, with the answers that came early
        self._repairs = 0
        self._bridges = False  # whether a page is to be read in front of the queue
        self._refused: tuple[Span, ...] = ()  # pages that cannot be read; smaller ones are, up to the end of each

    def next_request(self) -> Span | None:
        """Return the next page to ask for; None while there is nothing to ask before another answer."""
        planned = next(reversed(self._queue)).end if self._queue else self.reach
        if self.ended or (self._queue and not self._bridges and not self._may_read_ahead(planned)):
            return None
        if self._bridges:
            overlap = max(self.paging.size * self._repairs // (REPAIRS + 1), LINK + self._repairs)
            span = self._next(self.reach, overlap)
            self._queue.pop(span, None)  # it is read again
            self._queue = {span: None, **self._queue}
            self._bridges = False
        else:
            span = self._next(planned)
            self._queue[span] = None
        return span

    def _next(self, position: int, overlap: int = LINK) -> Span:
        """Return the page to ask for from a position on: a smaller one where others could not be read."""
        refused = [span.size for span in self._refused if span.start <= position < span.end]
        first = MAX_SIZE if self.pages else self._head
        most = min((max(size // 4, LINK + 1) if size > LINK + 1 else 1 for size in refused), default=first)
        span = self.paging.next(position, overlap, most)
        if any(span.start <= other.start and other.end <= span.end for other in self._refused):
            return self.paging.next(position, overlap, most, capped=True)
        return span

    def refuse(self, span: Span) -> list[PageT]:
        """Have smaller pages read in the place of one that cannot be read; return the pages that follow as they are."""
        self._refused += (span,)
        self._queue.pop(span, None)
        return self._in_order()

    def _may_read_ahead(self, planned: int) -> bool:
        """Tell whether a page at `planned` is sure to hold items, as far as the count tells."""
        if not self.pages or self.count is None or self.token is not None or len(self._queue) >= self._ahead:
            return False
        return planned < (self.count if self.tail is None else min(self.count, self.tail[0]))

    def receive(self, span: Span, answer: Answer[PageT]) -> list[PageT]:
        """Take in an answer; return the pages that follow in the order of the listing."""
        if span in self._queue:
            self._queue[span] = answer
        return self._in_order()

    def _in_order(self) -> list[PageT]:
        """Take the answers at the front of the queue."""
        ready: list[PageT] = []
        while self._queue and not self.ended and not self._bridges:
            span, received = next(iter(self._queue.items()))
            if self.pages and span.end <= self.reach:  # a page that bridges a gap reached as far
                del self._queue[span]
                continue
            if self.pages and span.start > self.reach:  # a page between them was refused
                self._bridges = True
                break
            if received is None:
                break
            size = self.paging.observe(span, received)
            if not size:
                self._queue.clear()
                break
            if self.last and not self._joins(span, received) and self._repair(span, received):
                break
            del self._queue[span]
            self._accept(span, size, received)
            ready.append(received.page)
        return ready

    def spans_ahead(self) -> list[Span]:
        """Return the pages that follow, as far as the count tells."""
        spans, position = [], self.reach
        while position < (self.count or 0):
            spans.append(self.paging.next(position))
            position = spans[-1].end
        return spans

    def checkpoint(self) -> Checkpoint:
        """Return how far the pass came."""
        return Checkpoint(self.end, self.last[-EDGE:], self.first[:EDGE], self.count, self.tail)

    def stop(self) -> None:
        """End the pass here: what follows is not wanted."""
        self.ended = True

    def _joins(self, span: Span, answer: Answer[Any]) -> bool:
        """Tell whether a page meets the one before it; where no page did, there is no use in looking any more."""
        keys = answer.keys
        if not self.pages:  # only the last items of the earlier reading are known
            here = set(self.last)
            keys = keys[next((place for place, key in enumerate(keys) if key in here), 0) :]
        elif not keys and self.end <= span.start and self.end < self.reach:
            return True  # the page before showed the end of the listing, and nothing stands behind it
        else:  # small pages may begin in front of the last one
            keys = keys[max(0, self.end - len(self.last) - span.start) :]
        shared = self.reach - span.start
        if shared <= 0:
            self.linked = self.linked and self.paging.next(self.reach).start < self.reach
            return not self.linked
        wanted = min(LINK, shared, len(self.last), max(len(answer.keys), 1))
        return not self.linked or link(self.last, keys) >= wanted

    def _repair(self, span: Span, answer: Answer[Any]) -> bool:
        """Plan another page in front of one that does not join; return whether there is one left to try."""
        self._repairs += 1
        if not self.pages:
            self._look_for_place(answer)
            return True
        if self._repairs > REPAIRS:
            self.linked = False
            return False
        if self._repairs > 1:  # the page in front was to bridge the gap itself
            del self._queue[span]
        self._bridges = True
        return True

    def _look_for_place(self, answer: Answer[Any]) -> None:
        """Move to where the items of the earlier reading may be now: as far as the count moved, then a few pages up."""
        moved = 0 if answer.total is None or self.count is None else answer.total - self.count
        steps = [moved] if moved else []
        steps += [-pages * self.paging.size for pages in range(1, REPAIRS + 1)]
        self._queue.clear()
        if self._repairs > len(steps) or self.began + steps[self._repairs - 1] <= 0:
            self.linked = False
            self.stop()
        else:
            self.reach = self.began + steps[self._repairs - 1]

    def _accept(self, span: Span, size: int, answer: Answer[Any]) -> None:
        keys, here = answer.keys, span.start + len(answer.keys)
        self.end = here if keys else self.end
        is_short, is_new = len(keys) < size, not set(keys) <= {*self.first, *self.last}
        self.paging.uneven = self.paging.uneven or (is_short and bool(keys) and (answer.total or 0) > here)
        self.ended = self._is_end(answer, here, is_short=is_short)
        self.count, self.token = answer.total, answer.token
        self.counts.add(answer.total)
        self.pages += 1
        self.repeats = 0 if is_new or self.ended else self.repeats + 1
        self._repairs = 0
        if len(self.first) < LINK:  # a page of a single run links nothing
            self.first = tuple(dict.fromkeys((*self.first, *keys)))
        self.last = keys or self.last
        self.reach = span.start + size

    def _is_end(self, answer: Answer[Any], here: int, *, is_short: bool) -> bool:
        """Tell whether a page shows the end of the listing.

        A full page never does, whatever the count says; a short one does where the count agrees. Otherwise an empty one
        does: a server may cut a list into pages before it filters them.
        """
        self.joined = self.tail is not None and meets(answer.keys, self.tail[1])
        if self.joined:
            return True
        if self.token is not None or answer.token is not None:
            return answer.token is None or not answer.keys
        counted = answer.total is not None and here >= answer.total and not self.paging.uneven
        return not answer.keys or (is_short and counted)


def closing_pass(main: Pass[PageT], order: Order | None) -> Pass[PageT] | None:
    """Return the pass that reads the newest end again after everything else; None where the order does not tell it."""
    head = HEAD if main.linked else MAX_SIZE  # where pages are not linked, whole ones are compared
    if order is Order.CREATED_ASC:
        return Pass(main.paging, Checkpoint(main.end, last=main.last, count=main.count), head=head)
    if order is not None and order.newest_first:
        return Pass(main.paging, Checkpoint(tail=(0, main.first)), head=head)
    return None
