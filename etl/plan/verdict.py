"""What the evidence of one pass over a listing proves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from etl.plurals import counted

if TYPE_CHECKING:
    from etl.plan.passes import Pass

MAX_PASSES = 6
"""How often a listing is read until a pass proves that it is complete."""

LARGE_LISTING_PAGES = 200
"""Above this many pages two passes must do: the next reconcile reads the listing again."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a pass over a listing, or over a window of it, showed.

    Attributes:
        pages: pages read in order; 1 proves more than the others.
        begun: the first page is the listing's first, or shows a run beyond the window.
        ended: the end of the listing showed, or a run beyond the window.
        linked: the end of each page was the beginning of the next.
        met: different runs found; None where the count says nothing about them (a window, or a resumed pass).
        count: the count that came with the last answer; None where the server sends none.
        counts: all counts that came.
        first: the items of the first page.
        newest_first: the pages are sorted by creation, newest first, and the first page shows a run older than the
            newest.
        newest_linked: the newest end, read again after everything else, meets what was read there; None where the
            listing shows no order, so that it was not read again.
        newest_same: the newest end showed the same items both times.
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
        """Put together what the main pass showed; `resumed` says that it went on from a checkpoint."""
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
        """Add what the closing pass showed, after which `met` different runs were found."""
        return replace(
            self,
            met=met,
            count=look.count,
            counts=self.counts | look.counts,
            newest_linked=look.linked and (look.joined or look.tail is None),
            newest_same=look.first[: len(self.first)] == self.first,
        )


def verdict(seen: Evidence) -> str:
    """Return why a pass may have missed a run that was listed throughout; empty where it is complete.

    The rules, and the assumptions that no crawler of this API can do without, are in docs/delivery.md.
    """
    is_counted = seen.met is not None and seen.count is not None
    differs = f"the API counts {counted(seen.count or 0, 'run')}, the listing shows {seen.met}"
    if not (seen.begun and seen.ended):
        return "the end of the listing did not show"
    if seen.pages == 1:  # one answer is one moment
        return differs if is_counted and seen.met != seen.count else ""
    if seen.linked:
        if seen.newest_linked is False:
            return "more runs were created than a page holds while the listing was read"
        return differs if is_counted and (seen.met or 0) < (seen.count or 0) else ""
    if seen.newest_first and seen.count is not None and len(seen.counts) == 1 and seen.newest_same:
        return differs if seen.met != seen.count else ""
    return "its pages cannot be linked, and its counts do not prove that all of it was read"


def passes_allowed(pages: int) -> int:
    """Return how often a listing of `pages` pages may be read."""
    return MAX_PASSES if pages <= LARGE_LISTING_PAGES else 2
