-- Values computed from the runs: own credits and rollups.

-- The own credits of a run depend on the runs that it started, which other connections may be loading at the same time.
-- Therefore each load records the runs that it writes, in the same transaction, and update_own_credits() processes the
-- records after the commit. If a parent and a child are loaded at the same time, the call after the later commit sees
-- both. Records of a killed process are processed by later calls.
CREATE TABLE etl_changed_credits (
    id       bigint      GENERATED ALWAYS AS IDENTITY,
    run_ids  text[]      NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT etl_changed_credits_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE etl_changed_credits IS
    'One row per transaction that changed runs on which the own credits of other runs depend. Rows are deleted as soon as these own credits are computed.';
COMMENT ON COLUMN etl_changed_credits.id IS 'Number of the row, ascending.';
COMMENT ON COLUMN etl_changed_credits.run_ids IS
    'Runs that were written, and the runs that they start, or started according to their earlier copies (runs.id).';
COMMENT ON COLUMN etl_changed_credits.noted_at IS 'When the runs were written.';

CREATE TABLE etl_counted_children (
    run_id text NOT NULL,
    CONSTRAINT etl_counted_children_pkey PRIMARY KEY (run_id)
);
COMMENT ON TABLE etl_counted_children IS
    'One row per run whose credits an erased run had subtracted from its own. No other run that names it subtracts them again.';
COMMENT ON COLUMN etl_counted_children.run_id IS 'The child (runs.id).';

-- The transaction must be READ COMMITTED, so that each statement sees all earlier commits. The function locks the
-- parents, so that the last one to compute a parent sees all its children. It skips parents that others have locked, so
-- that it never waits, and records them again. The settings force index scans, because the statements read few rows by
-- key but a new warehouse has no statistics, and generic plans, because planning takes as long as execution.
CREATE FUNCTION update_own_credits(min_age interval) RETURNS boolean LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    children text[];
    parents  text[];
    held     text[];
    batch    text[];
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed'
        OR (SELECT min(noted_at) FROM etl_changed_credits) > clock_timestamp() - min_age
    THEN
        RETURN false;
    END IF;
    PERFORM set_config('synchronous_commit', 'off', true); -- a crash that loses the results restores the records too
    WITH taken AS (
        DELETE FROM etl_changed_credits
        WHERE id IN (SELECT id FROM etl_changed_credits ORDER BY id FOR UPDATE SKIP LOCKED)
        RETURNING run_ids
    )
    SELECT array_agg(DISTINCT id) INTO children FROM taken CROSS JOIN unnest(run_ids) AS id;
    SELECT array_agg(DISTINCT named.parent_run_id) INTO parents
    FROM unnest(children) AS of_these (id)
    JOIN child_runs AS named ON named.run_id = of_these.id
    JOIN runs AS child ON child.id = of_these.id;
    SELECT array_agg(id) INTO held
    FROM (SELECT id FROM runs WHERE id = ANY (parents) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) AS free;
    FOR place IN 1 .. coalesce(cardinality(held), 0) BY 200 LOOP
        batch := held[place : place + 199];
        -- A child counts for the first step that names it. The run is updated even if only its steps change, so that
        -- its day is rolled up again.
        WITH first_parents AS (
            SELECT DISTINCT ON (child.id) child.credits, named.parent_run_id AS run_id, named.parent_step_key AS step_key
            FROM (SELECT DISTINCT run_id FROM child_runs WHERE parent_run_id = ANY (batch)) AS of_these
            JOIN runs AS child ON child.id = of_these.run_id
            JOIN child_runs AS named ON named.run_id = child.id
            JOIN runs AS parent ON parent.id = named.parent_run_id
            JOIN run_steps AS step ON step.run_id = named.parent_run_id AND step.step_key = named.parent_step_key
            WHERE NOT EXISTS (SELECT FROM etl_counted_children AS counted WHERE counted.run_id = child.id)
            ORDER BY child.id, parent.created_at NULLS LAST, named.parent_run_id, step.ordinal
        ), of_children AS (
            SELECT run_id, step_key, sum(credits) AS credits FROM first_parents GROUP BY run_id, step_key
        ), computed AS (
            SELECT
                steps.run_id,
                steps.step_key,
                CASE WHEN steps.credits IS NOT NULL AND of_children.credits IS NOT NULL
                    THEN least(steps.credits, of_children.credits) END AS child_credits
            FROM (
                SELECT DISTINCT parent_run_id, parent_step_key FROM child_runs WHERE parent_run_id = ANY (batch)
            ) AS starting
            JOIN run_steps AS steps ON steps.run_id = starting.parent_run_id AND steps.step_key = starting.parent_step_key
            LEFT JOIN of_children ON of_children.run_id = steps.run_id AND of_children.step_key = steps.step_key
        ), of_steps AS (
            UPDATE run_steps SET child_credits = computed.child_credits
            FROM computed
            WHERE run_steps.run_id = computed.run_id AND run_steps.step_key = computed.step_key
                AND run_steps.child_credits IS DISTINCT FROM computed.child_credits
            RETURNING run_steps.run_id
        )
        UPDATE runs SET own_credits = runs.credits - of_run.child_credits
        FROM (
            SELECT parent.id, coalesce(sum(computed.child_credits), 0) AS child_credits
            FROM unnest(batch) AS parent (id)
            LEFT JOIN computed ON computed.run_id = parent.id
            GROUP BY parent.id
        ) AS of_run
        WHERE runs.id = of_run.id AND runs.erased_at IS NULL AND (
            runs.own_credits IS DISTINCT FROM runs.credits - of_run.child_credits
            OR runs.id IN (SELECT run_id FROM of_steps)
        );
    END LOOP;
    INSERT INTO etl_changed_credits (run_ids)
    SELECT array_agg(DISTINCT run_id) FROM child_runs
    WHERE parent_run_id IN (SELECT unnest(parents) EXCEPT SELECT unnest(held))
    HAVING count(*) > 0;
    RETURN NOT FOUND;
END
$$;
COMMENT ON FUNCTION update_own_credits IS
    'Computes the own credits of runs whose children have changed (etl_changed_credits), if the oldest change is at least min_age old. Returns false if changes are left, because they are younger or because other sessions are writing these runs.';

-- Rollups: the values of the daily views, precomputed per workflow and day.
--
-- Each change to runs records the affected days in etl_changed_days, in the same transaction. The views compute these
-- days from the runs and read all other days from the rollups, so they are always exact. At its end, each sync rolls up
-- the changed days; large days with few changes are postponed. Runs without created_at or workflow are never rolled up.

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
COMMENT ON COLUMN etl_changed_days.day IS 'UTC day of the runs'' created_at.';
COMMENT ON COLUMN etl_changed_days.runs IS 'Number of runs that were written.';
COMMENT ON COLUMN etl_changed_days.noted_at IS 'When the runs were written.';

CREATE INDEX etl_changed_days_idx ON etl_changed_days (day, workflow_id);
COMMENT ON INDEX etl_changed_days_idx IS 'Whether the rollup of a day is up to date: all daily views.';

CREATE TABLE rollup_health (
    workflow_id     text   NOT NULL,
    day             date   NOT NULL,
    workflow_app_id text,
    app_id          text,
    runs            bigint NOT NULL,
    completed       bigint NOT NULL,
    failed          bigint NOT NULL,
    cancelled       bigint NOT NULL,
    skipped         bigint NOT NULL,
    open            bigint NOT NULL,
    p50_duration_s  double precision,
    p95_duration_s  double precision,
    credits         numeric
);
COMMENT ON TABLE rollup_health IS 'Rollup behind workflow_health_daily; query that view instead.';

CREATE TABLE rollup_credits (
    workflow_id           text   NOT NULL,
    day                   date   NOT NULL,
    workflow_app_id       text,
    app_id                text,
    stream_app_id         text,
    origin                text,
    runs                  bigint NOT NULL,
    listed                bigint NOT NULL,
    credits               numeric,
    credits_with_children numeric
);
COMMENT ON TABLE rollup_credits IS 'Rollup behind credits_daily and sync_health; query those views instead.';

CREATE TABLE rollup_steps (
    workflow_id     text   NOT NULL,
    day             date   NOT NULL,
    workflow_app_id text,
    app_id          text,
    step_key        text   NOT NULL,
    type            text,
    type_at         timestamptz,
    runs            bigint NOT NULL,
    ended           bigint NOT NULL,
    failed          bigint NOT NULL,
    p50_s           double precision,
    p95_s           double precision,
    credits         numeric,
    durations_s     double precision[]
);
COMMENT ON TABLE rollup_steps IS 'Rollup behind step_performance and step_performance_daily; query those views instead.';

CREATE TABLE rollup_models (
    workflow_id     text   NOT NULL,
    day             date   NOT NULL,
    workflow_app_id text,
    app_id          text,
    provider        text,
    model           text,
    calls           bigint NOT NULL,
    failed          bigint NOT NULL,
    input_tokens    numeric,
    output_tokens   numeric,
    credits         numeric
);
COMMENT ON TABLE rollup_models IS 'Rollup behind model_usage_daily; query that view instead.';

CREATE TABLE rollup_failures (
    workflow_id     text   NOT NULL,
    day             date   NOT NULL,
    workflow_app_id text,
    app_id          text,
    step_key        text,
    message         text,
    version         integer,
    runs            bigint NOT NULL,
    first_seen      timestamptz,
    last_seen       timestamptz
);
COMMENT ON TABLE rollup_failures IS 'Rollup behind failure_groups; query that view instead.';

CREATE INDEX rollup_health_idx ON rollup_health (day, workflow_id);
CREATE INDEX rollup_credits_idx ON rollup_credits (day, workflow_id);
CREATE INDEX rollup_steps_idx ON rollup_steps (day, workflow_id);
CREATE INDEX rollup_models_idx ON rollup_models (day, workflow_id);
CREATE INDEX rollup_failures_idx ON rollup_failures (day, workflow_id);

CREATE FUNCTION note_changed_days() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    emptied text;
BEGIN
    -- Use the schema of the table, because the schema may have been renamed and search_path may be anything.
    IF TG_OP = 'TRUNCATE' THEN
        FOREACH emptied IN ARRAY ARRAY[
            'etl_changed_days', 'rollup_health', 'rollup_credits', 'rollup_steps', 'rollup_models', 'rollup_failures'
        ] LOOP
            -- Not TRUNCATE, which fails if the triggering statement also truncates these tables.
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
COMMENT ON FUNCTION note_changed_days IS 'Records the days of runs that were written, so that the daily views compute them from the runs.';

-- The children of a run are written only together with the run, so triggers on runs suffice. They are enabled ALWAYS,
-- to fire even while a load skips foreign key checks (session_replication_role = replica).
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

-- A changed day may have several rows, hence DISTINCT. Runs without created_at or workflow are in separate branches
-- with a constant null, which the planner can skip if a query has a condition on the day or workflow.
CREATE VIEW etl_uncounted_runs AS
SELECT
    runs.id, changed.workflow_id, changed.day, runs.created_at, runs.workflow_app_id, runs.app_id, runs.stream_app_id,
    runs.origin, runs.status, runs.gone_at, runs.duration_s, runs.credits, runs.own_credits, runs.version, runs.error,
    coalesce(runs.ended_at, runs.updated_at, runs.created_at) AS failed_at, runs.erased_at
FROM (SELECT DISTINCT workflow_id, day FROM etl_changed_days) AS changed
JOIN runs ON runs.workflow_id = changed.workflow_id AND (runs.created_at AT TIME ZONE 'UTC')::date = changed.day
UNION ALL
SELECT
    id, workflow_id, NULL::date, NULL::timestamptz, workflow_app_id, app_id, stream_app_id, origin, status, gone_at,
    duration_s, credits, own_credits, version, error, coalesce(ended_at, updated_at), erased_at
FROM runs
WHERE created_at IS NULL
UNION ALL
SELECT
    id, NULL::text, (created_at AT TIME ZONE 'UTC')::date, created_at, workflow_app_id, app_id, stream_app_id, origin,
    status, gone_at, duration_s, credits, own_credits, version, error, coalesce(ended_at, updated_at, created_at), erased_at
FROM runs
WHERE workflow_id IS NULL AND created_at IS NOT NULL;
COMMENT ON VIEW etl_uncounted_runs IS
    'Runs that are not in the rollups: runs of days that have changed since they were rolled up, and runs without created_at or workflow.';

-- The views that compute the rollups. OFFSET 0 forces a lookup of steps per run, because before the first ANALYZE the
-- planner underestimates the number of steps and chooses a nested loop over all runs for each step.

CREATE VIEW counted_health AS
SELECT
    workflow_id,
    day,
    max(workflow_app_id) AS workflow_app_id,
    coalesce(max(workflow_app_id), max(app_id)) AS app_id,
    count(*) AS runs,
    count(*) FILTER (WHERE status = 'COMPLETED') AS completed,
    count(*) FILTER (WHERE status = 'FAILED') AS failed,
    count(*) FILTER (WHERE status = 'CANCELLED') AS cancelled,
    count(*) FILTER (WHERE status = 'SKIPPED') AS skipped,
    count(*) FILTER (WHERE status IN ('PENDING', 'RUNNING')) AS open,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_s) AS p50_duration_s,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_s) AS p95_duration_s,
    sum(own_credits) AS credits
FROM etl_uncounted_runs
GROUP BY workflow_id, day;

CREATE VIEW counted_credits AS
SELECT
    workflow_id,
    day,
    max(workflow_app_id) AS workflow_app_id,
    coalesce(max(workflow_app_id), max(app_id)) AS app_id,
    stream_app_id,
    origin,
    count(*) AS runs,
    count(*) FILTER (WHERE gone_at IS NULL) AS listed,
    sum(own_credits) AS credits,
    sum(credits) AS credits_with_children
FROM etl_uncounted_runs
GROUP BY workflow_id, day, stream_app_id, origin;

-- array_agg accepts arrays of different lengths only if they are wrapped in a composite type. Sorting the durations of
-- each step separately takes a fraction of the time for sorting those of all steps together.
CREATE TYPE duration_list AS (durations_s double precision[]);
COMMENT ON TYPE duration_list IS 'The durations of a step on one day, in seconds. array_agg accepts lists of different lengths only in a composite type.';

-- Nearly every step has a single type, so grouping by type first leaves few rows from which to choose the latest type.
CREATE VIEW counted_steps AS
SELECT
    grouped.workflow_id,
    grouped.day,
    grouped.workflow_app_id,
    grouped.app_id,
    grouped.step_key,
    grouped.type,
    grouped.type_at,
    grouped.runs,
    grouped.ended,
    grouped.failed,
    spread.percentiles[1] AS p50_s,
    spread.percentiles[2] AS p95_s,
    grouped.credits,
    spread.durations_s
FROM (
    SELECT
        workflow_id,
        day,
        step_key,
        max(workflow_app_id) AS workflow_app_id,
        coalesce(max(workflow_app_id), max(app_id)) AS app_id,
        (array_agg(type ORDER BY latest_at DESC NULLS LAST, type) FILTER (WHERE type IS NOT NULL))[1] AS type,
        max(latest_at) FILTER (WHERE type IS NOT NULL) AS type_at,
        sum(runs)::bigint AS runs,
        sum(ended)::bigint AS ended,
        sum(failed)::bigint AS failed,
        sum(credits) AS credits,
        array_agg(ROW(durations_s)::duration_list) AS lists
    FROM (
        SELECT
            runs.workflow_id,
            runs.day,
            steps.step_key,
            steps.type,
            max(runs.created_at) AS latest_at,
            max(runs.workflow_app_id) AS workflow_app_id,
            max(runs.app_id) AS app_id,
            count(*) AS runs,
            count(*) FILTER (WHERE steps.status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED')) AS ended,
            count(*) FILTER (WHERE steps.status = 'FAILED') AS failed,
            sum(steps.credits - coalesce(steps.child_credits, 0)) AS credits,
            array_agg(steps.duration_s) FILTER (WHERE steps.duration_s IS NOT NULL) AS durations_s
        FROM etl_uncounted_runs AS runs
        CROSS JOIN LATERAL (
            SELECT step_key, type, status, duration_s, credits, child_credits
            FROM run_steps
            WHERE run_id = runs.id
            OFFSET 0
        ) AS steps
        GROUP BY runs.workflow_id, runs.day, steps.step_key, steps.type
    ) AS by_type
    GROUP BY workflow_id, day, step_key
) AS grouped
CROSS JOIN LATERAL (
    SELECT
        percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY duration_s) AS percentiles,
        array_agg(duration_s ORDER BY duration_s) AS durations_s
    FROM unnest(grouped.lists) AS list (durations_s)
    CROSS JOIN LATERAL unnest(list.durations_s) AS duration_s
) AS spread;

-- A model step counts as one call; for a step that looped, whatever its type, its calls of type model count instead
-- (calls without a type have the type of the step). The API does not split the credits of a step, so they count only for
-- model steps, and for the only model that the calls name. A call that failed early names none.
CREATE VIEW counted_models AS
SELECT
    runs.workflow_id,
    runs.day,
    max(runs.workflow_app_id) AS workflow_app_id,
    coalesce(max(runs.workflow_app_id), max(runs.app_id)) AS app_id,
    used.provider,
    used.model,
    sum(used.calls)::bigint AS calls,
    sum(used.failed)::bigint AS failed,
    sum(used.input_tokens) AS input_tokens,
    sum(used.output_tokens) AS output_tokens,
    sum(used.credits) AS credits
FROM etl_uncounted_runs AS runs
CROSS JOIN LATERAL (
    SELECT
        run_id, step_key, type, provider, model, status, input_tokens, output_tokens,
        coalesce(looped, false) AS looped,
        CASE WHEN type = 'model' THEN credits - coalesce(child_credits, 0) END AS credits
    FROM run_steps
    WHERE run_id = runs.id AND (type = 'model' OR looped)
    OFFSET 0
) AS steps
CROSS JOIN LATERAL (
    SELECT
        steps.provider,
        steps.model,
        1 AS calls,
        CASE WHEN steps.status = 'FAILED' THEN 1 ELSE 0 END AS failed,
        steps.input_tokens,
        steps.output_tokens,
        steps.credits
    WHERE NOT steps.looped
    UNION ALL
    SELECT
        calls.provider,
        calls.model,
        count(*),
        count(*) FILTER (WHERE calls.status = 'FAILED'),
        sum(calls.input_tokens),
        sum(calls.output_tokens),
        CASE
            WHEN count(*) OVER (PARTITION BY calls.model IS NULL) = 1
                AND (calls.model IS NOT NULL OR count(calls.model) OVER () = 0)
            THEN steps.credits
        END
    FROM run_step_calls AS calls
    WHERE steps.looped AND calls.run_id = steps.run_id AND calls.step_key = steps.step_key
        AND coalesce(calls.type, steps.type) = 'model'
    GROUP BY calls.provider, calls.model
) AS used
GROUP BY runs.workflow_id, runs.day, used.provider, used.model;

-- Replace quoted text, then ids, then numbers, then white space. An apostrophe within a word is not a quotation mark.
CREATE FUNCTION failure_message(error text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
SELECT left(btrim(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
    error,
    $re$"[^"]*"|`[^`]*`|“[^”]*”|‘[^’]*’|«[^»]*»|(?<!\w)'[^']*'(?!\w)$re$, $re$'…'$re$, 'g'),
    '\m([0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{8,}|(?=\w*[A-Za-z])(?=\w*[0-9])\w{8,})\M', '<id>', 'g'),
    '[0-9]+(\.[0-9]+)?', '<n>', 'g'),
    '\s+', ' ', 'g')), 200)
$$;
COMMENT ON FUNCTION failure_message IS
    'Normalizes an error message for grouping: replaces quoted text by ''…'', ids by <id> and numbers by <n>; at most 200 characters. To group the failures of a period, apply it to recent_failures.error.';

CREATE VIEW counted_failures AS
SELECT
    workflow_id,
    day,
    max(workflow_app_id) AS workflow_app_id,
    coalesce(max(workflow_app_id), max(app_id)) AS app_id,
    step_key,
    message,
    version,
    count(*) AS runs,
    min(failed_at) AS first_seen,
    max(failed_at) AS last_seen
FROM (
    SELECT
        runs.workflow_id, runs.day, runs.workflow_app_id, runs.app_id, runs.version, runs.failed_at, first_failed.step_key,
        failure_message(coalesce(runs.error, first_failed.error)) AS message
    FROM etl_uncounted_runs AS runs
    LEFT JOIN LATERAL (
        SELECT steps.step_key, steps.error
        FROM run_steps AS steps
        WHERE steps.run_id = runs.id AND steps.status = 'FAILED'
        ORDER BY steps.started_at NULLS LAST, steps.ordinal
        LIMIT 1
    ) AS first_failed ON true
    WHERE runs.status = 'FAILED' AND runs.erased_at IS NULL
) AS failures
GROUP BY workflow_id, day, step_key, message, version;

CREATE VIEW health_days AS
SELECT
    workflow_id, day, workflow_app_id, app_id, runs, completed, failed, cancelled, skipped, open, p50_duration_s,
    p95_duration_s, credits
FROM rollup_health AS rolled
WHERE NOT EXISTS (
    SELECT FROM etl_changed_days AS changed WHERE changed.workflow_id = rolled.workflow_id AND changed.day = rolled.day
)
UNION ALL
SELECT
    workflow_id, day, workflow_app_id, app_id, runs, completed, failed, cancelled, skipped, open, p50_duration_s,
    p95_duration_s, credits
FROM counted_health;

CREATE VIEW credit_days AS
SELECT
    workflow_id, day, workflow_app_id, app_id, stream_app_id, origin, runs, listed, credits, credits_with_children
FROM rollup_credits AS rolled
WHERE NOT EXISTS (
    SELECT FROM etl_changed_days AS changed WHERE changed.workflow_id = rolled.workflow_id AND changed.day = rolled.day
)
UNION ALL
SELECT
    workflow_id, day, workflow_app_id, app_id, stream_app_id, origin, runs, listed, credits, credits_with_children
FROM counted_credits;

CREATE VIEW step_days AS
SELECT
    workflow_id, day, workflow_app_id, app_id, step_key, type, type_at, runs, ended, failed, p50_s, p95_s, credits,
    durations_s
FROM rollup_steps AS rolled
WHERE NOT EXISTS (
    SELECT FROM etl_changed_days AS changed WHERE changed.workflow_id = rolled.workflow_id AND changed.day = rolled.day
)
UNION ALL
SELECT
    workflow_id, day, workflow_app_id, app_id, step_key, type, type_at, runs, ended, failed, p50_s, p95_s, credits,
    durations_s
FROM counted_steps;

CREATE VIEW model_days AS
SELECT
    workflow_id, day, workflow_app_id, app_id, provider, model, calls, failed, input_tokens, output_tokens, credits
FROM rollup_models AS rolled
WHERE NOT EXISTS (
    SELECT FROM etl_changed_days AS changed WHERE changed.workflow_id = rolled.workflow_id AND changed.day = rolled.day
)
UNION ALL
SELECT
    workflow_id, day, workflow_app_id, app_id, provider, model, calls, failed, input_tokens, output_tokens, credits
FROM counted_models;

CREATE VIEW failure_days AS
SELECT
    workflow_id, day, workflow_app_id, app_id, step_key, message, version, runs, first_seen, last_seen
FROM rollup_failures AS rolled
WHERE NOT EXISTS (
    SELECT FROM etl_changed_days AS changed WHERE changed.workflow_id = rolled.workflow_id AND changed.day = rolled.day
)
UNION ALL
SELECT
    workflow_id, day, workflow_app_id, app_id, step_key, message, version, runs, first_seen, last_seen
FROM counted_failures;

-- The rollup tables, the views that compute them, and the views of all days have the same columns.
DO $$
DECLARE
    relation record;
    described record;
BEGIN
    FOR relation IN
        SELECT kind, days, described_views.name, described_views.meaning
        FROM (
            VALUES
                ('health', 'health_days'), ('credits', 'credit_days'), ('steps', 'step_days'), ('models', 'model_days'),
                ('failures', 'failure_days')
        ) AS kinds (kind, days)
        CROSS JOIN LATERAL (
            VALUES
                ('rollup_' || kind, NULL),
                ('counted_' || kind, format('Days that are not in rollup_%s, computed from the runs.', kind)),
                (days, format('All days: from rollup_%s if it is up to date, otherwise computed from the runs.', kind))
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
                    ('workflow_app_id', 'App that the workflow belongs to; null if no run names it.'),
                    ('app_id', 'App that the workflow belongs to; if no run names it, an app from which the runs were triggered.'),
                    ('stream_app_id', 'App whose listing contained the runs first.'),
                    ('origin', 'What started the runs.'),
                    ('step_key', 'Key of the step.'),
                    ('type', 'Step type in the latest run with a type.'),
                    ('type_at', 'When that run was created.'),
                    ('provider', 'Provider of the model.'),
                    ('model', 'Model.'),
                    ('message', 'Error message, normalized by failure_message().'),
                    ('version', 'Number of the workflow version that ran.'),
                    ('first_seen', 'When the first of the runs failed.'),
                    ('last_seen', 'When the last of the runs failed.'),
                    ('runs', 'Number of runs.'),
                    ('listed', 'Number of runs that the API still lists.'),
                    ('calls', 'Number of calls.'),
                    ('input_tokens', 'Input tokens, as counted by the providers; null if none reports them.'),
                    ('output_tokens', 'Output tokens, as counted by the providers; null if none reports them.'),
                    ('completed', 'Number of those that are COMPLETED.'),
                    ('failed', 'Number of those that are FAILED.'),
                    ('cancelled', 'Number of those that are CANCELLED.'),
                    ('skipped', 'Number of those that are SKIPPED.'),
                    ('open', 'Number of those that are PENDING or RUNNING.'),
                    ('ended', 'Number of those that are COMPLETED, FAILED, CANCELLED or SKIPPED.'),
                    ('p50_duration_s', 'Median of duration_s, in seconds.'),
                    ('p95_duration_s', '95th percentile of duration_s, in seconds.'),
                    ('p50_s', 'Median of duration_s, in seconds.'),
                    ('p95_s', '95th percentile of duration_s, in seconds.'),
                    ('durations_s', 'All values of duration_s, in seconds, ascending, for percentiles over several days.'),
                    ('credits', 'Own credits, exact; null if the API gave none.'),
                    ('credits_with_children', 'Credits including those of child runs, exact; null if the API gave none.')
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
COMMENT ON COLUMN etl_uncounted_runs.day IS 'UTC day of the run''s created_at; null if created_at is null.';
COMMENT ON COLUMN etl_uncounted_runs.failed_at IS 'When the run ended; if that is null, its updated_at or created_at.';
