"""Fitting values into columns: what a column cannot hold goes to `extra` under its path, and the column is null."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from etl.decode import Json, Number, dump_storable
from etl.errors import RecordError
from etl.wire import JSONB, numeric

if TYPE_CHECKING:
    from decimal import Decimal

    from etl.models import Moment

INT4: Final = 2**31
INT8: Final = 2**63
HTTP_STEPS: Final = ("http_request", "browser")
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_US: Final = -946_684_800_000_000
"""The same in microseconds from the year 2000 on, by which times of steps are counted, as in PostgreSQL."""


def exact(number: Decimal | None) -> bytes | None:
    """`number` for a numeric column, with the digits as received.

    Raises:
        RecordError: `number_out_of_range`.
    """
    if not isinstance(number, Number):
        return None if number is None else numeric(str(number))
    if not number.storable:
        raise RecordError("number_out_of_range", f"no column can hold the number {number.literal[:40]}")
    return numeric(number.literal)


def jsonb(value: Json) -> bytes | None:
    """`value` for a jsonb column; None, SQL NULL, for null."""
    return None if value is None else JSONB + dump_storable(value)


class Leftovers:
    """The fields of a document that no column holds, each under its path in the payload."""

    def __init__(self, unknown: dict[str, Any] | None = None) -> None:
        self.fields: dict[str, Any] = dict(unknown) if unknown else {}

    def put(self, path: tuple[str, ...], value: Json) -> None:
        """Keep `value` under `path`."""
        fields = self.fields
        for key in path[:-1]:
            fields = fields.setdefault(key, {})
        fields[path[-1]] = value

    def put_unknown(self, path: tuple[str, ...], unknown: dict[str, Any]) -> None:
        """Keep the unknown fields of the document that stands at `path`."""
        for key, value in unknown.items():
            self.put((*path, key), value)

    def integer(self, value: Decimal | None, limit: int, *path: str) -> int | None:
        """`value` for an integer column of the range -limit to limit - 1."""
        if value is None:
            return None
        # The size is asked first: making an int of 1e999999 would take for ever.
        if value.is_finite() and value.adjusted() < 20 and -limit <= value < limit and value == int(value):
            return int(value)
        self.put(path, value)
        return None

    def moment(self, value: Moment | None, *path: str) -> datetime | None:
        """`value` for a time column."""
        if value is None:
            return None
        if value.time is None:
            self.put(path, value.text)
        return value.time

    def epoch_ms(self, value: Decimal | None, *path: str) -> int | None:
        """`value`, milliseconds since 1970, for a time column in microseconds since 2000; rounded half to even."""
        if value is None:
            return None
        if value.is_finite() and value.adjusted() < 20:
            since = round(value * 1000)
            try:
                EPOCH + timedelta(microseconds=since)
            except OverflowError:
                pass
            else:
                return since + EPOCH_US
        self.put(path, value)
        return None

    def double(self, value: Decimal | None) -> float | None:
        """`value` for a double precision column; None where it is beyond its range."""
        if value is None:
            return None
        number = float(value)
        return None if number in {float("inf"), float("-inf")} else number

    def jsonb(self) -> bytes | None:
        """What the `extra` column takes; None when there is nothing."""
        return jsonb(self.fields) if self.fields else None
