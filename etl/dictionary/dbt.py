"""The data dictionary as the sources of a dbt project, with descriptions, tests and freshness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from etl.db.connect import quote_identifier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etl.dictionary import Column, Dictionary, Relation

_HEADER = """\
# Sources of a dbt project (dbt 1.11 or later), written by cortex-etl from the comments in the database.
# After an upgrade: cortex-etl dbt --output FILE --force
"""
_NAME = "cortex"  # independent of the schema, so that models work with any schema
_BOOKKEEPING = ("etl_syncs", "etl_streams")
_VIEW_KEYS = {
    "run_facts": "run_id",
    "step_facts": "run_id, step_key",
    "workflow_health_daily": "day, workflow_id",
    "credits_daily": "day, workflow_id, origin",
    "step_performance": "workflow_id, step_key",
    "step_performance_daily": "day, workflow_id, step_key",
    "model_usage_daily": "day, workflow_id, provider, model",
    "recent_failures": "run_id",
    "failure_groups": "workflow_id, step_key, message",
    "open_runs": "run_id",
    "sync_health": "app_id, workflow_id",
}
"""The columns that identify a row of each view; in daily views, some of them may be null."""

_WIDTH = 120


def sources(dictionary: Dictionary) -> str:
    """Return the text of a `sources.yml` with the relations that `grant` lets a role read, except for rollups."""
    shown = [each for each in dictionary.relations if _is_source(each)]
    source = {
        "name": _NAME,
        "schema": dictionary.schema,
        "description": "Runs of Cortex workflows, loaded by cortex-etl.",
        "loader": "cortex-etl",
        "config": _freshness(dictionary),
        "tables": [_table(each, shown) for each in shown],
    }
    document = {"version": 2, "sources": [source]}
    return _HEADER + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=_WIDTH)


def _is_source(relation: Relation) -> bool:
    return relation.chapter not in {"bookkeeping", "rollups"} or relation.name in _BOOKKEEPING


def _freshness(dictionary: Dictionary) -> dict[str, Any]:
    """Return the freshness check: the age of the data is the time since the least recently synced stream was synced."""
    minutes = int(dictionary.late_after.total_seconds() // 60)
    query = (
        f"SELECT coalesce(min(coalesce(last_synced_at, 'epoch')), 'epoch') "  # noqa: S608 -- quoted
        f"FROM {quote_identifier(dictionary.schema)}.sync_health WHERE state <> 'retired'"
    )
    return {
        "loaded_at_query": query,
        "freshness": {
            "warn_after": {"count": minutes // 2, "period": "minute"},
            "error_after": {"count": minutes, "period": "minute"},
        },
    }


def _table(relation: Relation, shown: Sequence[Relation]) -> dict[str, Any]:
    keys = {each.name: _key(each) for each in shown}
    unique = keys[relation.name]
    by_column: dict[str, list[Any]] = {each.name: [] for each in relation.columns}
    of_table: list[Any] = []
    if unique in by_column:
        by_column[unique].append("unique")
    elif unique:
        of_table.append({"unique": {"arguments": {"column_name": _joined(unique)}}})
    for column in relation.columns:
        if not column.nullable or column.name == unique:
            by_column[column.name].append("not_null")
    for names, target in relation.references.items():
        arguments = {"to": f"source('{_NAME}', '{target}')", "field": _joined(keys[target])}
        if names in by_column:
            by_column[names].append({"relationships": {"arguments": arguments}})
        else:
            of_table.append({"relationships": {"arguments": {"column_name": _joined(names)} | arguments}})
    columns = [_column(each, by_column[each.name]) for each in relation.columns]
    tests = {"data_tests": of_table} if of_table else {}
    return {"name": relation.name, "description": relation.comment, **tests, "columns": columns}


def _key(relation: Relation) -> str:
    """Return the columns that identify a row, joined by commas; '' if there are none."""
    names = [column.name for column in relation.columns if column.kind == "key"]
    return ", ".join(names) or _VIEW_KEYS.get(relation.name, "")


def _joined(names: str) -> str:
    """Return several columns as one expression, because dbt tests single columns."""
    return f"({names})::text" if "," in names else names


def _column(column: Column, tests: list[Any]) -> dict[str, Any]:
    found = {"name": column.name, "description": column.comment, "data_type": column.type}
    return found | ({"data_tests": tests} if tests else {})
