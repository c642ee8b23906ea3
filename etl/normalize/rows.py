"""The rows of runs and definitions, and the functions that create rows from decoded documents."""

from __future__ import annotations

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
"""The values of one row in the column order of its table in `etl.tables`, in the types that `etl.db.connect` accepts.

jsonb and numeric values are in binary format, and the times of steps and calls are microseconds since 2000-01-01 UTC,
because converting them to Python types would take longer than loading them.
"""


class VersionRows(msgspec.Struct, frozen=True, gc=False):
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

    `workflow_id` is the workflow in the run's document, or else the workflow that lists the run. `digest` is the hash
    of the item as received. `updated_on_day` is true if `updated_at` is a day without a time. `emptied` is true if
    `input`, `result` and `output` are all null or absent. `versions` are the definitions that the run refers to, which
    must be loaded first. This is a struct because creating a dataclass takes ten times as long.
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
    """Return the time by which copies of a run are compared; a day without a time counts as its last microsecond."""
    if updated_at is None or not on_day:
        return updated_at
    return updated_at + timedelta(days=1, microseconds=-1)


def with_storable_numbers(rows: RunRows) -> RunRows:
    """Convert numbers that jsonb cannot hold to text, in all JSON values of the rows.

    Such numbers are rare, so this is called only for a run that PostgreSQL has refused.
    """

    def storable(table: Table, row: Row) -> Row:
        types = table.types.values()
        return tuple(
            quote_huge_numbers(value) if type_ == "jsonb" and value is not None else value
            for type_, value in zip(types, row, strict=True)
        )

    versions = [
        msgspec.structs.replace(
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
    """Return a function that creates the rows of a table. It is compiled from an expression with an item per column.

    The expression for `runs` starts with `(run.id, run.app_id, ...`; values that need a conversion are passed to the
    fitters of their columns, whose exceptions it raises (see `etl.normalize.fitting.Fitter`). A loop over the columns
    would take three times as long.

    Args:
        table: the table.
        parameters: the parameters of the function, separated by commas. A parameter with the name of a column is its
            value; `keep` is whether payloads are stored.
        documents: the parameter that is the struct of an object, by the path of the object. The `extra` of the first
            struct is the value of the column `extra`.
    """
    names = parameters.split(", ")
    items = [_item(column, names, documents) for column in table.columns]
    namespace = {name: fitter.to_column for name, fitter in FITTERS.items()} | INLINED
    namespace |= {"extra_of": extra_of, "NULL": NULL}
    make: Callable[..., Row] = eval(f"lambda {parameters}: ({', '.join(items)})", namespace)  # noqa: S307 - the above
    return make


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
    return f"None if {null} else {fitter.inline or column.fitter + '(value)'}"
