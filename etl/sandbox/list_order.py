"""Sort orders of run listings."""

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
_FIELDS: Final = {"created_desc": "created_at", "created_asc": "created_at", "updated_desc": "updated_at", "none": "id"}
_NEVER: Final = float("inf")


@lru_cache(maxsize=65_536)
def _seconds(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _NEVER
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def epoch_seconds(text: Json) -> float:
    """Convert a timestamp to epoch seconds; infinity if there is none, because nulls sort last, as in PostgreSQL."""
    return _seconds(text) if isinstance(text, str) else _NEVER


class SortedRuns:
    """The runs of a workflow in order, sorted again only if runs or their times have changed since the last call."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._sorted_from: tuple[list[dict[str, Json]], list[Json]] = ([], [])
        self._sorted_by = ""
        self._sorted: list[dict[str, Json]] = []

    def ordered(self, runs: Iterable[dict[str, Json]], order: str) -> list[dict[str, Json]]:
        """Return the runs in one of ORDERS; callers must not change the list.

        Args:
            runs: run documents in order of creation, which breaks ties.
            order: `none` is arbitrary but stable, `shuffled` differs on each call.

        Raises:
            ValueError: `order` is not one of ORDERS.
        """
        found = list(runs)
        if order == "shuffled":
            self._random.shuffle(found)
            return found
        field = _FIELDS.get(order)
        if field is None:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, not {order!r}")
        values = [run.get(field) for run in found]
        if self._sorted_by != order or self._sorted_from != (found, values):
            self._sorted_by, self._sorted_from = order, (found, values)
            self._sorted = _sorted(found, values, order)
        return self._sorted


def _sorted(found: list[dict[str, Json]], values: list[Json], order: str) -> list[dict[str, Json]]:
    if order == "none":
        ranks = [float(zlib.crc32(repr(value).encode())) for value in values]
    else:
        ranks = [epoch_seconds(value) for value in values]
    places = range(len(found))
    if order.endswith("_desc"):
        # Negate instead of sorting in reverse, so that for equal times the run created last comes first.
        ranks = [-rank for rank in ranks]
        places = places[::-1]
    return [found[index] for index in sorted(places, key=ranks.__getitem__)]
