-- name: tune
-- For this transaction: JIT compilation takes longer than these queries, and their sorts fit into this work_mem.
SELECT set_config('jit', 'off', true), set_config('work_mem', '64MB', true)

-- name: span
-- The first and the last UTC day with runs, ignoring the future, and the number of runs without created_at.
SELECT
    now() AS now,
    (SELECT (min(created_at) AT TIME ZONE 'UTC')::date FROM runs WHERE created_at < now() + interval '1 day') AS first_day,
    (SELECT (max(created_at) AT TIME ZONE 'UTC')::date FROM runs WHERE created_at < now() + interval '1 day') AS last_day,
    (SELECT count(*) FROM runs WHERE created_at IS NULL) AS undated

-- name: daily
-- Runs and credits of the days $1 to $2. Grouped by status, unlike the daily views, because the API may add values.
SELECT
    (created_at AT TIME ZONE 'UTC')::date AS day,
    workflow_id,
    status,
    count(*) AS runs,
    coalesce(sum(own_credits), 0) AS credits
FROM runs
WHERE (created_at AT TIME ZONE 'UTC')::date BETWEEN $1::date AND $2::date
GROUP BY day, workflow_id, status

-- name: durations
-- Durations of the runs of the days $1 to $2, per period of $3 days (numbered backwards from 0) and in total (null).
SELECT
    workflow_id,
    period,
    spread[1] AS p50_s,
    spread[2] AS p95_s
FROM (
    SELECT
        workflow_id,
        period,
        percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY duration_s) AS spread
    FROM (
        SELECT workflow_id, ($2::date - (created_at AT TIME ZONE 'UTC')::date) / $3::int AS period, duration_s
        FROM runs
        WHERE (created_at AT TIME ZONE 'UTC')::date BETWEEN $1::date AND $2::date
    ) AS timed
    WHERE duration_s IS NOT NULL
    GROUP BY GROUPING SETS ((workflow_id, period), (workflow_id))
) AS measured

-- name: names
SELECT id, name FROM workflows WHERE name IS NOT NULL

-- name: versions
-- Versions published on the days $1 to $2.
SELECT workflow_id, version, created_at
FROM workflow_versions
WHERE NOT is_draft AND version IS NOT NULL AND workflow_id IS NOT NULL
    AND created_at >= $1::date::timestamp AT TIME ZONE 'UTC'
    AND created_at < ($2::date + 1)::timestamp AT TIME ZONE 'UTC'
ORDER BY workflow_id, created_at, version

-- name: models
SELECT
    day, provider, model, sum(calls)::bigint AS calls, sum(failed)::bigint AS failed, coalesce(sum(credits), 0) AS credits
FROM model_usage_daily
WHERE day BETWEEN $1::date AND $2::date
GROUP BY day, provider, model

-- name: steps
-- Like step_performance, for the days $1 to $2.
SELECT
    steps.workflow_id,
    steps.step_key,
    steps.type,
    steps.runs,
    steps.ended,
    steps.failed,
    durations.spread[1] AS p50_s,
    durations.spread[2] AS p95_s,
    steps.credits
FROM (
    SELECT
        workflow_id,
        step_key,
        (array_agg(type ORDER BY type_at DESC NULLS LAST, type) FILTER (WHERE type IS NOT NULL))[1] AS type,
        sum(runs)::bigint AS runs,
        sum(ended)::bigint AS ended,
        sum(failed)::bigint AS failed,
        array_agg(ROW(durations_s)::duration_list) AS lists,
        coalesce(sum(credits), 0) AS credits
    FROM step_days
    WHERE day BETWEEN $1::date AND $2::date
    GROUP BY workflow_id, step_key
) AS steps
LEFT JOIN LATERAL (
    SELECT percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY duration_s) AS spread
    FROM unnest(steps.lists) AS days (durations_s)
    CROSS JOIN LATERAL unnest(days.durations_s) AS duration_s
) AS durations ON true

-- name: failures
SELECT run_id, workflow_id, failed_at, step_key, step_type, left(error, 600) AS error, origin, version
FROM recent_failures
WHERE failed_at IS NOT NULL
ORDER BY failed_at DESC
LIMIT 50

-- name: open_runs
-- The runs that have been open longest, and the number of all open runs.
SELECT run_id, workflow_id, status, created_at, age_s, last_synced_at, count(*) OVER () AS open_in_all
FROM open_runs
ORDER BY created_at NULLS FIRST, run_id
LIMIT 100

-- name: streams
-- Sync health of the streams, except retired ones.
SELECT app_id, workflow_id, state, last_synced_at, last_reconciled_at, api_count, warehouse_count, quarantined,
    left(last_error, 600) AS last_error
FROM sync_health
WHERE state <> 'retired'
ORDER BY app_id, workflow_id

-- name: syncs
SELECT id, mode, status, started_at, ended_at, requests, runs_inserted, runs_updated, runs_gone, rejects,
    left(error, 600) AS error
FROM sync_history
ORDER BY id DESC
LIMIT 10
