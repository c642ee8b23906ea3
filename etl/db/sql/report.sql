-- name: tune
-- For this transaction. JIT compilation takes longer than these queries, and their sorts fit into this work_mem.
SELECT set_config('jit', 'off', true), set_config('work_mem', '64MB', true)

-- name: span
-- When the first and the last run were created (times in the future are ignored), when the last sync of a stream ended,
-- and the number of runs without created_at.
SELECT
    now() AS now,
    (SELECT min(created_at) FROM runs WHERE created_at < now() + interval '1 day') AS first_run,
    (SELECT max(created_at) FROM runs WHERE created_at < now() + interval '1 day') AS last_run,
    (SELECT max(last_synced_at) FROM sync_health WHERE state <> 'retired') AS read_until,
    (SELECT count(*) FROM runs WHERE created_at IS NULL) AS undated

-- name: daily
-- Runs and credits of the days $1 to $2. Unlike the daily views, this groups by status, because the API may add values.
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
-- Durations of the completed and failed runs of the days $1 to $2: in total (period is null), and per period of $3 days
-- (numbered backwards from 0) with at least $4 such runs. Skipped runs, and some cancelled ones, end when they start.
SELECT
    workflow_id,
    period,
    timed AS runs,
    spread[1] AS p50_s,
    spread[2] AS p95_s
FROM (
    SELECT
        workflow_id,
        period,
        count(*) AS timed,
        percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY duration_s) AS spread
    FROM (
        SELECT workflow_id, ($2::date - (created_at AT TIME ZONE 'UTC')::date) / $3::int AS period, duration_s
        FROM runs
        WHERE (created_at AT TIME ZONE 'UTC')::date BETWEEN $1::date AND $2::date
            AND status IN ('COMPLETED', 'FAILED') AND duration_s >= 0
    ) AS timed
    GROUP BY GROUPING SETS ((workflow_id, period), (workflow_id))
) AS measured
WHERE period IS NULL OR timed >= $4::int

-- name: labels
-- Labels of workflows: their names, with the id if several names begin with the same 70 characters.
SELECT
    id,
    CASE WHEN count(*) OVER (PARTITION BY left(name, 70)) > 1 THEN left(name, 40) || ' (' || id || ')' ELSE name END AS label
FROM workflows
WHERE name IS NOT NULL

-- name: versions
-- Runs of each version of a workflow on the days $1 to $2, in the order of their first use.
SELECT
    workflow_id,
    version,
    min(created_at) AS first_run,
    count(*) FILTER (WHERE status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED')) AS ended,
    count(*) FILTER (WHERE status = 'FAILED') AS failed,
    count(duration_s) FILTER (WHERE status IN ('COMPLETED', 'FAILED')) AS timed,
    percentile_cont(ARRAY[0.25, 0.5, 0.75]) WITHIN GROUP (ORDER BY duration_s)
        FILTER (WHERE status IN ('COMPLETED', 'FAILED')) AS quartiles_s
FROM runs
WHERE (created_at AT TIME ZONE 'UTC')::date BETWEEN $1::date AND $2::date AND version IS NOT NULL
GROUP BY workflow_id, version
ORDER BY workflow_id, first_run, version

-- name: models
SELECT
    day, workflow_id, provider, model, sum(calls)::bigint AS calls, coalesce(sum(credits), 0) AS credits
FROM model_usage_daily
WHERE day BETWEEN $1::date AND $2::date
GROUP BY day, workflow_id, provider, model

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
-- The most frequent failures of the days $1 to $2, as in failure_groups. Only the latest $3 failed runs are considered,
-- because normalizing millions of messages takes minutes.
SELECT
    workflow_id,
    step_key,
    failure_message(error) AS message,
    count(*) AS runs,
    sum(count(*)) OVER ()::bigint AS runs_in_all,
    min(failed_at) AS first_seen,
    max(failed_at) AS last_seen,
    array_agg(DISTINCT version) FILTER (WHERE version IS NOT NULL) AS versions,
    (array_agg(run_id ORDER BY failed_at DESC, run_id))[1] AS last_run_id
FROM (
    SELECT workflow_id, step_key, error, version, failed_at, run_id
    FROM recent_failures
    WHERE failed_at >= $1::date::timestamp AT TIME ZONE 'UTC'
        AND failed_at < ($2::date + 1)::timestamp AT TIME ZONE 'UTC'
    ORDER BY failed_at DESC
    LIMIT $3
) AS latest
GROUP BY workflow_id, step_key, message
ORDER BY runs DESC, last_seen DESC, workflow_id, step_key
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
SELECT mode, status, started_at, extract(epoch FROM ended_at - started_at)::double precision AS duration_s, requests,
    runs_inserted, runs_updated, runs_gone, rejects
FROM sync_history
ORDER BY id DESC
LIMIT 10
