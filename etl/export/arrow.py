"""The Arrow types of exported columns, and the conversion of rows to record batches."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from etl.db.connect import quote_identifier
from etl.db.statements import statements

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import asyncpg

DECIMAL = pa.decimal128(38, 22)
"""The widest decimal type supported by DuckDB, Spark and Parquet. It holds all digits of doubles from 10^-6 up."""

_LAST_DIGIT = Decimal(1).scaleb(-DECIMAL.scale)
_TOO_LARGE = Decimal(10) ** (DECIMAL.precision - DECIMAL.scale)
_EXACT = Context(prec=DECIMAL.precision + 1, rounding=ROUND_HALF_EVEN)

_TYPES = {
    "text": pa.string(),
    "text[]": pa.list_(pa.string()),
    "boolean": pa.bool_(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "double precision": pa.float64(),
    "numeric": DECIMAL,
    "timestamp with time zone": pa.timestamp("us", tz="UTC"),
    "jsonb": pa.string(),
    "bytea": pa.binary(),
}


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table: the select list for queries, and the schema of the files."""

    table: str
    selection: str
    schema: pa.Schema

    @property
    def layout(self) -> str:
        """Names and types as text, for detecting files with another schema."""
        return ", ".join(f"{each.name} {each.type}" for each in self.schema)


async def read_columns(connection: asyncpg.Connection, table: str) -> Columns:
    """Read the columns of a table; types without an Arrow counterpart are exported as text.

    Raises:
        asyncpg.UndefinedTableError: the table does not exist.
    """
    found = await connection.fetch(statements("export")["columns"], table)
    selected = []
    fields = []
    for name, kind in found:
        quoted = f"{table}.{quote_identifier(name)}"
        selected.append(quoted if kind in _TYPES else f"{quoted}::text")
        fields.append(pa.field(name, _TYPES.get(kind, pa.string())))
    return Columns(table, ", ".join(selected), pa.schema(fields))


def to_record_batch(rows: Sequence[Iterable[Any]], schema: pa.Schema) -> tuple[pa.RecordBatch, int]:
    """Convert rows to a record batch.

    Args:
        rows: at least one row, with values in the order of the schema.
        schema: the columns.

    Returns:
        The batch, and the number of decimals that were rounded or set to null.
    """
    arrays = []
    inexact = 0
    for values, field in zip(zip(*rows, strict=True), schema, strict=True):
        try:
            array = pa.array(values, field.type)
        except pa.ArrowInvalid:
            if field.type != DECIMAL:
                raise
            fitted = [_fit(value) for value in values]
            inexact += sum(one != other for one, other in zip(fitted, values, strict=True))
            array = pa.array(fitted, field.type)
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=schema), inexact


def _fit(value: Decimal | None) -> Decimal | None:
    """Return the nearest value that fits `DECIMAL`; None if it is too large."""
    if value is None or value.copy_abs() >= _TOO_LARGE:
        return None
    rounded = value.quantize(_LAST_DIGIT, context=_EXACT)
    return rounded if rounded.copy_abs() < _TOO_LARGE else None
