"""How far a history load came, and where it goes on after a kill."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from etl.plan.order import Order  # noqa: TC001 - msgspec reads it when it decodes a checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

EXPIRY_HORIZON = timedelta(days=1)
"""What leaves the API within this time is fetched ahead of the rest of a history."""

ANCHORS = 20
"""How many items of the head a checkpoint names: one that is still listed suffices to find its place again."""


def expires_soon(due: Sequence[datetime | None], now: datetime) -> bool:
    """Whether the run of a page that leaves the API first does so before a long history load may come to it."""
    return any(moment is not None and moment <= now + EXPIRY_HORIZON for moment in due)


def pages_to_rescue(pages: int) -> int:
    """How many pages at the far end of a history may be fetched ahead."""
    return max(1, pages // 4)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a history load came: the finished prefix of a listing and what its ends looked like.

    Attributes:
        offset: how many items from the top are committed, of a listing of `count` items.
        count: the listing's count then; None where the API tells none.
        head: the first items of the listing.
        order: as far as it had shown.
        last: the last committed item of the prefix.
        edge: the listing's last item when the load began, where it is sorted oldest first.
        newest: the largest updated_at committed.
        tail: the pages from this one on are committed too, where what expires soonest was fetched ahead.
        token: the API's token for the next page, where it hands them out.
        began: when the load began.
    """

    offset: int
    count: int | None
    head: tuple[str, ...]
    order: Order | None
    last: str | None = None
    edge: str | None = None
    newest: datetime | None = None
    tail: int | None = None
    token: str | None = None
    began: datetime | None = None


def resume_offset(checkpoint: Checkpoint, *, arrived: int, count: int | None) -> int:
    """How many items from the top are surely committed, or new and read already.

    Args:
        checkpoint: where the earlier process stopped.
        arrived: items now listed above those of the checkpoint.
        count: the listing's present total.

    Returns:
        A number of items: committed ones slid down by `arrived`, and up by at most as many as have been removed.
        0 (start over) where the listing's order or its count do not allow that conclusion.
    """
    if count is None or checkpoint.count is None:
        return 0
    removed = checkpoint.count + arrived - count
    moved = arrived != 0 or removed != 0
    if removed < 0 or (moved and (checkpoint.order is None or not checkpoint.order.newest_first)):
        return 0
    return max(0, checkpoint.offset + arrived - removed)
