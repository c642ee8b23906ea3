"""The rows of a run and of a definition, the functions that make them, and the comparison of copies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from etl.decode.json_text import quote_huge_numbers
from etl.normalize.fitting import FITTERS, INLINED, NULL, extra_of
from etl.tables import RUN_STEP_CALLS, RUN_STEPS, RUNS, WORKFLOW_STEPS, WORKFLOW_VERSIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from etl.tables import Column, Table

Row: TypeAlias = tuple[Any, ...]
"""The values of one row in the column order of its table in `etl.tables`, as `etl.db.codecs` takes them.

jsonb and numeric values are in binary form, and the times of steps and calls are microseconds since the year 2000 (in
UTC): making Python's own types of them would cost more than loading them.
"""


@dataclass(frozen=True, slots=True)
class VersionRows:
    """The rows of one definition, shared by all runs that used it.

    `digest` identifies its content. The last column of `row`, `as_of`, is None: the loader fills it from the run.
    """

    id: str
    row: Row
    steps: tuple[Row, ...]
    links: tuple[Row, ...]
    digest: bytes


class RunRows(msgspec.Struct, frozen=True, gc=False):
    """The rows of one run, ready to load.

    `workflow_id` is the workflow that it names, or the one that lists it. `digest` is the hash of the item as received.
    `updated_on_day` says that `updated_at` was a bare day. `emptied` says that `input`, `result` and `output` are all
    null or absent. `versions` are the definitions it points at, which have to be loaded before it. (A struct and not a
    dataclass, because making it takes a tenth of the time.)
    """

    run_id: str
    workflow_id: str
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
    child_runs: list[Row]
    versions: tuple[VersionRows, ...]


def effective_updated_at(updated_at: datetime | None, on_day: bool) -> datetime | None:  # noqa: FBT001 - a column
    """Return the time by which copies of a run are compared: a bare day counts as its last microsecond."""
    if updated_at is None or not on_day:
        return updated_at
    return updated_at + timedelta(days=1, microseconds=-1)


def with_storable_numbers(rows: RunRows) -> RunRows:
    """Return rows without numbers that jsonb cannot hold: these become text in place.

    Such numbers are so rare that they are looked for only if PostgreSQL refuses a run.
    """

    def storable(table: Table, row: Row) -> Row:
        types = table.types.values()
        return tuple(
            quote_huge_numbers(value) if type_ == "jsonb" and value is not None else value
            for type_, value in zip(types, row, strict=True)
        )

    versions = [
        replace(
            version,
            row=storable(WORKFLOW_VERSIONS, version.row),
            steps=tuple(storable(WORKFLOW_STEPS, step) for step in version.steps),
        )
        for version in rows.versions
    ]
    return msgspec.structs.replace(
        rows,
        run=storable(RUNS, rows.run),
        steps=[storable(RUN_STEPS, row) for row in rows.steps],
        calls=[storable(RUN_STEP_CALLS, row) for row in rows.calls],
        versions=tuple(versions),
    )


def row_maker(table: Table, parameters: str, documents: Mapping[str, str]) -> Callable[..., Row]:
    """Make the function that makes the rows of a table: one expression with an item per column.

    The expression for `runs` begins `(run.id, run.app_id, ...`; further on, values that have to be converted are passed
    to the fitters of their columns. (A loop over the columns would take three times as long.)

    Args:
        table: whose rows these are.
        parameters: the function's parameters, separated by commas. One with the name of a column is its value; `keep`
            says whether payloads are stored.
        documents: by the path of each object that columns come from, the parameter that is its struct. The first one's
            `extra` fills the column `extra`. What it raises is in `etl.normalize.fitting.UNFIT`.
    """
    names = parameters.split(", ")
    items = [_item(column, names, documents) for column in table.columns]
    namespace = {name: fitter.to_column for name, fitter in FITTERS.items()} | INLINED
    namespace |= {"extra_of": extra_of, "NULL": NULL}
    made: Callable[..., Row] = eval(f"lambda {parameters}: ({', '.join(items)})", namespace)  # noqa: S307 - the above
    return made


def _item(column: Column, parameters: list[str], documents: Mapping[str, str]) -> str:
    if column.name in parameters:
        return column.name
    if column.name == "extra":
        return f"extra_of({next(iter(documents.values()))}.extra)"
    value, fitter = f"{documents[column.parent]}.{column.field}", FITTERS[column.fitter]
    if fitter.to_column is None:
        return value
    null = f"(value := {value}) is {'NULL' if fitter.default is NULL else 'None'}"
    if column.fit == "payload":
        null = f"not keep or {null}"
    return f"{fitter.null} if {null} else {fitter.inline or column.fitter + '(value)'}"
