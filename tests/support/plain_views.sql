-- The views over rollups, written plainly over the tables: what they must answer at every moment.

CREATE VIEW plain_workflow_health_daily AS
SELECT
    daily.day,
    daily.app_id,
    daily.workflow_id,
    workflows.name AS workflow_name,
    daily.runs,
    daily.completed,
    daily.failed,
    daily.cancelled,
    daily.skipped,
    daily.open,
    daily.failed::double precision
        / nullif(daily.completed + daily.failed + daily.cancelled + daily.skipped, 0) AS failure_rate,
    daily.p50_duration_s,
    daily.p95_duration_s,
    daily.credits
FROM (
    SELECT
        (created_at AT TIME ZONE 'UTC')::date AS day,
        app_id,
        workflow_id,
        count(*) AS runs,
        count(*) FILTER (WHERE status = 'COMPLETED') AS completed,
        count(*) FILTER (WHERE status = 'FAILED') AS failed,
        count(*) FILTER (WHERE status = 'CANCELLED') AS cancelled,
        count(*) FILTER (WHERE status = 'SKIPPED') AS skipped,
        count(*) FILTER (WHERE status IN ('PENDING', 'RUNNING')) AS open,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_s) AS p50_duration_s,
        percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_s) AS p95_duration_s,
        coalesce(sum(credits), 0) AS credits
    FROM runs
    GROUP BY day, app_id, workflow_id
) AS daily
LEFT JOIN workflows ON workflows.id = daily.workflow_id;

CREATE VIEW plain_credits_daily AS
SELECT
    daily.day,
    daily.app_id,
    daily.workflow_id,
    workflows.name AS workflow_name,
    daily.origin,
    daily.runs,
    daily.credits
FROM (
    SELECT
        (created_at AT TIME ZONE 'UTC')::date AS day,
        app_id,
        workflow_id,
        origin,
        count(*) AS runs,
        coalesce(sum(credits), 0) AS credits
    FROM runs
    GROUP BY day, app_id, workflow_id, origin
) AS daily
LEFT JOIN workflows ON workflows.id = daily.workflow_id;

CREATE VIEW plain_step_performance AS
SELECT
    steps.app_id,
    steps.workflow_id,
    steps.step_key,
    steps.type,
    steps.runs,
    steps.failed,
    steps.failed::double precision / nullif(steps.ended, 0) AS failure_rate,
    steps.p50_s,
    steps.p95_s,
    steps.credits,
    workflows.name AS workflow_name
FROM (
    SELECT
        runs.app_id,
        runs.workflow_id,
        run_steps.step_key,
        run_steps.type,
        count(*) AS runs,
        count(*) FILTER (WHERE run_steps.status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED')) AS ended,
        count(*) FILTER (WHERE run_steps.status = 'FAILED') AS failed,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY run_steps.duration_s) AS p50_s,
        percentile_cont(0.95) WITHIN GROUP (ORDER BY run_steps.duration_s) AS p95_s,
        coalesce(sum(run_steps.credits), 0) AS credits
    FROM run_steps
    JOIN runs ON runs.id = run_steps.run_id
    GROUP BY runs.app_id, runs.workflow_id, run_steps.step_key, run_steps.type
) AS steps
LEFT JOIN workflows ON workflows.id = steps.workflow_id;

CREATE VIEW plain_model_usage_daily AS
WITH model_steps AS NOT MATERIALIZED (
    SELECT
        (runs.created_at AT TIME ZONE 'UTC')::date AS day,
        steps.run_id,
        steps.step_key,
        steps.provider,
        steps.model,
        steps.status,
        steps.credits,
        -- A looped step names no model itself; its calls do, of which a loop over nothing has none.
        steps.provider IS NULL AND steps.model IS NULL AND (
            EXISTS (
                SELECT FROM run_step_calls AS calls
                WHERE calls.run_id = steps.run_id AND calls.step_key = steps.step_key
                    AND (calls.type = 'model' OR calls.model IS NOT NULL OR calls.type IS NULL AND (calls.key = calls.step_key OR EXISTS (
                        SELECT FROM run_steps AS looped
                        WHERE looped.run_id = calls.run_id AND looped.step_key = calls.step_key
                            AND jsonb_typeof(looped.output) = 'array'
                    )))
            )
            OR coalesce(steps.output = '[]', false)
        ) AS looped
    FROM run_steps AS steps
    JOIN runs ON runs.id = steps.run_id
    WHERE steps.type = 'model'
)
SELECT
    day,
    provider,
    model,
    sum(calls)::bigint AS calls,
    sum(failed)::bigint AS failed,
    coalesce(sum(credits), 0) AS credits
FROM (
    SELECT
        day,
        provider,
        model,
        1 AS calls,
        CASE WHEN status = 'FAILED' THEN 1 ELSE 0 END AS failed,
        credits AS credits
    FROM model_steps
    WHERE NOT looped
    UNION ALL
    SELECT
        model_steps.day,
        by_model.provider,
        by_model.model,
        by_model.calls,
        by_model.failed,
        CASE WHEN by_model.models = 1 THEN model_steps.credits END
    FROM model_steps
    CROSS JOIN LATERAL (
        SELECT
            calls.provider,
            calls.model,
            count(*) AS calls,
            count(*) FILTER (WHERE calls.status = 'FAILED') AS failed,
            count(*) OVER () AS models
        FROM run_step_calls AS calls
        WHERE calls.run_id = model_steps.run_id AND calls.step_key = model_steps.step_key
            AND (calls.type = 'model' OR calls.model IS NOT NULL OR calls.type IS NULL AND (calls.key = calls.step_key OR EXISTS (
                        SELECT FROM run_steps AS looped
                        WHERE looped.run_id = calls.run_id AND looped.step_key = calls.step_key
                            AND jsonb_typeof(looped.output) = 'array'
                    )))
        GROUP BY calls.provider, calls.model
    ) AS by_model
    WHERE model_steps.looped
) AS used
GROUP BY day, provider, model;

CREATE VIEW plain_sync_health AS
SELECT
    streams.app_id,
    streams.workflow_id,
    streams.watermark,
    extract(epoch FROM now() - streams.watermark)::double precision AS lag_s,
    streams.last_synced_at,
    streams.last_reconciled_at,
    streams.backfill_done,
    streams.api_count,
    stored.runs AS warehouse_count,
    quarantine.runs AS quarantined,
    streams.last_error,
    streams.last_error_at,
    workflows.name AS workflow_name,
    streams.last_succeeded_at
FROM etl_streams AS streams
CROSS JOIN LATERAL (
    SELECT count(*) AS runs
    FROM runs
    WHERE runs.workflow_id = streams.workflow_id AND runs.stream_app_id = streams.app_id AND runs.gone_at IS NULL
) AS stored
CROSS JOIN LATERAL (
    SELECT count(DISTINCT coalesce(rejects.run_id, encode(rejects.digest, 'hex'))) AS runs
    FROM etl_rejects AS rejects
    WHERE rejects.app_id = streams.app_id AND rejects.workflow_id = streams.workflow_id
        AND rejects.resolved_at IS NULL
) AS quarantine
LEFT JOIN workflows ON workflows.id = streams.workflow_id;
