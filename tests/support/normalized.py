"""Access to normalized rows: values by column name, with JSON parsed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from struct import unpack_from
from typing import TYPE_CHECKING, Any

from etl import tables
from etl.decode.items import digest
from etl.decode.json_text import dump, parse
from etl.normalize.fitting import JSONB
from etl.normalize.normalizer import Normalizer
from etl.normalize.redaction import Redactor
from etl.normalize.rows import RunRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def run_bytes(**fields: Any) -> bytes:
    """A run of the workflow `wf` as the API would send it."""
    run = {"id": "run", "workflow_id": "wf"} | fields
    return json.dumps(run, ensure_ascii=False).encode("utf-8", "backslashreplace")


def normalized(raw: bytes, *, store_payloads: bool = True, redact: Redactor | None = None) -> RunRows:
    """The rows of a run in the stream of the app `app` and the workflow `wf`."""
    return Normalizer("app", "wf", store_payloads=store_payloads, redact=redact).normalize(raw, digest(raw))


def named(table: tables.Table, row: Sequence[Any]) -> dict[str, Any]:
    """The values of a row by column name, as Python values; JSON has plain numbers."""
    return {
        name: json.loads(plain(kind, value)) if kind == "jsonb" and value is not None else plain(kind, value)
        for (name, kind), value in zip(table.types.items(), row, strict=True)
    }


def plain(kind: str, value: Any) -> Any:
    """A value of a row as a Python value; JSON is text."""
    if kind == "jsonb" and value is not None:
        assert value.startswith(JSONB)
        return value.removeprefix(JSONB)
    if kind == "numeric" and value is not None:
        return number(value)
    if kind == "timestamptz" and isinstance(value, int):
        return datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=value)
    return value


def number(value: bytes) -> Decimal:
    """The number in `value`, which is in PostgreSQL's binary format."""
    count, weight, sign, scale = unpack_from("!HhHH", value)
    assert len(value) == 8 + 2 * count
    digits = "".join(f"{group:04}" for group in unpack_from(f"!{count}H", value, 8))
    missing = scale - (count - 1 - weight) * 4 if count else 0
    digits = digits + "0" * missing if missing >= 0 else digits[:missing]
    return Decimal(f"{'-' if sign else ''}{digits or '0'}E-{scale}")


def run_row(rows: RunRows) -> dict[str, Any]:
    return named(tables.RUNS, rows.run)


def step_rows(rows: RunRows) -> list[dict[str, Any]]:
    return [named(tables.RUN_STEPS, row) for row in rows.steps]


def call_rows(rows: RunRows) -> list[dict[str, Any]]:
    return [named(tables.RUN_STEP_CALLS, row) for row in rows.calls]


def usage_rows(rows: RunRows) -> list[dict[str, Any]]:
    return [named(tables.RUN_USAGE_CALLS, row) for row in rows.usage]


def comparable(rows: RunRows) -> Any:
    """All rows, with canonical JSON and exact digits, for comparisons."""

    def table(table: tables.Table, rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
        kinds = list(table.types.values())
        return [
            [
                dump(parse(plain(kind, value))) if kind == "jsonb" and value is not None else value
                for kind, value in zip(kinds, row, strict=True)
            ]
            for row in rows
        ]

    return (
        (rows.run_id, rows.digest, rows.status, rows.created_at, rows.updated_at, rows.updated_on_day),
        (rows.emptied, rows.retention_due_at),
        table(tables.RUNS, [rows.run]),
        table(tables.RUN_STEPS, rows.steps),
        table(tables.RUN_STEP_CALLS, rows.calls),
        table(tables.RUN_USAGE_CALLS, rows.usage),
        rows.child_runs,
        [
            (
                version.id,
                version.digest,
                table(tables.WORKFLOW_VERSIONS, [version.row]),
                table(tables.WORKFLOW_STEPS, version.steps),
                version.links,
            )
            for version in rows.versions
        ],
    )
