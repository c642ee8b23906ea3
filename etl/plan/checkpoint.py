"""How far a history load came, and what to fetch first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from etl.plan.order import Order  # noqa: TC001 - msgspec reads it when it decodes a checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

EXPIRY_HORIZON = timedelta(days=1)
"""What leaves the API within this time is fetched ahead of the rest of a history."""

EDGE = 20
"""How many items a checkpoint names where a part of the listing begins or ends."""


def expires_soon(due: Sequence[datetime | None], now: datetime) -> bool:
    """Tell whether a run leaves the API before a long history load may come to it."""
    return any(moment is not None and moment <= now + EXPIRY_HORIZON for moment in due)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a history load came: the committed part of a listing, from its first item on.

    Attributes:
        position: the position behind the last committed page.
        last: the last items before it.
        first: the first items of the listing, where the load began.
        count: the listing's count; None where the API tells none.
        order: as far as it had shown.
        newest: the largest updated_at committed.
        tail: the position and the first items of the part at the end that is committed too.
        began: when the load began.
    """

    position: int
    last: tuple[str, ...]
    first: tuple[str, ...]
    count: int | None
    order: Order | None
    newest: datetime | None = None
    tail: tuple[int, tuple[str, ...]] | None = None
    began: datetime | None = None
