"""Where a history load that was cut off goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from etl.plan import Checkpoint, Order, resume_offset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etl.db.store import Store
    from etl.plan import Listed
    from etl.sync.intake import Intake
    from etl.sync.listing import Listing

_TRIES = 3
_PAGES_UP = 3
"""How far above its place the last committed item of an oldest-first listing is looked for."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where to go on: at page `start`, with the listing's `head` page as it is now; `point` is the checkpoint."""

    start: int
    head: Sequence[Listed]
    point: Checkpoint


def read_checkpoint(text: str | None) -> Checkpoint | None:
    """The checkpoint that an earlier process left; None where there is none, or none that can be read."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Checkpoint)
    except msgspec.ValidationError:
        return None


async def resume(listing: Listing, intake: Intake, store: Store) -> Resumption | None:
    """Find the place of the checkpoint in the listing as it is now; what was created since is taken in.

    Returns:
        Where to go on, None to begin at the first page.
    """
    point = read_checkpoint(store.state.backfill_cursor)
    if point is None or not point.head:
        return None
    for _ in range(_TRIES):
        found = await _above(listing, intake, point)
        if found is None:
            return None
        arrived, head, pages, counts = found
        if len(counts) == 1:
            break
    else:
        return None
    if point.order is Order.CREATED_ASC:
        start = await _upwards(listing, intake, point)
    else:
        start = resume_offset(point, arrived=arrived, count=listing.count) // listing.extent.take + 1
    return None if start <= 1 else Resumption(max(start, pages), head, point)


async def _above(
    listing: Listing, intake: Intake, point: Checkpoint
) -> tuple[int, Sequence[Listed], int, set[int | None]] | None:
    """Read down to the first item of the checkpoint's head.

    Returns:
        How many items stand above it, the first page, how many pages were read, and the counts that came with them;
        None where none of the head is listed any more.
    """
    above: set[str] = set()
    head: Sequence[Listed] = ()
    counts: set[int | None] = set()
    async for page in listing.walk():
        sorted_ = await intake.sort([page])
        await intake.load(sorted_)
        counts.add(page.count)
        head = head or sorted_.pages[0]
        for item in sorted_.pages[0]:
            moved = point.order is Order.UPDATED_DESC and not item.known
            if item.ident in point.head and not moved:
                return len(above), head, page.number, counts
            above.add(item.ident)
        if len(above) > point.offset:
            break
    return None


async def _upwards(listing: Listing, intake: Intake, point: Checkpoint) -> int:
    """The page of the last committed item of a listing that grows at its end; 1 where it is not near its old place."""
    number = max(1, -(-point.offset // listing.extent.take))
    for _ in range(min(_PAGES_UP, number - 1)):
        sorted_ = await intake.sort([await listing.page(number)])
        await intake.load(sorted_)
        if point.last in sorted_.idents:
            return number
        number -= 1
    return 1
