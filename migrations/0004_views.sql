-- The questions people ask. Days are UTC days of created_at; credits are exact; rates are 0 to 1, null of nothing.
-- Runs that have left the API count everywhere but in open_runs: they happened.

CREATE VIEW workflow_health_daily AS
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
        coalesce(sum(usage_total), 0) AS credits
    FROM runs
    GROUP BY day, app_id, workflow_id
) AS daily
LEFT JOIN workflows ON workflows.id = daily.workflow_id;
COMMENT ON VIEW workflow_health_daily IS 'How each workflow did each day: runs by status, failure rate, durations, credits.';
COMMENT ON COLUMN workflow_health_daily.day IS 'UTC day of the runs'' created_at; null for runs without one.';
COMMENT ON COLUMN workflow_health_daily.app_id IS 'App that the runs were triggered from.';
COMMENT ON COLUMN workflow_health_daily.workflow_id IS 'Workflow that ran.';
COMMENT ON COLUMN workflow_health_daily.workflow_name IS 'Its name; null while it is not known.';
COMMENT ON COLUMN workflow_health_daily.runs IS 'Runs created that day, whatever their status.';
COMMENT ON COLUMN workflow_health_daily.completed IS 'Those that are COMPLETED.';
COMMENT ON COLUMN workflow_health_daily.failed IS 'Those that are FAILED.';
COMMENT ON COLUMN workflow_health_daily.cancelled IS 'Those that are CANCELLED.';
COMMENT ON COLUMN workflow_health_daily.skipped IS 'Those that are SKIPPED.';
COMMENT ON COLUMN workflow_health_daily.open IS 'Those that are PENDING or RUNNING.';
COMMENT ON COLUMN workflow_health_daily.failure_rate IS
    'failed / (completed + failed + cancelled + skipped), 0 to 1; null where none has ended.';
COMMENT ON COLUMN workflow_health_daily.p50_duration_s IS 'Median of the runs'' duration_s, in seconds.';
COMMENT ON COLUMN workflow_health_daily.p95_duration_s IS '95th percentile of the runs'' duration_s, in seconds.';
COMMENT ON COLUMN workflow_health_daily.credits IS 'Credits that the runs used, exact; 0 where the API told none.';

CREATE VIEW credits_daily AS
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
        coalesce(sum(usage_total), 0) AS credits
    FROM runs
    GROUP BY day, app_id, workflow_id, origin
) AS daily
LEFT JOIN workflows ON workflows.id = daily.workflow_id;
COMMENT ON VIEW credits_daily IS
    'What was spent each day, by workflow and origin. Each run counts its own usage_total as the API tells it.';
COMMENT ON COLUMN credits_daily.day IS 'UTC day of the runs'' created_at; null for runs without one.';
COMMENT ON COLUMN credits_daily.app_id IS 'App that the runs were triggered from.';
COMMENT ON COLUMN credits_daily.workflow_id IS 'Workflow that ran.';
COMMENT ON COLUMN credits_daily.workflow_name IS 'Its name; null while it is not known.';
COMMENT ON COLUMN credits_daily.origin IS 'What started the runs.';
COMMENT ON COLUMN credits_daily.runs IS 'Runs created that day.';
COMMENT ON COLUMN credits_daily.credits IS 'Credits that they used, exact; 0 where the API told none.';

CREATE VIEW step_performance AS
SELECT
    steps.app_id,
    steps.workflow_id,
    steps.step_key,
    steps.type,
    steps.runs,
    steps.failed,
    steps.failed::double precision / nullif(steps.ended, 0) AS failure_rate,
    steps.p50_ms,
    steps.p95_ms,
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
        percentile_cont(0.5) WITHIN GROUP (ORDER BY run_steps.duration_ms) AS p50_ms,
        percentile_cont(0.95) WITHIN GROUP (ORDER BY run_steps.duration_ms) AS p95_ms,
        coalesce(sum(run_steps.usage_total), 0) AS credits
    FROM run_steps
    JOIN runs ON runs.id = run_steps.run_id
    GROUP BY runs.app_id, runs.workflow_id, run_steps.step_key, run_steps.type
) AS steps
LEFT JOIN workflows ON workflows.id = steps.workflow_id;
COMMENT ON VIEW step_performance IS 'How each step of each workflow does over all runs: failures, durations, credits.';
COMMENT ON COLUMN step_performance.app_id IS 'App that the runs were triggered from.';
COMMENT ON COLUMN step_performance.workflow_id IS 'Workflow of the step.';
COMMENT ON COLUMN step_performance.step_key IS 'Key of the step.';
COMMENT ON COLUMN step_performance.type IS 'Step type; null where the step is known only by its credits.';
COMMENT ON COLUMN step_performance.runs IS 'Runs in which the step took part.';
COMMENT ON COLUMN step_performance.failed IS 'Those in which it is FAILED.';
COMMENT ON COLUMN step_performance.failure_rate IS
    'failed / those in which it is COMPLETED, FAILED, CANCELLED or SKIPPED, 0 to 1; null where it has ended in none.';
COMMENT ON COLUMN step_performance.p50_ms IS 'Median of the step''s duration_ms, in milliseconds.';
COMMENT ON COLUMN step_performance.p95_ms IS '95th percentile of the step''s duration_ms, in milliseconds.';
COMMENT ON COLUMN step_performance.credits IS 'Credits that the step used, exact; 0 where the API told none.';
COMMENT ON COLUMN step_performance.workflow_name IS 'Name of the workflow; null while it is not known.';

CREATE VIEW model_usage_daily AS
WITH model_steps AS NOT MATERIALIZED (
    SELECT
        (runs.created_at AT TIME ZONE 'UTC')::date AS day,
        steps.run_id,
        steps.step_key,
        steps.provider,
        steps.model,
        steps.status,
        steps.usage_total,
        -- A looped step names no model itself; its calls do, of which a loop over nothing has none.
        steps.provider IS NULL AND steps.model IS NULL AND (
            EXISTS (
                SELECT FROM run_step_calls AS calls
                WHERE calls.run_id = steps.run_id AND calls.step_key = steps.step_key
                    AND (calls.type = 'model' OR calls.model IS NOT NULL)
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
        usage_total AS credits
    FROM model_steps
    WHERE NOT looped
    UNION ALL
    SELECT
        model_steps.day,
        by_model.provider,
        by_model.model,
        by_model.calls,
        by_model.failed,
        CASE WHEN by_model.models = 1 THEN model_steps.usage_total END
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
            AND (calls.type = 'model' OR calls.model IS NOT NULL)
        GROUP BY calls.provider, calls.model
    ) AS by_model
    WHERE model_steps.looped
) AS used
GROUP BY day, provider, model;
COMMENT ON VIEW model_usage_daily IS 'Which models were called each day, how often, with what failures and credits.';
COMMENT ON COLUMN model_usage_daily.day IS 'UTC day of the runs'' created_at; null for runs without one.';
COMMENT ON COLUMN model_usage_daily.provider IS 'Provider of the model; null where the API told none.';
COMMENT ON COLUMN model_usage_daily.model IS 'Model; null where the API told none, as of a call that failed early.';
COMMENT ON COLUMN model_usage_daily.calls IS 'Model steps; where a step looped, its calls instead.';
COMMENT ON COLUMN model_usage_daily.failed IS 'Those that are FAILED.';
COMMENT ON COLUMN model_usage_daily.credits IS
    'Credits of the steps, exact. A looped step''s are left out where its calls went to several models: the API tells no split.';

CREATE VIEW recent_failures AS
SELECT
    runs.id AS run_id,
    runs.app_id,
    runs.workflow_id,
    workflows.name AS workflow_name,
    coalesce(runs.ended_at, runs.updated_at, runs.created_at) AS failed_at,
    first_failed.step_key,
    first_failed.type AS step_type,
    coalesce(runs.error, first_failed.error) AS error,
    runs.origin,
    runs.version
FROM runs
LEFT JOIN workflows ON workflows.id = runs.workflow_id
LEFT JOIN LATERAL (
    SELECT steps.step_key, steps.type, steps.error
    FROM run_steps AS steps
    WHERE steps.run_id = runs.id AND steps.status = 'FAILED'
    ORDER BY steps.started_at NULLS LAST, steps.ordinal
    LIMIT 1
) AS first_failed ON true
WHERE runs.status = 'FAILED';
COMMENT ON VIEW recent_failures IS
    'Every failed run with the step that failed first. Ask for the last ones with ORDER BY failed_at DESC LIMIT 20.';
COMMENT ON COLUMN recent_failures.run_id IS 'The failed run.';
COMMENT ON COLUMN recent_failures.app_id IS 'App that it was triggered from.';
COMMENT ON COLUMN recent_failures.workflow_id IS 'Workflow that ran.';
COMMENT ON COLUMN recent_failures.workflow_name IS 'Its name; null while it is not known.';
COMMENT ON COLUMN recent_failures.failed_at IS 'When the run ended; where the API does not tell, its updated_at or created_at.';
COMMENT ON COLUMN recent_failures.step_key IS 'The failed step that started first; null where no step is FAILED.';
COMMENT ON COLUMN recent_failures.step_type IS 'Its type.';
COMMENT ON COLUMN recent_failures.error IS 'Message of the run''s error; where it has none, of that step''s.';
COMMENT ON COLUMN recent_failures.origin IS 'What started the run.';
COMMENT ON COLUMN recent_failures.version IS 'Number of the workflow version that ran.';

CREATE VIEW open_runs AS
SELECT
    runs.id AS run_id,
    runs.app_id,
    runs.workflow_id,
    workflows.name AS workflow_name,
    runs.status,
    runs.created_at,
    extract(epoch FROM now() - runs.created_at)::double precision AS age_s,
    runs.last_synced_at
FROM runs
LEFT JOIN workflows ON workflows.id = runs.workflow_id
WHERE runs.status IN ('PENDING', 'RUNNING') AND runs.gone_at IS NULL;
COMMENT ON VIEW open_runs IS 'Runs that had not ended when they were last read, and that the API still lists.';
COMMENT ON COLUMN open_runs.run_id IS 'The open run.';
COMMENT ON COLUMN open_runs.app_id IS 'App that it was triggered from.';
COMMENT ON COLUMN open_runs.workflow_id IS 'Workflow that runs.';
COMMENT ON COLUMN open_runs.workflow_name IS 'Its name; null while it is not known.';
COMMENT ON COLUMN open_runs.status IS 'PENDING or RUNNING.';
COMMENT ON COLUMN open_runs.created_at IS 'When the run was created.';
COMMENT ON COLUMN open_runs.age_s IS 'Seconds since then; null where created_at is.';
COMMENT ON COLUMN open_runs.last_synced_at IS 'When the run''s row last changed here.';

CREATE VIEW child_runs AS
SELECT run_id AS parent_run_id, step_key AS parent_step_key, child_run_id AS run_id
FROM run_steps
WHERE child_run_id IS NOT NULL
UNION ALL
SELECT run_id, step_key, child_run_id
FROM run_step_calls
WHERE child_run_id IS NOT NULL;
COMMENT ON VIEW child_runs IS 'Which run started which: one row a run that a workflow step, or an iteration of a looped one, started.';
COMMENT ON COLUMN child_runs.parent_run_id IS 'The run that started the other.';
COMMENT ON COLUMN child_runs.parent_step_key IS 'Its step that did.';
COMMENT ON COLUMN child_runs.run_id IS 'The run that was started; it is in runs where its workflow is synced too.';

-- Roots without children, most runs, need no recursion. For the others it is tied to the root, so that a condition on
-- root_run_id or day walks the trees asked for and no other.
CREATE VIEW run_tree AS
SELECT
    root.id AS root_run_id,
    root.id AS run_id,
    NULL::text AS parent_run_id,
    NULL::text AS parent_step_key,
    0 AS depth,
    root.status,
    root.usage_total AS credits,
    (root.created_at AT TIME ZONE 'UTC')::date AS day
FROM runs AS root
WHERE NOT EXISTS (
    SELECT FROM child_runs WHERE child_runs.run_id = root.id AND child_runs.parent_run_id <> root.id
)
UNION ALL
SELECT
    root.id,
    below.run_id,
    below.parent_run_id,
    below.parent_step_key,
    below.depth,
    child.status,
    child.usage_total,
    (root.created_at AT TIME ZONE 'UTC')::date
FROM runs AS root
CROSS JOIN LATERAL (
    WITH RECURSIVE tree AS (
        SELECT
            children.run_id,
            children.parent_run_id,
            children.parent_step_key,
            1 AS depth,
            ARRAY[root.id, children.run_id] AS line
        FROM child_runs AS children
        WHERE children.parent_run_id = root.id AND children.run_id <> root.id
        UNION ALL
        SELECT
            children.run_id,
            children.parent_run_id,
            children.parent_step_key,
            tree.depth + 1,
            tree.line || children.run_id
        FROM tree
        CROSS JOIN LATERAL (
            SELECT child_runs.run_id, child_runs.parent_run_id, child_runs.parent_step_key
            FROM child_runs
            WHERE child_runs.parent_run_id = tree.run_id
            OFFSET 0 -- keeps this a look-up for each run instead of a join with all of child_runs for each root
        ) AS children
        WHERE children.run_id <> ALL (tree.line)
    )
    SELECT DISTINCT ON (tree.run_id) tree.run_id, tree.parent_run_id, tree.parent_step_key, tree.depth
    FROM tree
    ORDER BY tree.run_id, tree.depth, tree.parent_run_id, tree.parent_step_key
) AS below
LEFT JOIN runs AS child ON child.id = below.run_id
-- IS TRUE keeps this test a look-up beside each root; as a join it would begin at all of child_runs.
WHERE (EXISTS (SELECT FROM child_runs WHERE child_runs.parent_run_id = root.id)) IS TRUE
    AND NOT EXISTS (
        SELECT FROM child_runs WHERE child_runs.run_id = root.id AND child_runs.parent_run_id <> root.id
    );
COMMENT ON VIEW run_tree IS
    'Every run under the run that it all began with: a root, which no known run started, at depth 0, then the runs that its workflow steps started, and theirs. A run stands once under a root.';
COMMENT ON COLUMN run_tree.root_run_id IS 'The run at the top.';
COMMENT ON COLUMN run_tree.run_id IS 'This run.';
COMMENT ON COLUMN run_tree.parent_run_id IS 'The run that started it; null for the root.';
COMMENT ON COLUMN run_tree.parent_step_key IS 'The step of the parent that started it; null for the root.';
COMMENT ON COLUMN run_tree.depth IS 'Level below the root, which is 0.';
COMMENT ON COLUMN run_tree.status IS 'Status of this run; null where its workflow is not synced.';
COMMENT ON COLUMN run_tree.credits IS
    'usage_total of this run, as the API tells it; null where it tells none or the run''s workflow is not synced.';
COMMENT ON COLUMN run_tree.day IS 'UTC day of the root''s created_at: bound by it to read few trees.';

CREATE VIEW sync_health AS
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
    streams.last_succeeded_at,
    erased.runs AS forgotten
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
CROSS JOIN LATERAL (
    SELECT count(*) AS runs
    FROM etl_tombstones AS tombstones
    WHERE tombstones.app_id = streams.app_id AND tombstones.workflow_id = streams.workflow_id
        AND tombstones.kind = 'run' AND tombstones.gone_at IS NULL
) AS erased
LEFT JOIN workflows ON workflows.id = streams.workflow_id;
COMMENT ON VIEW sync_health IS 'How fresh and how complete each stream is.';
COMMENT ON COLUMN sync_health.app_id IS 'App whose listing is read.';
COMMENT ON COLUMN sync_health.workflow_id IS 'Workflow whose runs are read.';
COMMENT ON COLUMN sync_health.watermark IS
    'Largest updated_at such that every listed run at or below it is loaded or quarantined.';
COMMENT ON COLUMN sync_health.lag_s IS
    'Seconds from the watermark to now. It grows while nothing runs as well: last_synced_at tells when the stream was last read.';
COMMENT ON COLUMN sync_health.last_synced_at IS 'When a sync of the stream last read to its end.';
COMMENT ON COLUMN sync_health.last_reconciled_at IS 'When all that the API lists was last compared with the warehouse.';
COMMENT ON COLUMN sync_health.backfill_done IS 'Whether the whole history has been read once.';
COMMENT ON COLUMN sync_health.api_count IS 'Number of runs that the API last counted.';
COMMENT ON COLUMN sync_health.warehouse_count IS
    'Number of the stream''s runs here that are not gone. With those in quarantine that have no earlier state here, and those forgotten, they should be api_count.';
COMMENT ON COLUMN sync_health.quarantined IS 'Number of its runs in quarantine (open rows of etl_rejects).';
COMMENT ON COLUMN sync_health.last_error IS 'Message of the last failure; null after a success.';
COMMENT ON COLUMN sync_health.last_error_at IS 'When the last failure was.';
COMMENT ON COLUMN sync_health.workflow_name IS 'Name of the workflow; null while it is not known.';
COMMENT ON COLUMN sync_health.last_succeeded_at IS
    'When a sync of the stream last ended with every run that the API counts accounted for.';
COMMENT ON COLUMN sync_health.forgotten IS 'Number of its runs that were erased for good and that the API still lists.';
