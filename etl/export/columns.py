"""The types of the exported columns, and values turned into them."""

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
"""Of the widest decimal that DuckDB, Spark and Parquet share: room for all digits of a double from a millionth on."""

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
    """The columns of one table: how to select them, and the schema of its files."""

    table: str
    selection: str
    schema: pa.Schema

    @property
    def layout(self) -> str:
        """Names and types as text; two layouts that differ make files that do not fit together."""
        return ", ".join(f"{each.name} {each.type}" for each in self.schema)


async def columns(connection: asyncpg.Connection, table: str) -> Columns:
    """Look a table's columns up; a type that is not known here is exported as PostgreSQL's text of it.

    Raises:
        asyncpg.UndefinedTableError: there is no such table.
    """
    found = await connection.fetch(statements("export")["columns"], table)
    selected = []
    fields = []
    for name, kind in found:
        quoted = f"{table}.{quote_identifier(name)}"
        selected.append(quoted if kind in _TYPES else f"{quoted}::text")
        fields.append(pa.field(name, _TYPES.get(kind, pa.string())))
    return Columns(table, ", ".join(selected), pa.schema(fields))


def batch(rows: Sequence[Iterable[Any]], schema: pa.Schema) -> tuple[pa.RecordBatch, int]:
    """Turn rows into columns.

    Args:
        rows: at least one, in the order of the schema.
        schema: the columns.

    Returns:
        The columns, and how many decimals did not fit and were rounded or left out.
    """
    arrays = []
    misfits = 0
    for values, field in zip(zip(*rows, strict=True), schema, strict=True):
        try:
            array = pa.array(values, field.type)
        except pa.ArrowInvalid:
            if field.type != DECIMAL:
                raise
            fitted = [_fitted(value) for value in values]
            misfits += sum(one != other for one, other in zip(fitted, values, strict=True))
            array = pa.array(fitted, field.type)
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=schema), misfits


def _fitted(value: Decimal | None) -> Decimal | None:
    """The nearest value that `DECIMAL` holds; None where it is too large for it."""
    if value is None or value.copy_abs() >= _TOO_LARGE:
        return None
    rounded = value.quantize(_LAST_DIGIT, context=_EXACT)
    return rounded if rounded.copy_abs() < _TOO_LARGE else None
