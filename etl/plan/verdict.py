"""What the evidence of one pass over a listing proves."""

from __future__ import annotations

from dataclasses import dataclass

MAX_PASSES = 6
"""How often a listing is read until a pass proves that it is complete."""

LARGE_LISTING_PAGES = 200
"""Above this many pages two passes must do: the next reconcile reads the listing again."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a pass over a listing, or over a window of it, showed.

    Attributes:
        pages: pages read in order.
        begun: the first page is the listing's first, or shows a run beyond the window.
        ended: the end of the listing showed, or a run beyond the window.
        linked: the end of each page was the beginning of the next.
        met: different runs found; None where the count says nothing about them (a window, or a resumed pass).
        count: the count that came with the last answer; None where the server sends none.
        same_count: every answer gave the same count.
        newest_linked: the newest end, read again after everything else, meets what was read there; None where the
            listing shows no order, so that it was not read again.
        newest_same: the newest end showed the same items both times.
        newest_first: the pages are sorted by creation, newest first, and the first page shows a run older than the
            newest.
    """

    pages: int
    begun: bool
    ended: bool
    linked: bool
    met: int | None
    count: int | None
    same_count: bool = False
    newest_linked: bool | None = None
    newest_same: bool = False
    newest_first: bool = False


def verdict(seen: Evidence) -> str:
    """Return why a pass may have missed a run that was listed throughout; empty where it is complete.

    The rules, and the assumptions that no crawler of this API can do without, are in docs/delivery.md.
    """
    counted = seen.met is None or seen.count is None
    if not (seen.begun and seen.ended):
        return "the end of the listing did not show"
    if seen.pages == 1:  # one answer is one moment
        return (
            "" if counted or seen.met == seen.count else f"the API counts {seen.count} runs, the page lists {seen.met}"
        )
    if seen.linked:
        if seen.newest_linked is False:
            return "more runs were created than a page holds while the listing was read"
        enough = counted or (seen.met or 0) >= (seen.count or 0)
        return "" if enough else f"the API counts {seen.count} runs, the listing shows {seen.met}"
    if not (seen.newest_first and seen.count is not None and seen.same_count and seen.newest_same):
        return "its pages cannot be linked, and its counts do not prove that all of it was read"
    return "" if seen.met == seen.count else f"the API counts {seen.count} runs, the listing shows {seen.met}"


def passes_allowed(pages: int) -> int:
    """Return how often a listing of `pages` pages may be read."""
    return MAX_PASSES if pages <= LARGE_LISTING_PAGES else 2
