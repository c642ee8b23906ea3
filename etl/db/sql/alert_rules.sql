-- name: daily_spend
-- Today's credits (UTC) exceed 3 times the median of the days with runs in the four weeks before (at least 7 days).
WITH today AS (
    SELECT (now() AT TIME ZONE 'UTC')::date AS day
),
days AS (
    SELECT credits_daily.day, sum(credits_daily.credits) AS credits
    FROM credits_daily CROSS JOIN today
    WHERE credits_daily.day BETWEEN today.day - 28 AND today.day
    GROUP BY credits_daily.day
),
usual AS (
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY days.credits::double precision)::numeric AS median
    FROM days CROSS JOIN today
    WHERE days.day < today.day
    HAVING count(*) >= 7
)
SELECT days.day, round(days.credits, 2) AS credits, round(usual.median, 2) AS median_credits
FROM today JOIN days USING (day) CROSS JOIN usual
WHERE usual.median > 0 AND days.credits > 3 * usual.median

-- name: failure_rate
-- At least 10 runs of a workflow ended today and yesterday (UTC), at least 10 % of them failed, and this share is more
-- than twice the share of the four weeks before.
WITH periods AS (
    SELECT
        health.workflow_id,
        max(health.workflow_name) AS workflow_name,
        health.day >= today.day - 1 AS recent,
        sum(health.failed) AS failed,
        sum(health.completed + health.failed + health.cancelled + health.skipped) AS ended
    FROM workflow_health_daily AS health
    CROSS JOIN (SELECT (now() AT TIME ZONE 'UTC')::date AS day) AS today
    WHERE health.day BETWEEN today.day - 29 AND today.day
    GROUP BY health.workflow_id, recent
)
SELECT
    now.workflow_id,
    now.workflow_name,
    now.failed,
    now.ended,
    round(now.failed / now.ended, 3) AS failure_rate,
    round(before.failed / before.ended, 3) AS failure_rate_before
FROM periods AS now JOIN periods AS before USING (workflow_id)
WHERE now.recent AND NOT before.recent AND now.ended >= 10 AND before.ended >= 10
    AND now.failed >= 0.1 * now.ended
    AND now.failed / nullif(now.ended, 0) > 2 * before.failed / nullif(before.ended, 0)
ORDER BY failure_rate DESC, now.workflow_id

-- name: stuck_runs
-- Runs that have been open for more than ten minutes, and for longer than 99 % of the workflow's runs of the last four
-- weeks (at least 20) took from creation to end.
WITH usual AS (
    SELECT
        workflow_id,
        percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM ended_at - created_at)::double precision) AS p99_s
    FROM runs
    WHERE workflow_id IN (SELECT workflow_id FROM open_runs) AND created_at >= now() - interval '28 days'
        AND ended_at >= created_at
    GROUP BY workflow_id
    HAVING count(*) >= 20
)
SELECT
    open_runs.workflow_id,
    open_runs.workflow_name,
    open_runs.run_id,
    open_runs.status,
    open_runs.created_at,
    round(open_runs.age_s)::bigint AS age_s,
    round(usual.p99_s)::bigint AS p99_s
FROM open_runs JOIN usual USING (workflow_id)
WHERE open_runs.age_s > greatest(usual.p99_s, 600)
ORDER BY open_runs.age_s DESC, open_runs.run_id

-- name: unknown_values
-- Statuses, origins, step types, and fields without a column, that occur in runs of the last two days and in no earlier
-- run. The subqueries with LIMIT 1 end at the first row; only a new value requires a scan of the whole table.
WITH recent AS (
    SELECT id, status, origin, extra FROM runs WHERE created_at >= now() - interval '2 days'
),
recent_steps AS (
    SELECT run_id, status, type, extra FROM run_steps WHERE run_id IN (SELECT id FROM recent)
),
seen AS (
    SELECT 'runs.status' AS field, status AS value, count(*) AS runs FROM recent GROUP BY status
    UNION ALL
    SELECT 'runs.origin', origin, count(*) FROM recent GROUP BY origin
    UNION ALL
    SELECT 'runs.extra', key, count(*) FROM recent CROSS JOIN LATERAL jsonb_object_keys(extra) AS key GROUP BY key
    UNION ALL
    SELECT 'run_steps.status', status, count(DISTINCT run_id) FROM recent_steps GROUP BY status
    UNION ALL
    SELECT 'run_steps.type', type, count(DISTINCT run_id) FROM recent_steps GROUP BY type
    UNION ALL
    SELECT 'run_steps.extra', key, count(DISTINCT run_id)
    FROM recent_steps CROSS JOIN LATERAL jsonb_object_keys(extra) AS key
    GROUP BY key
)
SELECT field, value, runs
FROM seen
WHERE value IS NOT NULL
    AND EXISTS (SELECT FROM runs WHERE created_at < now() - interval '2 days')
    AND CASE split_part(field, '.', 1)
        WHEN 'runs' THEN (
            SELECT true FROM runs
            WHERE created_at < now() - interval '2 days'
                AND CASE field WHEN 'runs.status' THEN status = value WHEN 'runs.origin' THEN origin = value ELSE extra ? value END
            LIMIT 1
        )
        ELSE (
            SELECT true FROM run_steps AS steps JOIN runs ON runs.id = steps.run_id
            WHERE runs.created_at < now() - interval '2 days'
                AND CASE field
                    WHEN 'run_steps.status' THEN steps.status = value
                    WHEN 'run_steps.type' THEN steps.type = value
                    ELSE steps.extra ? value
                END
            LIMIT 1
        )
    END IS NULL
ORDER BY field, value
