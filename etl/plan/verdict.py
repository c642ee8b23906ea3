"""Whether one pass over a listing proves that no run was missed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


def verdict(main: Pass[Any], look: Pass[Any] | None, *, begun: bool, tie_ends: bool, met: int | None) -> str:
    """Return why a pass may have missed a run that was listed all the time; empty if it is complete.

    docs/delivery.md explains the rules, and the assumptions that no crawler of this API can avoid.

    Args:
        main: the pass.
        look: the pass that read the newest end again; None if it was not needed, or if the listing has no order.
        begun: whether the pass began at the beginning of the listing, at a run in front of the window, or at a
            checkpoint.
        tie_ends: whether the listing is sorted by creation, newest first, and the first page shows a run older than
            its first.
        met: how many different runs both showed; None if the count does not apply (a window, or a resumed pass).
    """
    count, counts = (look or main).count, main.counts | (look.counts if look else set())
    is_counted = met is not None and count is not None
    differs = f"the API counts {counted(count or 0, 'run')}, the listing shows {met}"
    if not (begun and main.ended):
        return "the end of the listing was not reached"
    if main.is_single:  # one response is one moment
        return differs if is_counted and met != count else ""
    if main.linked:
        if look is not None and not (look.linked and (look.joined or look.tail is None)):
            return "more runs were created than a page holds while the listing was read"
        return differs if is_counted and (met or 0) < (count or 0) else ""
    is_steady = look is not None and look.first[: len(main.first)] == main.first and len(counts) == 1
    if tie_ends and is_counted and is_steady:
        return differs if met != count else ""
    return UNLINKED


def passes_allowed(pages: int) -> int:
    """Return how often a listing of `pages` pages may be read."""
    return MAX_PASSES if pages <= LARGE_LISTING_PAGES else 2
