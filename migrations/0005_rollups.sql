-- What the daily views need of each day of each workflow, counted once instead of with every question.
--
-- A change to runs notes the days that it touches (etl_changed_days) in its own transaction; the views count those days
-- from the runs themselves and take the others from the rollups, so that they are exact at every moment. The end of
-- each sync counts noted days anew, large ones where enough of them has changed. Runs without a created_at or a workflow are always counted from the runs.

CREATE TABLE etl_changed_days (
    id          bigint GENERATED ALWAYS AS IDENTITY,
    workflow_id text NOT NULL,
    day         date NOT NULL,
    runs        bigint NOT NULL DEFAULT 0,
    noted_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT etl_changed_days_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE etl_changed_days IS
    'Days of workflows whose rollups do not hold: runs of theirs changed since. A day may stand here more than once.';
COMMENT ON COLUMN etl_changed_days.id IS 'Number of the note, rising.';
COMMENT ON COLUMN etl_changed_days.workflow_id IS 'Workflow of the runs (workflows.id).';
COMMENT ON COLUMN etl_changed_days.day IS 'UTC day of their created_at.';
COMMENT ON COLUMN etl_changed_days.runs IS 'How many of the runs of that day were written.';
COMMENT ON COLUMN etl_changed_days.noted_at IS 'When they were.';

CREATE INDEX etl_changed_days_idx ON etl_changed_days (day, workflow_id);
COMMENT ON INDEX etl_changed_days_idx IS 'Whether a day''s rollup holds: every daily view.';

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
COMMENT ON TABLE rollup_health IS 'Kept for workflow_health_daily, where its columns are explained; ask that.';

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
COMMENT ON TABLE rollup_credits IS 'Kept for credits_daily and sync_health, where its columns are explained; ask those.';

CREATE TABLE rollup_steps (
    workflow_id  text   NOT NULL,
    day          date   NOT NULL,
    app_id       text,
    step_key     text   NOT NULL,
    type         text,
    runs         bigint NOT NULL,
    ended        bigint NOT NULL,
    failed       bigint NOT NULL,
    p50_ms       double precision,
    p95_ms       double precision,
    credits      numeric,
    durations_ms double precision[]
);
COMMENT ON TABLE rollup_steps IS
    'Kept for step_performance and step_performance_daily, where its columns are explained; ask those.';

CREATE TABLE rollup_models (
    workflow_id text   NOT NULL,
    day         date   NOT NULL,
    provider    text,
    model       text,
    calls       bigint NOT NULL,
    failed      bigint NOT NULL,
    credits     numeric
);
COMMENT ON TABLE rollup_models IS 'Kept for model_usage_daily, where its columns are explained; ask that.';

DO $$
DECLARE
    rollup text;
    kept   record;
BEGIN
    FOREACH rollup IN ARRAY ARRAY['health', 'credits', 'steps', 'models'] LOOP
        EXECUTE format('CREATE INDEX rollup_%1$s_idx ON rollup_%1$s (day, workflow_id)', rollup);
        EXECUTE format(
            'COMMENT ON INDEX rollup_%s_idx IS %L', rollup,
            'The last days of all workflows (WHERE day >= current_date - 30), and a day to be counted anew.'
        );
    END LOOP;
    FOR kept IN
        SELECT a.attrelid::regclass AS table_name, a.attname AS column_name, told.meaning
        FROM pg_attribute AS a
        JOIN (
            VALUES
                ('workflow_id', 'Workflow that ran.'),
                ('day', 'UTC day of the runs'' created_at.'),
                ('app_id', 'App that the runs were triggered from.'),
                ('stream_app_id', 'App in whose listing they were found.'),
                ('origin', 'What started them.'),
                ('step_key', 'Key of the step.'),
                ('type', 'Step type.'),
                ('provider', 'Provider of the model.'),
                ('model', 'Model.'),
                ('runs', 'Number of runs.'),
                ('listed', 'Those that the API still lists.'),
                ('calls', 'Number of calls.'),
                ('completed', 'Those that are COMPLETED.'),
                ('failed', 'Those that are FAILED.'),
                ('cancelled', 'Those that are CANCELLED.'),
                ('skipped', 'Those that are SKIPPED.'),
                ('open', 'Those that are PENDING or RUNNING.'),
                ('ended', 'Those that are COMPLETED, FAILED, CANCELLED or SKIPPED.'),
                ('p50_duration_s', 'Median of duration_s, in seconds.'),
                ('p95_duration_s', '95th percentile of duration_s, in seconds.'),
                ('p50_ms', 'Median of duration_ms, in milliseconds.'),
                ('p95_ms', '95th percentile of duration_ms, in milliseconds.'),
                ('durations_ms', 'Every duration_ms, in rising order, for percentiles of several days.'),
                ('credits', 'Credits used, exact; null where the API told none.')
        ) AS told (name, meaning) ON told.name = a.attname
        WHERE a.attrelid IN (
            'rollup_health'::regclass, 'rollup_credits'::regclass, 'rollup_steps'::regclass, 'rollup_models'::regclass
        )
    LOOP
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', kept.table_name, kept.column_name, kept.meaning);
    END LOOP;
END
$$;

CREATE FUNCTION note_changed_days() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        -- Not TRUNCATE: the statement may name these tables as well, and they are in use until it ends.
        DELETE FROM etl_changed_days;
        DELETE FROM rollup_health;
        DELETE FROM rollup_credits;
        DELETE FROM rollup_steps;
        DELETE FROM rollup_models;
        RETURN NULL;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO etl_changed_days (workflow_id, day, runs)
        SELECT workflow_id, (created_at AT TIME ZONE 'UTC')::date, count(*)
        FROM written
        WHERE workflow_id IS NOT NULL AND created_at IS NOT NULL
        GROUP BY 1, 2;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO etl_changed_days (workflow_id, day, runs)
        SELECT workflow_id, (created_at AT TIME ZONE 'UTC')::date, count(*)
        FROM replaced
        WHERE workflow_id IS NOT NULL AND created_at IS NOT NULL
        GROUP BY 1, 2;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION note_changed_days IS 'Notes the days whose runs were written, so that the daily views count them anew.';

-- What belongs to a run is only ever written together with the run itself, so runs alone are watched.
CREATE TRIGGER runs_inserted AFTER INSERT ON runs
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION note_changed_days();
CREATE TRIGGER runs_updated AFTER UPDATE ON runs
    REFERENCING OLD TABLE AS replaced NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION note_changed_days();
CREATE TRIGGER runs_deleted AFTER DELETE ON runs
    REFERENCING OLD TABLE AS replaced FOR EACH STATEMENT EXECUTE FUNCTION note_changed_days();
CREATE TRIGGER runs_truncated AFTER TRUNCATE ON runs FOR EACH STATEMENT EXECUTE FUNCTION note_changed_days();

INSERT INTO etl_changed_days (workflow_id, day, runs)
SELECT workflow_id, (created_at AT TIME ZONE 'UTC')::date, count(*)
FROM runs
WHERE workflow_id IS NOT NULL AND created_at IS NOT NULL
GROUP BY 1, 2;

-- ANALYZE sees a sample too small to tell how many runs the rows of these tables belong to: with a million runs it is
-- off by 4, so that a week's look-ups seemed dearer than reading the whole table. Fractions of the number of rows.
ALTER TABLE run_steps ALTER COLUMN run_id SET (n_distinct = -0.2);
ALTER TABLE run_usage_calls ALTER COLUMN run_id SET (n_distinct = -0.12);
