"""What normalizing gives: the rows of one run, of one definition, and when a run counts as updated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import msgspec

Row: TypeAlias = tuple[Any, ...]
"""The values of one row in the column order of its descriptor in `etl.tables`, as `etl.db.codecs` takes them.

jsonb and numeric values are as `etl.wire` makes them, and the times of steps and calls microseconds since the year 2000
(in UTC): making better things of them would cost more than loading them.
"""


@dataclass(frozen=True, slots=True)
class VersionRows:
    """The rows of one definition, shared by all runs that used it.

    `digest` identifies its content. The last column of `row`, `as_of`, is None: it is the run's to fill.
    """

    id: str
    row: Row
    steps: tuple[Row, ...]
    links: tuple[Row, ...]
    digest: bytes


class RunRows(msgspec.Struct, frozen=True, gc=False):
    """The rows of one run, ready to load.

    `digest` is the hash of the item as received. `updated_on_day` says that `updated_at` was a bare day. `emptied`
    says that `input`, `result` and `output` are all null or absent. `versions` are the definitions it points at,
    which have to be loaded before it. (A struct and no dataclass, because it is made in a tenth of the time.)
    """

    run_id: str
    digest: bytes
    status: str | None
    created_at: datetime | None
    updated_at: datetime | None
    updated_on_day: bool
    emptied: bool
    retention_due_at: datetime | None
    run: Row
    steps: list[Row]
    calls: list[Row]
    usage: list[Row]
    versions: tuple[VersionRows, ...]


def effective_updated_at(updated_at: datetime | None, on_day: bool) -> datetime | None:  # noqa: FBT001 - a column
    """The time by which two copies of a run are compared: a bare day counts as the last microsecond of its day."""
    if updated_at is None or not on_day:
        return updated_at
    return updated_at + timedelta(days=1, microseconds=-1)
