"""Bounded queries use their indexes and do not scan large tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import inf
from typing import Any

import asyncpg

from etl.db.rollups import roll_up

BIG = {"runs", "run_steps", "run_step_calls", "run_usage_calls"}

# Queries and the index that each must use: one month of 24, one stream of 20, one run of 20,000.
QUESTIONS = {
    "SELECT * FROM runs WHERE created_at >= now() - interval '7 days'": "runs_created_idx",
    "SELECT * FROM run_facts WHERE created_at >= now() - interval '7 days'": "runs_created_idx",
    "SELECT * FROM run_facts WHERE run_id = 'r7'": "runs_pkey",
    "SELECT * FROM step_facts WHERE created_at >= now() - interval '1 day'": "runs_created_idx",
    "SELECT * FROM step_facts WHERE run_id = 'r7'": "run_steps_pkey",
    "SELECT * FROM failure_groups": "runs_failed_idx",
    "SELECT * FROM failure_days WHERE day >= current_date - 7": "rollup_failures_idx",
    "SELECT * FROM workflow_health_daily WHERE day >= current_date - 30": "rollup_health_idx",
    "SELECT * FROM workflow_health_daily WHERE day >= current_date - 30 AND workflow_id = 'w3'": "rollup_health_idx",
    "SELECT * FROM credits_daily WHERE day BETWEEN current_date - 60 AND current_date - 30": "rollup_credits_idx",
    "SELECT * FROM step_performance_daily WHERE day >= current_date - 7": "rollup_steps_idx",
    "SELECT * FROM model_usage_daily WHERE day >= current_date - 7": "rollup_models_idx",
    "SELECT count(*) FROM runs WHERE workflow_id = 'w3' AND created_at >= now() - interval '300 days'": "runs_stream_idx",
    "SELECT * FROM recent_failures ORDER BY failed_at DESC LIMIT 20": "runs_failed_idx",
    "SELECT * FROM recent_failures WHERE failed_at >= now() - interval '7 days'": "runs_failed_idx",
    "SELECT * FROM open_runs": "runs_open_idx",
    "SELECT * FROM open_runs WHERE workflow_id = 'w3'": "runs_open_idx",
    "SELECT * FROM runs WHERE record_id = 'rec 17'": "runs_record_idx",
    "SELECT * FROM runs WHERE workflow_version_id = 'v17'": "runs_version_idx",
    "SELECT * FROM runs WHERE workflow_draft_id = 'v25'": "runs_draft_idx",
    "SELECT * FROM runs WHERE gone_at IS NULL AND retention_due_at < now() + interval '1 day'": "runs_retention_idx",
    "SELECT * FROM run_tree WHERE root_run_id = 'r7'": "child_runs_pkey",
    "SELECT * FROM run_tree WHERE day = current_date - 1": "runs_day_idx",
    "SELECT * FROM child_runs WHERE run_id = 'r7'": "child_runs_run_idx",
    "SELECT * FROM child_runs WHERE parent_run_id = 'r7'": "child_runs_pkey",
    "SELECT * FROM sync_health": "runs_day_idx",
    "SELECT count(*) FROM listed_runs WHERE listed_by = 'a' AND workflow_id = 'w3'": "runs_stream_idx",
    "SELECT count(*) FROM listed_runs WHERE listed_by = 'c' AND workflow_id = 'w3'": "runs_shared_idx",
    "SELECT id FROM listed_runs WHERE workflow_id = 'w4'": "runs_listed_under_idx",
    "SELECT * FROM run_steps WHERE run_id = 'r7'": "run_steps_pkey",
    "SELECT * FROM run_usage_calls WHERE run_id = 'r7'": "run_usage_calls_pkey",
}

FILL = """
    INSERT INTO apps (id) VALUES ('a');
    INSERT INTO workflows (id, app_id, name) SELECT 'w' || i, 'a', 'Workflow ' || i FROM generate_series(0, 19) AS i;
    INSERT INTO etl_streams (app_id, workflow_id) SELECT 'a', id FROM workflows;
    INSERT INTO workflow_versions (id, is_draft) SELECT 'v' || i, i % 25 = 0 FROM generate_series(0, 199) AS i;
    INSERT INTO runs (id, workflow_version_id, workflow_draft_id, app_id, stream_app_id, workflow_id, status, origin,
                      created_at, started_at, ended_at,
                      record_id, retention_due_at, input, credits)
    SELECT 'r' || i, 'v' || i % 200, CASE WHEN i % 25 = 0 THEN 'v' || i % 200 END, 'a', 'a', 'w' || i % 20,
        CASE WHEN i < 20 THEN 'RUNNING' WHEN i % 25 = 0 THEN 'FAILED' ELSE 'COMPLETED' END, 'TRIGGER', t, t,
        CASE WHEN i >= 20 THEN t + interval '5 s' END, CASE WHEN i % 5 = 0 THEN 'rec ' || i % 500 END,
        CASE WHEN i % 3 = 0 THEN t + interval '740 days' END, jsonb_build_object('text', repeat('x', 300)), 0.5
    FROM (SELECT i, now() - i * interval '730 days' / 20000 AS t FROM generate_series(0, 19999) AS i) AS made;
    INSERT INTO run_steps (run_id, step_key, ordinal, type, status, child_run_id, provider, model, output)
    SELECT 'r' || i, 's' || k, k, CASE k WHEN 0 THEN 'model' WHEN 1 THEN 'workflow' ELSE 'code' END, 'COMPLETED',
        CASE WHEN k = 1 AND i % 20 = 7 THEN 'r' || i + 1 END, CASE k WHEN 0 THEN 'openai' END,
        CASE k WHEN 0 THEN 'small' END, jsonb_build_object('text', repeat('y', 200))
    FROM generate_series(0, 19998) AS i, generate_series(0, 2) AS k;
    INSERT INTO child_runs SELECT run_id, step_key, child_run_id FROM run_steps WHERE child_run_id IS NOT NULL;
    INSERT INTO run_step_calls (run_id, step_key, ordinal, type, output)
    SELECT 'r' || i, 's2', k, 'code', jsonb_build_object('text', repeat('z', 200))
    FROM generate_series(0, 19998, 2) AS i, generate_series(0, 2) AS k;
    INSERT INTO run_usage_calls (run_id, step_key, path, depth, credits)
    SELECT 'r' || i, 's0', k::text, 1, 0.1 FROM generate_series(0, 19998) AS i, generate_series(0, 1) AS k;
"""


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


async def test_bounded_queries_use_indexes(warehouse: asyncpg.Connection) -> None:
    await warehouse.execute(FILL)
    await roll_up(warehouse, seconds=inf)
    await warehouse.execute("INSERT INTO etl_changed_days (workflow_id, day) SELECT id, current_date FROM workflows")
    await warehouse.execute("VACUUM ANALYZE")
    wrong = []
    for question, index in QUESTIONS.items():
        (explained,) = json.loads(await warehouse.fetchval(f"EXPLAIN (FORMAT JSON) {question}"))
        found = list(nodes(explained["Plan"]))
        scanned = {node["Relation Name"] for node in found if node["Node Type"] == "Seq Scan"} & BIG
        if scanned:
            wrong.append(f"{question}: scans all of {', '.join(sorted(scanned))}")
        if index not in {node.get("Index Name") for node in found}:
            wrong.append(f"{question}: uses {sorted({node['Index Name'] for node in found if 'Index Name' in node})}")
    assert wrong == []


async def test_every_index_is_used(warehouse: asyncpg.Connection) -> None:
    indexes = await warehouse.fetch(
        """
        SELECT index.relname
        FROM pg_index AS i
        JOIN pg_class AS index ON index.oid = i.indexrelid
        WHERE i.indrelid::regclass::text = ANY ($1::text[])
            AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid)
        """,
        sorted(BIG | {"child_runs"}),
    )
    assert {row["relname"] for row in indexes} <= set(QUESTIONS.values())
