"""The orders in which a listing may stand, and the times that it is ordered by. Pure."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

Json = Any
ORDERS: Final = ("created_desc", "created_asc", "updated_desc", "none", "shuffled")
_NEVER: Final = float("inf")


@lru_cache(maxsize=65_536)
def _seconds(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _NEVER
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def instant(text: Json) -> float:
    """The epoch seconds of a timestamp text; infinity where there is none: nulls sort last, as in PostgreSQL."""
    return _seconds(text) if isinstance(text, str) else _NEVER


def ordered(runs: Iterable[dict[str, Json]], order: str, random: Random) -> list[dict[str, Json]]:
    """The runs in one of ORDERS.

    Args:
        runs: run documents, the first created first: where times tie, that order decides.
        order: `none` is arbitrary but the same at each call, `shuffled` is anew at each call.
        random: source of chance for `shuffled`.

    Raises:
        ValueError: `order` is none of ORDERS.
    """
    found = list(runs)
    if order == "created_asc":
        found.sort(key=lambda run: instant(run.get("created_at")))
    elif order in {"created_desc", "updated_desc"}:
        field = order.replace("desc", "at")
        # Reversed and negated, so that of equal times the last created comes first.
        found.reverse()
        found.sort(key=lambda run: -instant(run.get(field)))
    elif order == "none":
        found.sort(key=lambda run: zlib.crc32(repr(run.get("id")).encode()))
    elif order == "shuffled":
        random.shuffle(found)
    else:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, not {order!r}")
    return found
