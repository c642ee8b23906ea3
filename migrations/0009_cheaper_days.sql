-- Days are counted in two thirds of the time: the same rows and answers as before.

-- Runs without created_at or workflow are branches of their own, with a null that PostgreSQL sees when it plans: a
-- question about days of a workflow does not read those days a second time to look for them.
CREATE OR REPLACE VIEW etl_uncounted_runs AS
SELECT
    runs.id, noted.workflow_id, noted.day, runs.app_id, runs.stream_app_id, runs.origin, runs.status, runs.gone_at,
    runs.duration_s, runs.usage_total
FROM (SELECT DISTINCT workflow_id, day FROM etl_changed_days) AS noted
JOIN runs ON runs.workflow_id = noted.workflow_id AND (runs.created_at AT TIME ZONE 'UTC')::date = noted.day
UNION ALL
SELECT id, workflow_id, NULL::date, app_id, stream_app_id, origin, status, gone_at, duration_s, usage_total
FROM runs
WHERE created_at IS NULL
UNION ALL
SELECT
    id, NULL::text, (created_at AT TIME ZONE 'UTC')::date, app_id, stream_app_id, origin, status, gone_at, duration_s,
    usage_total
FROM runs
WHERE workflow_id IS NULL AND created_at IS NOT NULL;

-- Grouped before they are sorted: what is sorted is the durations of each step, not all steps by five texts.
CREATE OR REPLACE VIEW counted_steps AS
SELECT
    grouped.day,
    grouped.workflow_id,
    grouped.app_id,
    grouped.step_key,
    grouped.type,
    grouped.runs,
    grouped.ended,
    grouped.failed,
    spread.percentiles[1] AS p50_ms,
    spread.percentiles[2] AS p95_ms,
    grouped.credits,
    spread.durations_ms
FROM (
    SELECT
        runs.day,
        runs.workflow_id,
        runs.app_id,
        steps.step_key,
        steps.type,
        count(*) AS runs,
        count(*) FILTER (WHERE steps.status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED')) AS ended,
        count(*) FILTER (WHERE steps.status = 'FAILED') AS failed,
        sum(steps.usage_total) AS credits,
        array_agg(steps.duration_ms) FILTER (WHERE steps.duration_ms IS NOT NULL) AS durations_ms
    FROM etl_uncounted_runs AS runs
    CROSS JOIN LATERAL (
        SELECT step_key, type, status, duration_ms, usage_total FROM run_steps WHERE run_id = runs.id OFFSET 0
    ) AS steps
    GROUP BY runs.day, runs.workflow_id, runs.app_id, steps.step_key, steps.type
) AS grouped
CROSS JOIN LATERAL (
    SELECT
        percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY duration_ms) AS percentiles,
        array_agg(duration_ms ORDER BY duration_ms) AS durations_ms
    FROM unnest(grouped.durations_ms) AS each (duration_ms)
) AS spread;
