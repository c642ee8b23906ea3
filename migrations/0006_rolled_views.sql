-- The daily views, step_performance and sync_health over the rollups: the same columns and answers as before.

-- DISTINCT: a day may be noted more than once.
CREATE VIEW etl_uncounted_runs AS
SELECT
    runs.id, noted.workflow_id, noted.day, runs.app_id, runs.stream_app_id, runs.origin, runs.status, runs.gone_at,
    runs.duration_s, runs.usage_total
FROM (SELECT DISTINCT workflow_id, day FROM etl_changed_days) AS noted
JOIN runs ON runs.workflow_id = noted.workflow_id AND (runs.created_at AT TIME ZONE 'UTC')::date = noted.day
UNION ALL
SELECT
    id, workflow_id, (created_at AT TIME ZONE 'UTC')::date, app_id, stream_app_id, origin, status, gone_at,
    duration_s, usage_total
FROM runs
WHERE created_at IS NULL OR workflow_id IS NULL;
COMMENT ON VIEW etl_uncounted_runs IS
    'Runs that no rollup holds: those of days that changed since they were counted, and those without created_at or workflow.';

-- How each rollup is counted: the daily views and cortex-etl itself read these. OFFSET 0 keeps steps a look-up beside
-- each run: before the first ANALYZE of a new warehouse, PostgreSQL would take all steps for few and pair each with all runs.

CREATE VIEW counted_health AS
SELECT
    day,
    workflow_id,
    app_id,
    count(*) AS runs,
    count(*) FILTER (WHERE status = 'COMPLETED') AS completed,
    count(*) FILTER (WHERE status = 'FAILED') AS failed,
    count(*) FILTER (WHERE status = 'CANCELLED') AS cancelled,
    count(*) FILTER (WHERE status = 'SKIPPED') AS skipped,
    count(*) FILTER (WHERE status IN ('PENDING', 'RUNNING')) AS open,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_s) AS p50_duration_s,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_s) AS p95_duration_s,
    sum(usage_total) AS credits
FROM etl_uncounted_runs
GROUP BY day, workflow_id, app_id;

CREATE VIEW counted_credits AS
SELECT
    day,
    workflow_id,
    app_id,
    stream_app_id,
    origin,
    count(*) AS runs,
    count(*) FILTER (WHERE gone_at IS NULL) AS listed,
    sum(usage_total) AS credits
FROM etl_uncounted_runs
GROUP BY day, workflow_id, app_id, stream_app_id, origin;

CREATE VIEW counted_steps AS
SELECT
    runs.day,
    runs.workflow_id,
    runs.app_id,
    steps.step_key,
    steps.type,
    count(*) AS runs,
    count(*) FILTER (WHERE steps.status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED')) AS ended,
    count(*) FILTER (WHERE steps.status = 'FAILED') AS failed,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY steps.duration_ms) AS p50_ms,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY steps.duration_ms) AS p95_ms,
    sum(steps.usage_total) AS credits,
    array_agg(steps.duration_ms ORDER BY steps.duration_ms) FILTER (WHERE steps.duration_ms IS NOT NULL) AS durations_ms
FROM etl_uncounted_runs AS runs
CROSS JOIN LATERAL (
    SELECT step_key, type, status, duration_ms, usage_total FROM run_steps WHERE run_id = runs.id OFFSET 0
) AS steps
GROUP BY runs.day, runs.workflow_id, runs.app_id, steps.step_key, steps.type;

-- A looped step names no model itself; its calls do, of which a loop over nothing has none.
CREATE VIEW counted_models AS
SELECT
    runs.day,
    runs.workflow_id,
    coalesce(steps.provider, by_model.provider) AS provider,
    coalesce(steps.model, by_model.model) AS model,
    sum(coalesce(by_model.calls, 1))::bigint AS calls,
    sum(coalesce(by_model.failed, CASE WHEN steps.status = 'FAILED' THEN 1 ELSE 0 END))::bigint AS failed,
    sum(steps.usage_total) FILTER (WHERE coalesce(by_model.models, 1) = 1) AS credits
FROM etl_uncounted_runs AS runs
CROSS JOIN LATERAL (
    SELECT run_id, step_key, provider, model, status, output, usage_total
    FROM run_steps
    WHERE run_id = runs.id AND type = 'model'
    OFFSET 0
) AS steps
LEFT JOIN LATERAL (
    SELECT
        calls.provider,
        calls.model,
        count(*) AS calls,
        count(*) FILTER (WHERE calls.status = 'FAILED') AS failed,
        count(*) OVER () AS models
    FROM run_step_calls AS calls
    WHERE calls.run_id = steps.run_id AND calls.step_key = steps.step_key
        AND (calls.type = 'model' OR calls.model IS NOT NULL)
        AND steps.provider IS NULL AND steps.model IS NULL
    GROUP BY calls.provider, calls.model
) AS by_model ON true
WHERE by_model.calls IS NOT NULL OR steps.provider IS NOT NULL OR steps.model IS NOT NULL
    OR coalesce(steps.output <> '[]', true)
GROUP BY
    runs.day, runs.workflow_id, coalesce(steps.provider, by_model.provider), coalesce(steps.model, by_model.model);

CREATE VIEW health_days AS
SELECT
    day, workflow_id, app_id, runs, completed, failed, cancelled, skipped, open, p50_duration_s, p95_duration_s,
    credits
FROM rollup_health AS kept
WHERE NOT EXISTS (
    SELECT FROM etl_changed_days AS changed WHERE changed.workflow_id = kept.workflow_id AND changed.day = kept.day
)
UNION ALL
SELECT
    day, workflow_id, app_id, runs, completed, failed, cancelled, skipped, open, p50_duration_s, p95_duration_s,
    credits
FROM counted_health;

CREATE VIEW credit_days AS
SELECT
    day, workflow_id, app_id, stream_app_id, origin, runs, listed, credits
FROM rollup_credits AS kept
WHERE NOT EXISTS (
    SELECT FROM etl_changed_days AS changed WHERE changed.workflow_id = kept.workflow_id AND changed.day = kept.day
)
UNION ALL
SELECT
    day, workflow_id, app_id, stream_app_id, origin, runs, listed, credits
FROM counted_credits;

CREATE VIEW step_days AS
SELECT
    day, workflow_id, app_id, step_key, type, runs, ended, failed, p50_ms, p95_ms, credits, durations_ms
FROM rollup_steps AS kept
WHERE NOT EXISTS (
    SELECT FROM etl_changed_days AS changed WHERE changed.workflow_id = kept.workflow_id AND changed.day = kept.day
)
UNION ALL
SELECT
    day, workflow_id, app_id, step_key, type, runs, ended, failed, p50_ms, p95_ms, credits, durations_ms
FROM counted_steps;

CREATE VIEW model_days AS
SELECT
    day, workflow_id, provider, model, calls, failed, credits
FROM rollup_models AS kept
WHERE NOT EXISTS (
    SELECT FROM etl_changed_days AS changed WHERE changed.workflow_id = kept.workflow_id AND changed.day = kept.day
)
UNION ALL
SELECT
    day, workflow_id, provider, model, calls, failed, credits
FROM counted_models;

DO $$
DECLARE
    rolled record;
    named  record;
BEGIN
    FOR rolled IN
        SELECT view_name, table_name, format(told, table_name) AS told
        FROM (
            VALUES
                ('health_days', 'rollup_health'), ('credit_days', 'rollup_credits'), ('step_days', 'rollup_steps'),
                ('model_days', 'rollup_models')
        ) AS all_days (view_name, table_name)
        CROSS JOIN (VALUES ('All days: those of %s that hold, the others counted from the runs.')) AS texts (told)
        UNION ALL
        SELECT 'counted_' || rollup, 'rollup_' || rollup, 'The days that rollup_' || rollup || ' does not hold, counted from the runs.'
        FROM unnest(ARRAY['health', 'credits', 'steps', 'models']) AS rollup
    LOOP
        EXECUTE format('COMMENT ON VIEW %I IS %L', rolled.view_name, rolled.told);
        FOR named IN
            SELECT attname AS column_name, col_description(attrelid, attnum) AS meaning
            FROM pg_attribute
            WHERE attrelid = rolled.table_name::regclass AND attnum > 0 AND NOT attisdropped
        LOOP
            EXECUTE format('COMMENT ON COLUMN %I.%I IS %L', rolled.view_name, named.column_name, named.meaning);
        END LOOP;
    END LOOP;
    FOR named IN
        SELECT viewed.attname AS column_name, col_description(own.attrelid, own.attnum) AS meaning
        FROM pg_attribute AS viewed
        JOIN pg_attribute AS own ON own.attrelid = 'runs'::regclass AND own.attname = viewed.attname
        WHERE viewed.attrelid = 'etl_uncounted_runs'::regclass
    LOOP
        EXECUTE format('COMMENT ON COLUMN etl_uncounted_runs.%I IS %L', named.column_name, named.meaning);
    END LOOP;
END
$$;
COMMENT ON COLUMN etl_uncounted_runs.day IS 'UTC day of the run''s created_at; null where it has none.';

CREATE OR REPLACE VIEW workflow_health_daily AS
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
    coalesce(daily.credits, 0) AS credits
FROM health_days AS daily
LEFT JOIN workflows ON workflows.id = daily.workflow_id;

CREATE OR REPLACE VIEW credits_daily AS
SELECT
    daily.day,
    daily.app_id,
    daily.workflow_id,
    workflows.name AS workflow_name,
    daily.origin,
    daily.runs,
    daily.credits
FROM (
    SELECT day, app_id, workflow_id, origin, sum(runs)::bigint AS runs, coalesce(sum(credits), 0) AS credits
    FROM credit_days
    GROUP BY day, app_id, workflow_id, origin
) AS daily
LEFT JOIN workflows ON workflows.id = daily.workflow_id;

CREATE VIEW step_performance_daily AS
SELECT
    daily.day,
    daily.app_id,
    daily.workflow_id,
    workflows.name AS workflow_name,
    daily.step_key,
    daily.type,
    daily.runs,
    daily.failed,
    daily.failed::double precision / nullif(daily.ended, 0) AS failure_rate,
    daily.p50_ms,
    daily.p95_ms,
    coalesce(daily.credits, 0) AS credits,
    daily.ended
FROM step_days AS daily
LEFT JOIN workflows ON workflows.id = daily.workflow_id;
COMMENT ON VIEW step_performance_daily IS
    'How each step of each workflow did each day: failures, durations, credits. For percentiles of several days unnest durations_ms of step_days.';
COMMENT ON COLUMN step_performance_daily.day IS 'UTC day of the runs'' created_at; null for runs without one.';
COMMENT ON COLUMN step_performance_daily.app_id IS 'App that the runs were triggered from.';
COMMENT ON COLUMN step_performance_daily.workflow_id IS 'Workflow of the step.';
COMMENT ON COLUMN step_performance_daily.workflow_name IS 'Its name; null while it is not known.';
COMMENT ON COLUMN step_performance_daily.step_key IS 'Key of the step.';
COMMENT ON COLUMN step_performance_daily.type IS 'Step type; null where the step is known only by its credits.';
COMMENT ON COLUMN step_performance_daily.runs IS 'Runs of that day in which the step took part.';
COMMENT ON COLUMN step_performance_daily.failed IS 'Those in which it is FAILED.';
COMMENT ON COLUMN step_performance_daily.failure_rate IS 'failed / ended, 0 to 1; null where it has ended in none.';
COMMENT ON COLUMN step_performance_daily.p50_ms IS 'Median of the step''s duration_ms, in milliseconds.';
COMMENT ON COLUMN step_performance_daily.p95_ms IS '95th percentile of the step''s duration_ms, in milliseconds.';
COMMENT ON COLUMN step_performance_daily.credits IS 'Credits that the step used, exact; 0 where the API told none.';
COMMENT ON COLUMN step_performance_daily.ended IS 'Runs in which it is COMPLETED, FAILED, CANCELLED or SKIPPED.';

-- Lists of lists, which are sorted number by number for each step, take a fraction of the time that sorting all
-- durations of all steps takes; and a question that leaves the percentiles out does not sort at all.
CREATE TYPE duration_list AS (durations_ms double precision[]);
COMMENT ON TYPE duration_list IS 'The durations of a step on one day; PostgreSQL gathers lists of any length in this form alone.';

CREATE OR REPLACE VIEW step_performance AS
SELECT
    steps.app_id,
    steps.workflow_id,
    steps.step_key,
    steps.type,
    steps.runs,
    steps.failed,
    steps.failed::double precision / nullif(steps.ended, 0) AS failure_rate,
    durations.spread[1] AS p50_ms,
    durations.spread[2] AS p95_ms,
    steps.credits,
    workflows.name AS workflow_name
FROM (
    SELECT
        app_id,
        workflow_id,
        step_key,
        type,
        sum(runs)::bigint AS runs,
        sum(ended)::bigint AS ended,
        sum(failed)::bigint AS failed,
        array_agg(ROW(durations_ms)::duration_list) AS lists,
        coalesce(sum(credits), 0) AS credits
    FROM step_days
    GROUP BY app_id, workflow_id, step_key, type
) AS steps
LEFT JOIN LATERAL (
    SELECT percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY duration_ms) AS spread
    FROM unnest(steps.lists) AS days (durations_ms)
    CROSS JOIN LATERAL unnest(days.durations_ms) AS duration_ms
) AS durations ON true
LEFT JOIN workflows ON workflows.id = steps.workflow_id;

CREATE OR REPLACE VIEW model_usage_daily AS
SELECT
    day,
    provider,
    model,
    sum(calls)::bigint AS calls,
    sum(failed)::bigint AS failed,
    coalesce(sum(credits), 0) AS credits
FROM model_days
GROUP BY day, provider, model;

CREATE OR REPLACE VIEW sync_health AS
SELECT
    streams.app_id,
    streams.workflow_id,
    streams.watermark,
    extract(epoch FROM now() - streams.watermark)::double precision AS lag_s,
    streams.last_synced_at,
    streams.last_reconciled_at,
    streams.backfill_done,
    streams.api_count,
    coalesce(stored.runs, 0) AS warehouse_count,
    quarantine.runs AS quarantined,
    streams.last_error,
    streams.last_error_at,
    workflows.name AS workflow_name,
    streams.last_succeeded_at,
    erased.runs AS forgotten,
    workflows.gone_at AS workflow_gone_at
FROM etl_streams AS streams
LEFT JOIN (
    SELECT workflow_id, stream_app_id, sum(listed)::bigint AS runs
    FROM credit_days
    GROUP BY workflow_id, stream_app_id
) AS stored ON stored.workflow_id = streams.workflow_id AND stored.stream_app_id = streams.app_id
CROSS JOIN LATERAL (
    SELECT count(DISTINCT coalesce(rejects.run_id, encode(rejects.digest, 'hex'))) AS runs
    FROM etl_rejects AS rejects
    WHERE rejects.app_id = streams.app_id AND rejects.workflow_id = streams.workflow_id
        AND rejects.resolved_at IS NULL
) AS quarantine
CROSS JOIN LATERAL (
    SELECT count(*) AS runs
    FROM etl_tombstones AS tombstones
    WHERE tombstones.app_id = streams.app_id AND tombstones.workflow_id = streams.workflow_id
        AND tombstones.kind = 'run' AND tombstones.gone_at IS NULL
) AS erased
LEFT JOIN workflows ON workflows.id = streams.workflow_id;
COMMENT ON COLUMN sync_health.workflow_gone_at IS
    'When the API was found to list the workflow no longer; null while it does, or where it is not discovered.';

DO $$
DECLARE
    kept record;
BEGIN
    FOR kept IN
        SELECT i.indexrelid::regclass AS index_name, i.indrelid::regclass AS table_name
        FROM pg_index AS i
        JOIN pg_class AS c ON c.oid = i.indrelid
        WHERE i.indisprimary AND c.relnamespace = quote_ident(current_schema())::regnamespace
    LOOP
        EXECUTE format('COMMENT ON INDEX %s IS %L', kept.index_name, format('A row of %s by its key.', kept.table_name));
    END LOOP;
END
$$;
