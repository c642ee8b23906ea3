"""Whether one pass over a listing proves that no run was missed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from etl.text import counted

if TYPE_CHECKING:
    from etl.plan.passes import Pass

MAX_PASSES = 6
"""How many passes over a listing may be tried until one proves complete."""

LARGE_LISTING_PAGES = 200
"""Listings of more pages get two passes at most; the next reconcile reads them again."""

UNLINKED = "its pages cannot be linked, and its counts do not prove that all of it was read"

UNPROVABLE_HINT = (
    "Neither the API's pages nor its counts show whether the listing was read completely. Ask whoever runs it to sort "
    "runs by creation, newest first, and to send pagination-count."
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a pass over a listing, or over a window of it, has shown.

    Attributes:
        pages: the number of pages; a single page is a consistent snapshot.
        begun: whether the first page is the listing's first, or shows a run in front of the window.
        ended: whether the end of the listing was reached, or a run behind the window.
        linked: whether each page overlaps with the next.
        met: the number of different runs; None if the count does not apply to them (a window, or a resumed pass).
        count: the count in the last response; None if the server sends none.
        counts: all counts received.
        first: the items of the first page.
        newest_first: whether the listing is sorted by creation, newest first, and the first page shows a run older
            than its first.
        newest_linked: whether the newest end, read again after everything else, overlaps with what was read there;
            None if it was not read again, because the listing has no order.
        newest_same: whether the newest end showed the same items both times.
    """

    pages: int
    begun: bool
    ended: bool
    linked: bool
    met: int | None
    count: int | None
    counts: frozenset[int | None] = frozenset()
    first: tuple[str, ...] = ()
    newest_first: bool = False
    newest_linked: bool | None = None
    newest_same: bool = False

    @classmethod
    def of(cls, main: Pass[Any], *, begun: bool, resumed: bool, met: int | None, newest_first: bool) -> Self:
        """Return the evidence of the main pass; `resumed` means that it continued from a checkpoint."""
        return cls(
            pages=max(main.pages, 2) if resumed else main.pages,
            begun=begun or resumed,
            ended=main.ended,
            linked=main.linked,
            met=met,
            count=main.count,
            counts=frozenset(main.counts),
            first=main.first,
            newest_first=newest_first and not resumed,
        )

    def closed_by(self, look: Pass[Any], met: int | None) -> Self:
        """Add the evidence of the closing pass; `met` now includes its runs."""
        return replace(
            self,
            met=met,
            count=look.count,
            counts=self.counts | look.counts,
            newest_linked=look.linked and (look.joined or look.tail is None),
            newest_same=look.first[: len(self.first)] == self.first,
        )


def verdict(seen: Evidence) -> str:
    """Return why the pass may have missed a run that was listed all the time; empty if it is complete.

    docs/delivery.md explains the rules, and the assumptions that no crawler of this API can avoid.
    """
    is_counted = seen.met is not None and seen.count is not None
    differs = f"the API counts {counted(seen.count or 0, 'run')}, the listing shows {seen.met}"
    if not (seen.begun and seen.ended):
        return "the end of the listing was not reached"
    if seen.pages == 1:  # one response is one moment
        return differs if is_counted and seen.met != seen.count else ""
    if seen.linked:
        if seen.newest_linked is False:
            return "more runs were created than a page holds while the listing was read"
        return differs if is_counted and (seen.met or 0) < (seen.count or 0) else ""
    if seen.newest_first and is_counted and len(seen.counts) == 1 and seen.newest_same:
        return differs if seen.met != seen.count else ""
    return UNLINKED


def passes_allowed(pages: int) -> int:
    """Return how often a listing of `pages` pages may be read."""
    return MAX_PASSES if pages <= LARGE_LISTING_PAGES else 2
