-- Rollups: what the daily views need of each day of each workflow, counted once instead of in every query.
--
-- Each change to runs records the affected days in etl_changed_days, in the same transaction. The views count those days
-- from the runs and read all other days from the rollups, so they are always exact. At its end each sync rolls the
-- changed days up again; large days wait until enough of them has changed. Runs without a created_at or a workflow are
-- always counted from the runs.

CREATE TABLE etl_changed_days (
    id          bigint GENERATED ALWAYS AS IDENTITY,
    workflow_id text NOT NULL,
    day         date NOT NULL,
    runs        bigint NOT NULL DEFAULT 0,
    noted_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT etl_changed_days_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE etl_changed_days IS
    'Days of workflows whose rollups are out of date because runs have changed. A day may have several rows.';
COMMENT ON COLUMN etl_changed_days.id IS 'Number of the row, ascending.';
COMMENT ON COLUMN etl_changed_days.workflow_id IS 'Workflow of the runs (workflows.id).';
COMMENT ON COLUMN etl_changed_days.day IS 'UTC day of their created_at.';
COMMENT ON COLUMN etl_changed_days.runs IS 'Number of runs of that day that were written.';
COMMENT ON COLUMN etl_changed_days.noted_at IS 'When they were written.';

CREATE INDEX etl_changed_days_idx ON etl_changed_days (day, workflow_id);
COMMENT ON INDEX etl_changed_days_idx IS 'Tells whether the rollup of a day is up to date: every daily view.';

CREATE TABLE rollup_health (
    workflow_id    text   NOT NULL,
    day            date   NOT NULL,
    app_id         text,
    runs           bigint NOT NULL,
    completed      bigint NOT NULL,
    failed         bigint NOT NULL,
    cancelled      bigint NOT NULL,
    skipped        bigint NOT NULL,
    open           bigint NOT NULL,
    p50_duration_s double precision,
    p95_duration_s double precision,
    credits        numeric
);
COMMENT ON TABLE rollup_health IS 'Rollup behind workflow_health_daily; query that view instead.';

CREATE TABLE rollup_credits (
    workflow_id   text   NOT NULL,
    day           date   NOT NULL,
    app_id        text,
    stream_app_id text,
    origin        text,
    runs          bigint NOT NULL,
    listed        bigint NOT NULL,
    credits       numeric
);
COMMENT ON TABLE rollup_credits IS 'Rollup behind credits_daily and sync_health; query those views instead.';

CREATE TABLE rollup_steps (
    workflow_id text   NOT NULL,
    day         date   NOT NULL,
    app_id      text,
    step_key    text   NOT NULL,
    type        text,
    runs        bigint NOT NULL,
    ended       bigint NOT NULL,
    failed      bigint NOT NULL,
    p50_s       double precision,
    p95_s       double precision,
    credits     numeric,
    durations_s double precision[]
);
COMMENT ON TABLE rollup_steps IS 'Rollup behind step_performance and step_performance_daily; query those views instead.';

CREATE TABLE rollup_models (
    workflow_id text   NOT NULL,
    day         date   NOT NULL,
    provider    text,
    model       text,
    calls       bigint NOT NULL,
    failed      bigint NOT NULL,
    credits     numeric
);
COMMENT ON TABLE rollup_models IS 'Rollup behind model_usage_daily; query that view instead.';

CREATE INDEX rollup_health_idx ON rollup_health (day, workflow_id);
CREATE INDEX rollup_credits_idx ON rollup_credits (day, workflow_id);
CREATE INDEX rollup_steps_idx ON rollup_steps (day, workflow_id);
CREATE INDEX rollup_models_idx ON rollup_models (day, workflow_id);

CREATE FUNCTION note_changed_days() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    emptied text;
BEGIN
    -- The schema is that of the table, whatever its name has become and whatever search_path the session has.
    IF TG_OP = 'TRUNCATE' THEN
        FOREACH emptied IN ARRAY ARRAY[
            'etl_changed_days', 'rollup_health', 'rollup_credits', 'rollup_steps', 'rollup_models'
        ] LOOP
            -- Not TRUNCATE: the statement may name these tables too, and they are in use until it ends.
            EXECUTE format('DELETE FROM %I.%I', TG_TABLE_SCHEMA, emptied);
        END LOOP;
        RETURN NULL;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        EXECUTE format(
            'INSERT INTO %I.etl_changed_days (workflow_id, day, runs) '
            'SELECT workflow_id, (created_at AT TIME ZONE ''UTC'')::date, count(*) FROM written '
            'WHERE workflow_id IS NOT NULL AND created_at IS NOT NULL GROUP BY 1, 2',
            TG_TABLE_SCHEMA
        );
    END IF;
    IF TG_OP <> 'INSERT' THEN
        EXECUTE format(
            'INSERT INTO %I.etl_changed_days (workflow_id, day, runs) '
            'SELECT workflow_id, (created_at AT TIME ZONE ''UTC'')::date, count(*) FROM replaced '
            'WHERE workflow_id IS NOT NULL AND created_at IS NOT NULL GROUP BY 1, 2',
            TG_TABLE_SCHEMA
        );
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION note_changed_days IS 'Records the days of runs that were written, so that the daily views count them again.';

-- The children of a run are only ever written together with the run, so triggers on runs are enough. ALWAYS: they fire
-- also while a load skips foreign key checks (session_replication_role = replica).
CREATE TRIGGER runs_inserted AFTER INSERT ON runs
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION note_changed_days();
CREATE TRIGGER runs_updated AFTER UPDATE ON runs
    REFERENCING OLD TABLE AS replaced NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION note_changed_days();
CREATE TRIGGER runs_deleted AFTER DELETE ON runs
    REFERENCING OLD TABLE AS replaced FOR EACH STATEMENT EXECUTE FUNCTION note_changed_days();
CREATE TRIGGER runs_truncated AFTER TRUNCATE ON runs FOR EACH STATEMENT EXECUTE FUNCTION note_changed_days();
ALTER TABLE runs
    ENABLE ALWAYS TRIGGER runs_inserted, ENABLE ALWAYS TRIGGER runs_updated, ENABLE ALWAYS TRIGGER runs_deleted,
    ENABLE ALWAYS TRIGGER runs_truncated;

-- DISTINCT: a changed day may have several rows. Runs without created_at or workflow are branches of their own with a
-- constant null, which lets the planner skip them when a query asks for days of a workflow.
CREATE VIEW etl_uncounted_runs AS
SELECT
    runs.id, changed.workflow_id, changed.day, runs.app_id, runs.stream_app_id, runs.origin, runs.status, runs.gone_at,
    runs.duration_s, runs.credits
FROM (SELECT DISTINCT workflow_id, day FROM etl_changed_days) AS changed
JOIN runs ON runs.workflow_id = changed.workflow_id AND (runs.created_at AT TIME ZONE 'UTC')::date = changed.day
UNION ALL
SELECT id, workflow_id, NULL::date, app_id, stream_app_id, origin, status, gone_at, duration_s, credits
FROM runs
WHERE created_at IS NULL
UNION ALL
SELECT
    id, NULL::text, (created_at AT TIME ZONE 'UTC')::date, app_id, stream_app_id, origin, status, gone_at, duration_s,
    credits
FROM runs
WHERE workflow_id IS NULL AND created_at IS NOT NULL;
COMMENT ON VIEW etl_uncounted_runs IS
    'Runs that no rollup covers: those of days that changed since the last rollup, and those without created_at or workflow.';

-- How each rollup is counted. OFFSET 0 makes the steps a lookup per run: before the first ANALYZE of a new warehouse
-- the planner would underestimate the number of steps and join each of them with all runs.

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
    sum(credits) AS credits
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
    sum(credits) AS credits
FROM etl_uncounted_runs
GROUP BY day, workflow_id, app_id, stream_app_id, origin;

-- Grouped before sorting: only the durations of each step are sorted, not all steps by five text columns.
CREATE VIEW counted_steps AS
SELECT
    grouped.day,
    grouped.workflow_id,
    grouped.app_id,
    grouped.step_key,
    grouped.type,
    grouped.runs,
    grouped.ended,
    grouped.failed,
    spread.percentiles[1] AS p50_s,
    spread.percentiles[2] AS p95_s,
    grouped.credits,
    spread.durations_s
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
        sum(steps.credits) AS credits,
        array_agg(steps.duration_s) FILTER (WHERE steps.duration_s IS NOT NULL) AS durations_s
    FROM etl_uncounted_runs AS runs
    CROSS JOIN LATERAL (
        SELECT step_key, type, status, duration_s, credits FROM run_steps WHERE run_id = runs.id OFFSET 0
    ) AS steps
    GROUP BY runs.day, runs.workflow_id, runs.app_id, steps.step_key, steps.type
) AS grouped
CROSS JOIN LATERAL (
    SELECT
        percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY duration_s) AS percentiles,
        array_agg(duration_s ORDER BY duration_s) AS durations_s
    FROM unnest(grouped.durations_s) AS each (duration_s)
) AS spread;

-- A looped step has no provider and model itself, only its calls have; a loop over nothing has no calls.
CREATE VIEW counted_models AS
SELECT
    runs.day,
    runs.workflow_id,
    coalesce(steps.provider, by_model.provider) AS provider,
    coalesce(steps.model, by_model.model) AS model,
    sum(coalesce(by_model.calls, 1))::bigint AS calls,
    sum(coalesce(by_model.failed, CASE WHEN steps.status = 'FAILED' THEN 1 ELSE 0 END))::bigint AS failed,
    sum(steps.credits) FILTER (WHERE coalesce(by_model.models, 1) = 1) AS credits
FROM etl_uncounted_runs AS runs
CROSS JOIN LATERAL (
    SELECT run_id, step_key, provider, model, status, output, credits
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
        AND (
            calls.type = 'model' OR calls.model IS NOT NULL
            -- An untyped call of a loop has the step's type. In a loop a call has the key of its step; the output is
            -- null where payloads are not stored.
            OR calls.type IS NULL AND (calls.key = calls.step_key OR jsonb_typeof(steps.output) = 'array')
        )
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
FROM rollup_health AS rolled
WHERE NOT EXISTS (
    SELECT FROM etl_changed_days AS changed WHERE changed.workflow_id = rolled.workflow_id AND changed.day = rolled.day
)
UNION ALL
SELECT
    day, workflow_id, app_id, runs, completed, failed, cancelled, skipped, open, p50_duration_s, p95_duration_s,
    credits
FROM counted_health;

CREATE VIEW credit_days AS
SELECT
    day, workflow_id, app_id, stream_app_id, origin, runs, listed, credits
FROM rollup_credits AS rolled
WHERE NOT EXISTS (
    SELECT FROM etl_changed_days AS changed WHERE changed.workflow_id = rolled.workflow_id AND changed.day = rolled.day
)
UNION ALL
SELECT
    day, workflow_id, app_id, stream_app_id, origin, runs, listed, credits
FROM counted_credits;

CREATE VIEW step_days AS
SELECT
    day, workflow_id, app_id, step_key, type, runs, ended, failed, p50_s, p95_s, credits, durations_s
FROM rollup_steps AS rolled
WHERE NOT EXISTS (
    SELECT FROM etl_changed_days AS changed WHERE changed.workflow_id = rolled.workflow_id AND changed.day = rolled.day
)
UNION ALL
SELECT
    day, workflow_id, app_id, step_key, type, runs, ended, failed, p50_s, p95_s, credits, durations_s
FROM counted_steps;

CREATE VIEW model_days AS
SELECT
    day, workflow_id, provider, model, calls, failed, credits
FROM rollup_models AS rolled
WHERE NOT EXISTS (
    SELECT FROM etl_changed_days AS changed WHERE changed.workflow_id = rolled.workflow_id AND changed.day = rolled.day
)
UNION ALL
SELECT
    day, workflow_id, provider, model, calls, failed, credits
FROM counted_models;

-- PostgreSQL can only aggregate arrays of different lengths when they are wrapped in a row. Sorting them number by
-- number for each step takes a fraction of the time of sorting all durations of all steps.
CREATE TYPE duration_list AS (durations_s double precision[]);
COMMENT ON TYPE duration_list IS 'The durations of a step on one day, in seconds, wrapped so that array_agg takes lists of any length.';

-- The tables, the views that count them and the views over all days have the same columns with the same meaning.
DO $$
DECLARE
    relation record;
    described record;
BEGIN
    FOR relation IN
        SELECT kind, days, described_views.name, described_views.meaning
        FROM (
            VALUES
                ('health', 'health_days'), ('credits', 'credit_days'), ('steps', 'step_days'), ('models', 'model_days')
        ) AS kinds (kind, days)
        CROSS JOIN LATERAL (
            VALUES
                ('rollup_' || kind, NULL),
                ('counted_' || kind, format('Days that rollup_%s does not cover, counted from the runs.', kind)),
                (days, format('All days: from rollup_%s where it is up to date, otherwise counted from the runs.', kind))
        ) AS described_views (name, meaning)
    LOOP
        IF relation.meaning IS NULL THEN
            EXECUTE format(
                'COMMENT ON INDEX rollup_%s_idx IS %L', relation.kind,
                'Recent days of all workflows (WHERE day >= current_date - 30), and days to be rolled up again.'
            );
        ELSE
            EXECUTE format('COMMENT ON VIEW %I IS %L', relation.name, relation.meaning);
        END IF;
        FOR described IN
            SELECT a.attname AS column_name, meanings.meaning
            FROM pg_attribute AS a
            JOIN (
                VALUES
                    ('workflow_id', 'Workflow that ran.'),
                    ('day', 'UTC day of the runs'' created_at.'),
                    ('app_id', 'App that the runs were triggered from.'),
                    ('stream_app_id', 'App in whose listing the runs were found.'),
                    ('origin', 'What started the runs.'),
                    ('step_key', 'Key of the step.'),
                    ('type', 'Step type.'),
                    ('provider', 'Provider of the model.'),
                    ('model', 'Model.'),
                    ('runs', 'Number of runs.'),
                    ('listed', 'Number of runs that the API still lists.'),
                    ('calls', 'Number of calls.'),
                    ('completed', 'Number that are COMPLETED.'),
                    ('failed', 'Number that are FAILED.'),
                    ('cancelled', 'Number that are CANCELLED.'),
                    ('skipped', 'Number that are SKIPPED.'),
                    ('open', 'Number that are PENDING or RUNNING.'),
                    ('ended', 'Number that are COMPLETED, FAILED, CANCELLED or SKIPPED.'),
                    ('p50_duration_s', 'Median of duration_s, in seconds.'),
                    ('p95_duration_s', '95th percentile of duration_s, in seconds.'),
                    ('p50_s', 'Median of duration_s, in seconds.'),
                    ('p95_s', '95th percentile of duration_s, in seconds.'),
                    ('durations_s', 'Every duration_s in seconds, ascending, for percentiles over several days.'),
                    ('credits', 'Credits, exact; null where the API gave none.')
            ) AS meanings (name, meaning) ON meanings.name = a.attname
            WHERE a.attrelid = relation.name::regclass
        LOOP
            EXECUTE format('COMMENT ON COLUMN %I.%I IS %L', relation.name, described.column_name, described.meaning);
        END LOOP;
    END LOOP;
    FOR described IN
        SELECT viewed.attname AS column_name, col_description(own.attrelid, own.attnum) AS meaning
        FROM pg_attribute AS viewed
        JOIN pg_attribute AS own ON own.attrelid = 'runs'::regclass AND own.attname = viewed.attname
        WHERE viewed.attrelid = 'etl_uncounted_runs'::regclass
    LOOP
        EXECUTE format('COMMENT ON COLUMN etl_uncounted_runs.%I IS %L', described.column_name, described.meaning);
    END LOOP;
END
$$;
COMMENT ON COLUMN etl_uncounted_runs.day IS 'UTC day of the run''s created_at; null without one.';
