-- Views for analysts. Days are UTC days of created_at, durations are in seconds, rates are from 0 to 1 (null if the
-- denominator is 0). `credits` are own credits, so that sums count each credit once. Sums are rounded to 12 decimals,
-- because the API computes with floating point. The views include runs that are gone from the API, and erased runs,
-- except for open_runs (neither) and the views of failures (no erased runs).

-- Values from other tables come from lateral joins with one row each, which cost nothing if a query does not use them.

CREATE VIEW step_facts AS
SELECT
    steps.run_id,
    coalesce(runs.workflow_app_id, runs.app_id) AS app_id,
    runs.workflow_id,
    workflows.name AS workflow_name,
    runs.version,
    runs.created_at,
    steps.step_key,
    steps.type,
    steps.status,
    steps.started_at,
    steps.duration_s,
    steps.provider,
    steps.model,
    CASE WHEN steps.looped THEN of_calls.input_tokens ELSE steps.input_tokens END AS input_tokens,
    CASE WHEN steps.looped THEN of_calls.output_tokens ELSE steps.output_tokens END AS output_tokens,
    of_calls.calls,
    steps.credits - coalesce(steps.child_credits, 0) AS credits,
    steps.child_run_id,
    steps.error,
    steps.credits AS credits_with_children
FROM run_steps AS steps
JOIN runs ON runs.id = steps.run_id
LEFT JOIN workflows ON workflows.id = runs.workflow_id
LEFT JOIN LATERAL (
    SELECT
        count(*) AS calls,
        sum(calls.input_tokens) FILTER (WHERE coalesce(calls.type, steps.type) = 'model') AS input_tokens,
        sum(calls.output_tokens) FILTER (WHERE coalesce(calls.type, steps.type) = 'model') AS output_tokens
    FROM run_step_calls AS calls
    WHERE calls.run_id = steps.run_id AND calls.step_key = steps.step_key
) AS of_calls ON true;
COMMENT ON VIEW step_facts IS
    'One row per step of a run, with the main columns of the run. For single runs or a period: WHERE run_id = ... or created_at >= ...';
COMMENT ON COLUMN step_facts.run_id IS 'Run of the step (runs.id).';
COMMENT ON COLUMN step_facts.app_id IS
    'App that the workflow belongs to; if the run does not name it, the app from which the run was triggered.';
COMMENT ON COLUMN step_facts.workflow_id IS 'Workflow that ran.';
COMMENT ON COLUMN step_facts.workflow_name IS 'Name of the workflow; null if unknown.';
COMMENT ON COLUMN step_facts.version IS 'Number of the workflow version that ran.';
COMMENT ON COLUMN step_facts.created_at IS 'When the run was created.';
COMMENT ON COLUMN step_facts.step_key IS 'Key of the step (run_steps.step_key).';
COMMENT ON COLUMN step_facts.type IS 'Step type; null if only the credits of the step are known.';
COMMENT ON COLUMN step_facts.status IS 'Status, as in runs.status; null if only the credits of the step are known.';
COMMENT ON COLUMN step_facts.started_at IS 'When the step started.';
COMMENT ON COLUMN step_facts.duration_s IS 'Duration of the step in seconds; null while the step is open.';
COMMENT ON COLUMN step_facts.provider IS 'Provider of the model of a model step; null if the step looped (see run_step_calls).';
COMMENT ON COLUMN step_facts.model IS 'Model of a model step; null if the step looped (see run_step_calls).';
COMMENT ON COLUMN step_facts.input_tokens IS
    'Input tokens of a model step, as counted by its provider; if the step looped, the sum of its calls of type model. Null if the provider does not report them.';
COMMENT ON COLUMN step_facts.output_tokens IS
    'Output tokens of a model step, as counted by its provider; if the step looped, the sum of its calls of type model. Null if the provider does not report them.';
COMMENT ON COLUMN step_facts.calls IS 'Number of loop iterations or tool calls of the step (run_step_calls).';
COMMENT ON COLUMN step_facts.credits IS
    'Credits of the step without those of the runs that it started, exact: credits minus child_credits of run_steps. Null if the API gave none.';
COMMENT ON COLUMN step_facts.child_run_id IS
    'Run that a workflow step started; null if the step looped. child_runs has the runs that steps of any type started.';
COMMENT ON COLUMN step_facts.error IS 'Message of the step''s error.';
COMMENT ON COLUMN step_facts.credits_with_children IS
    'Credits of the step including those of the runs that it started, exact.';

CREATE VIEW run_facts AS
SELECT
    runs.id AS run_id,
    coalesce(runs.workflow_app_id, runs.app_id) AS app_id,
    apps.name AS app_name,
    runs.workflow_id,
    workflows.name AS workflow_name,
    runs.version,
    runs.status,
    runs.origin,
    runs.created_at,
    runs.started_at,
    runs.ended_at,
    runs.duration_s,
    runs.own_credits AS credits,
    runs.credits AS credits_with_children,
    of_steps.input_tokens,
    of_steps.output_tokens,
    of_steps.steps,
    of_steps.failed_step_key,
    coalesce(runs.error, of_steps.error) AS error,
    (
        SELECT parent.id FROM child_runs
        JOIN runs AS parent ON parent.id = child_runs.parent_run_id
        WHERE child_runs.run_id = runs.id AND parent.id <> runs.id
        ORDER BY parent.created_at NULLS LAST, parent.id
        LIMIT 1
    ) AS parent_run_id,
    runs.record_id,
    runs.collection_id,
    runs.app_id AS triggered_by_app_id,
    runs.gone_at
FROM runs
LEFT JOIN apps ON apps.id = coalesce(runs.workflow_app_id, runs.app_id)
LEFT JOIN workflows ON workflows.id = runs.workflow_id
LEFT JOIN LATERAL (
    SELECT
        count(*) AS steps,
        sum(CASE WHEN steps.looped THEN of_calls.input_tokens ELSE steps.input_tokens END) AS input_tokens,
        sum(CASE WHEN steps.looped THEN of_calls.output_tokens ELSE steps.output_tokens END) AS output_tokens,
        (array_agg(steps.step_key ORDER BY steps.started_at, steps.ordinal) FILTER (WHERE steps.status = 'FAILED'))[1] AS failed_step_key,
        (array_agg(steps.error ORDER BY steps.started_at, steps.ordinal) FILTER (WHERE steps.status = 'FAILED'))[1] AS error
    FROM run_steps AS steps
    LEFT JOIN LATERAL (
        SELECT sum(calls.input_tokens) AS input_tokens, sum(calls.output_tokens) AS output_tokens
        FROM run_step_calls AS calls
        WHERE steps.looped AND calls.run_id = steps.run_id AND calls.step_key = steps.step_key
            AND coalesce(calls.type, steps.type) = 'model'
    ) AS of_calls ON true
    WHERE steps.run_id = runs.id
) AS of_steps ON true;
COMMENT ON VIEW run_facts IS
    'One row per run; the starting point for most queries. For a period: WHERE created_at >= ...';
COMMENT ON COLUMN run_facts.run_id IS 'Id of the run (runs.id).';
COMMENT ON COLUMN run_facts.app_id IS
    'App that the workflow belongs to; if the run does not name it, the app from which the run was triggered.';
COMMENT ON COLUMN run_facts.app_name IS 'Display name of the app; null if unknown.';
COMMENT ON COLUMN run_facts.workflow_id IS 'Workflow that ran.';
COMMENT ON COLUMN run_facts.workflow_name IS 'Name of the workflow; null if unknown.';
COMMENT ON COLUMN run_facts.version IS 'Number of the workflow version that ran.';
COMMENT ON COLUMN run_facts.status IS
    'PENDING or RUNNING (open), CANCELLED, COMPLETED, SKIPPED, FAILED, or a value that the API added later.';
COMMENT ON COLUMN run_facts.origin IS
    'What started the run: WORKFLOW, TRIGGER, RECORD, TEST, ENDPOINT, WEBHOOK, or a value that the API added later.';
COMMENT ON COLUMN run_facts.created_at IS 'When the run was created.';
COMMENT ON COLUMN run_facts.started_at IS 'When the run started; null before that.';
COMMENT ON COLUMN run_facts.ended_at IS 'When the run ended; null while it is open.';
COMMENT ON COLUMN run_facts.duration_s IS 'ended_at minus started_at, in seconds; null if either is null.';
COMMENT ON COLUMN run_facts.credits IS
    'Credits of the run without those of the runs that it started (runs.own_credits), exact. A sum counts each credit once. Null if the API gave none.';
COMMENT ON COLUMN run_facts.credits_with_children IS
    'Credits of the run including those of the runs that it started, exact, as given by the API.';
COMMENT ON COLUMN run_facts.input_tokens IS
    'Input tokens of the run''s model steps, as counted by the providers; null if none reports them.';
COMMENT ON COLUMN run_facts.output_tokens IS
    'Output tokens of the run''s model steps, as counted by the providers; null if none reports them.';
COMMENT ON COLUMN run_facts.steps IS 'Number of steps of the run.';
COMMENT ON COLUMN run_facts.failed_step_key IS 'The failed step that started first; null if no step is FAILED.';
COMMENT ON COLUMN run_facts.error IS 'Error message of the run, or of that step if the run has none.';
COMMENT ON COLUMN run_facts.parent_run_id IS
    'The run that started this run; the one created first if several name it; null if the warehouse has none.';
COMMENT ON COLUMN run_facts.record_id IS 'Record that the run processed.';
COMMENT ON COLUMN run_facts.collection_id IS 'Collection of the record.';
COMMENT ON COLUMN run_facts.triggered_by_app_id IS 'App from which the run was triggered.';
COMMENT ON COLUMN run_facts.gone_at IS 'When a sync found that the API no longer lists the run; null if the API lists it.';

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
    trim_scale(round(daily.credits, 12)) AS credits
FROM health_days AS daily
LEFT JOIN workflows ON workflows.id = daily.workflow_id;
COMMENT ON VIEW workflow_health_daily IS
    'One row per day and workflow: runs by status, failure rate, durations and credits. Runs with a status that the API added later count in runs, but in no column of a status.';
COMMENT ON COLUMN workflow_health_daily.day IS 'UTC day of the runs'' created_at; null for runs without created_at.';
COMMENT ON COLUMN workflow_health_daily.app_id IS
    'App that the workflow belongs to; if no run names it, an app from which the runs were triggered.';
COMMENT ON COLUMN workflow_health_daily.workflow_id IS 'Workflow that ran.';
COMMENT ON COLUMN workflow_health_daily.workflow_name IS 'Name of the workflow; null if unknown.';
COMMENT ON COLUMN workflow_health_daily.runs IS 'Number of runs created that day, in any status.';
COMMENT ON COLUMN workflow_health_daily.completed IS 'Number of runs that are COMPLETED.';
COMMENT ON COLUMN workflow_health_daily.failed IS 'Number of runs that are FAILED.';
COMMENT ON COLUMN workflow_health_daily.cancelled IS 'Number of runs that are CANCELLED.';
COMMENT ON COLUMN workflow_health_daily.skipped IS 'Number of runs that are SKIPPED.';
COMMENT ON COLUMN workflow_health_daily.open IS 'Number of runs that are PENDING or RUNNING.';
COMMENT ON COLUMN workflow_health_daily.failure_rate IS
    'failed / (completed + failed + cancelled + skipped), 0 to 1; null if no run has ended.';
COMMENT ON COLUMN workflow_health_daily.p50_duration_s IS 'Median of the runs'' duration_s, in seconds.';
COMMENT ON COLUMN workflow_health_daily.p95_duration_s IS '95th percentile of the runs'' duration_s, in seconds.';
COMMENT ON COLUMN workflow_health_daily.credits IS
    'Sum of the runs'' own credits (runs.own_credits); null if the API gave none.';

CREATE VIEW credits_daily AS
SELECT
    daily.day,
    daily.app_id,
    daily.workflow_id,
    workflows.name AS workflow_name,
    daily.origin,
    daily.runs,
    daily.credits,
    daily.credits_with_children
FROM (
    SELECT
        day,
        coalesce(max(workflow_app_id), max(app_id)) AS app_id,
        workflow_id,
        origin,
        sum(runs)::bigint AS runs,
        trim_scale(round(sum(credits), 12)) AS credits,
        trim_scale(round(sum(credits_with_children), 12)) AS credits_with_children
    FROM credit_days
    GROUP BY day, workflow_id, origin
) AS daily
LEFT JOIN workflows ON workflows.id = daily.workflow_id;
COMMENT ON VIEW credits_daily IS
    'One row per day, workflow and origin: runs and credits.';
COMMENT ON COLUMN credits_daily.day IS 'UTC day of the runs'' created_at; null for runs without created_at.';
COMMENT ON COLUMN credits_daily.app_id IS
    'App that the workflow belongs to; if no run names it, an app from which the runs were triggered.';
COMMENT ON COLUMN credits_daily.workflow_id IS 'Workflow that ran.';
COMMENT ON COLUMN credits_daily.workflow_name IS 'Name of the workflow; null if unknown.';
COMMENT ON COLUMN credits_daily.origin IS 'What started the runs.';
COMMENT ON COLUMN credits_daily.runs IS 'Number of runs created that day.';
COMMENT ON COLUMN credits_daily.credits IS
    'Sum of the runs'' own credits (runs.own_credits); null if the API gave none.';
COMMENT ON COLUMN credits_daily.credits_with_children IS
    'Credits of the runs including those of the runs that they started, as given by the API. Do not sum them up: the credits of a child run also count for its parent.';

CREATE VIEW step_performance AS
SELECT
    steps.app_id,
    steps.workflow_id,
    workflows.name AS workflow_name,
    steps.step_key,
    steps.type,
    steps.runs,
    steps.failed,
    steps.failed::double precision / nullif(steps.ended, 0) AS failure_rate,
    durations.spread[1] AS p50_s,
    durations.spread[2] AS p95_s,
    steps.credits
FROM (
    SELECT
        coalesce(max(workflow_app_id), max(app_id)) AS app_id,
        workflow_id,
        step_key,
        (array_agg(type ORDER BY type_at DESC NULLS LAST, type) FILTER (WHERE type IS NOT NULL))[1] AS type,
        sum(runs)::bigint AS runs,
        sum(ended)::bigint AS ended,
        sum(failed)::bigint AS failed,
        array_agg(ROW(durations_s)::duration_list) AS lists,
        trim_scale(round(sum(credits), 12)) AS credits
    FROM step_days
    GROUP BY workflow_id, step_key
) AS steps
LEFT JOIN LATERAL (
    SELECT percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY duration_s) AS spread
    FROM unnest(steps.lists) AS days (durations_s)
    CROSS JOIN LATERAL unnest(days.durations_s) AS duration_s
) AS durations ON true
LEFT JOIN workflows ON workflows.id = steps.workflow_id;
COMMENT ON VIEW step_performance IS
    'One row per workflow and step, over all runs: failures, durations and credits.';
COMMENT ON COLUMN step_performance.app_id IS
    'App that the workflow belongs to; if no run names it, an app from which the runs were triggered.';
COMMENT ON COLUMN step_performance.workflow_id IS 'Workflow of the step.';
COMMENT ON COLUMN step_performance.workflow_name IS 'Name of the workflow; null if unknown.';
COMMENT ON COLUMN step_performance.step_key IS 'Key of the step.';
COMMENT ON COLUMN step_performance.type IS
    'Step type in the latest run with a type; null if only the credits of the step are known.';
COMMENT ON COLUMN step_performance.runs IS 'Number of runs that have the step.';
COMMENT ON COLUMN step_performance.failed IS 'Number of runs in which the step is FAILED.';
COMMENT ON COLUMN step_performance.failure_rate IS
    'failed / runs in which the step is COMPLETED, FAILED, CANCELLED or SKIPPED, 0 to 1; null if there are no such runs.';
COMMENT ON COLUMN step_performance.p50_s IS 'Median of the step''s duration_s, in seconds.';
COMMENT ON COLUMN step_performance.p95_s IS '95th percentile of the step''s duration_s, in seconds.';
COMMENT ON COLUMN step_performance.credits IS
    'Sum of the step''s credits without those of the runs that it started (step_facts.credits); null if the API gave none.';

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
    daily.p50_s,
    daily.p95_s,
    trim_scale(round(daily.credits, 12)) AS credits,
    daily.ended
FROM step_days AS daily
LEFT JOIN workflows ON workflows.id = daily.workflow_id;
COMMENT ON VIEW step_performance_daily IS
    'One row per day, workflow and step: failures, durations and credits. For percentiles over several days, unnest step_days.durations_s.';
COMMENT ON COLUMN step_performance_daily.day IS 'UTC day of the runs'' created_at; null for runs without created_at.';
COMMENT ON COLUMN step_performance_daily.app_id IS
    'App that the workflow belongs to; if no run names it, an app from which the runs were triggered.';
COMMENT ON COLUMN step_performance_daily.workflow_id IS 'Workflow of the step.';
COMMENT ON COLUMN step_performance_daily.workflow_name IS 'Name of the workflow; null if unknown.';
COMMENT ON COLUMN step_performance_daily.step_key IS 'Key of the step.';
COMMENT ON COLUMN step_performance_daily.type IS
    'Step type in the latest run of the day with a type; null if only the credits of the step are known.';
COMMENT ON COLUMN step_performance_daily.runs IS 'Number of runs of the day that have the step.';
COMMENT ON COLUMN step_performance_daily.failed IS 'Number of runs in which the step is FAILED.';
COMMENT ON COLUMN step_performance_daily.failure_rate IS
    'failed / ended, 0 to 1; null if ended is 0.';
COMMENT ON COLUMN step_performance_daily.p50_s IS 'Median of the step''s duration_s, in seconds.';
COMMENT ON COLUMN step_performance_daily.p95_s IS '95th percentile of the step''s duration_s, in seconds.';
COMMENT ON COLUMN step_performance_daily.credits IS
    'Sum of the step''s credits without those of the runs that it started (step_facts.credits); null if the API gave none.';
COMMENT ON COLUMN step_performance_daily.ended IS 'Number of runs in which the step is COMPLETED, FAILED, CANCELLED or SKIPPED.';

CREATE VIEW model_usage_daily AS
SELECT
    daily.day,
    daily.app_id,
    daily.workflow_id,
    workflows.name AS workflow_name,
    daily.provider,
    daily.model,
    daily.calls,
    daily.failed,
    daily.input_tokens,
    daily.output_tokens,
    trim_scale(round(daily.credits, 12)) AS credits
FROM model_days AS daily
LEFT JOIN workflows ON workflows.id = daily.workflow_id;
COMMENT ON VIEW model_usage_daily IS
    'One row per day, workflow and model: calls, failures, tokens and credits. Looped steps without calls are not included. Neither are models that a step that did not loop called as tools; run_step_calls has them.';
COMMENT ON COLUMN model_usage_daily.day IS 'UTC day of the runs'' created_at; null for runs without created_at.';
COMMENT ON COLUMN model_usage_daily.app_id IS
    'App that the workflow belongs to; if no run names it, an app from which the runs were triggered.';
COMMENT ON COLUMN model_usage_daily.workflow_id IS 'Workflow that ran.';
COMMENT ON COLUMN model_usage_daily.workflow_name IS 'Name of the workflow; null if unknown.';
COMMENT ON COLUMN model_usage_daily.provider IS 'Provider of the model; null if the API gave none.';
COMMENT ON COLUMN model_usage_daily.model IS
    'Model; null if the API gave none, such as for a call that failed early.';
COMMENT ON COLUMN model_usage_daily.calls IS
    'Number of model steps; for a step of any type that looped, the number of its calls of type model instead.';
COMMENT ON COLUMN model_usage_daily.failed IS 'Number of those that are FAILED.';
COMMENT ON COLUMN model_usage_daily.input_tokens IS
    'Input tokens, as counted by the provider; null if it does not report them.';
COMMENT ON COLUMN model_usage_daily.output_tokens IS
    'Output tokens, as counted by the provider; null if it does not report them.';
COMMENT ON COLUMN model_usage_daily.credits IS
    'Credits of the model steps without those of the runs that they started. A looped step counts for the model that its calls name, and not at all if they name several, because the API does not split its credits. With those of the other steps, they do not add up to credits_daily: left out are loops that name several models or have no calls, steps of which only the credits are known, and credits of a run that no step has. Null if no credits are left.';

CREATE VIEW recent_failures AS
SELECT
    runs.id AS run_id,
    coalesce(runs.workflow_app_id, runs.app_id) AS app_id,
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
WHERE runs.status = 'FAILED' AND runs.erased_at IS NULL;
COMMENT ON VIEW recent_failures IS
    'One row per failed run that is not erased, with the step that failed first. Latest failures: ORDER BY failed_at DESC LIMIT 20.';
COMMENT ON COLUMN recent_failures.run_id IS 'The failed run.';
COMMENT ON COLUMN recent_failures.app_id IS
    'App that the workflow belongs to; if the run does not name it, the app from which the run was triggered.';
COMMENT ON COLUMN recent_failures.workflow_id IS 'Workflow that ran.';
COMMENT ON COLUMN recent_failures.workflow_name IS 'Name of the workflow; null if unknown.';
COMMENT ON COLUMN recent_failures.failed_at IS 'When the run ended; if that is null, its updated_at or created_at.';
COMMENT ON COLUMN recent_failures.step_key IS 'The failed step that started first; null if no step is FAILED.';
COMMENT ON COLUMN recent_failures.step_type IS 'Type of that step.';
COMMENT ON COLUMN recent_failures.error IS 'Error message of the run, or of that step if the run has none.';
COMMENT ON COLUMN recent_failures.origin IS 'What started the run.';
COMMENT ON COLUMN recent_failures.version IS 'Number of the workflow version that ran.';

CREATE VIEW failure_groups AS
SELECT
    failures.app_id,
    failures.workflow_id,
    workflows.name AS workflow_name,
    failures.step_key,
    failures.message,
    failures.runs,
    failures.first_seen,
    failures.last_seen,
    failures.versions
FROM (
    SELECT
        coalesce(max(workflow_app_id), max(app_id)) AS app_id,
        workflow_id,
        step_key,
        message,
        sum(runs)::bigint AS runs,
        min(first_seen) AS first_seen,
        max(last_seen) AS last_seen,
        coalesce(array_agg(DISTINCT version ORDER BY version) FILTER (WHERE version IS NOT NULL), '{}') AS versions
    FROM failure_days
    GROUP BY workflow_id, step_key, message
) AS failures
LEFT JOIN workflows ON workflows.id = failures.workflow_id;
COMMENT ON VIEW failure_groups IS
    'One row per workflow, step and message: failed runs with the same cause, without erased runs.';
COMMENT ON COLUMN failure_groups.app_id IS
    'App that the workflow belongs to; if no run names it, an app from which the runs were triggered.';
COMMENT ON COLUMN failure_groups.workflow_id IS 'Workflow that ran.';
COMMENT ON COLUMN failure_groups.workflow_name IS 'Name of the workflow; null if unknown.';
COMMENT ON COLUMN failure_groups.step_key IS 'The failed step that started first; null if no step is FAILED.';
COMMENT ON COLUMN failure_groups.message IS
    'Error message of the runs, or of that step if they have none, normalized by failure_message(); null if there is none.';
COMMENT ON COLUMN failure_groups.runs IS 'Number of failed runs.';
COMMENT ON COLUMN failure_groups.first_seen IS 'When the first of the runs failed (see recent_failures.failed_at).';
COMMENT ON COLUMN failure_groups.last_seen IS 'When the last of the runs failed.';
COMMENT ON COLUMN failure_groups.versions IS 'Numbers of the workflow versions that ran, ascending.';

CREATE VIEW open_runs AS
SELECT
    runs.id AS run_id,
    coalesce(runs.workflow_app_id, runs.app_id) AS app_id,
    runs.workflow_id,
    workflows.name AS workflow_name,
    runs.status,
    runs.created_at,
    extract(epoch FROM now() - runs.created_at)::double precision AS age_s,
    runs.last_synced_at
FROM runs
LEFT JOIN workflows ON workflows.id = runs.workflow_id
WHERE runs.status IN ('PENDING', 'RUNNING') AND runs.gone_at IS NULL AND runs.erased_at IS NULL;
COMMENT ON VIEW open_runs IS
    'One row per open run: PENDING or RUNNING when last synced, listed by the API and not erased. Runs with a status that the API added later are not included.';
COMMENT ON COLUMN open_runs.run_id IS 'The open run.';
COMMENT ON COLUMN open_runs.app_id IS
    'App that the workflow belongs to; if the run does not name it, the app from which the run was triggered.';
COMMENT ON COLUMN open_runs.workflow_id IS 'Workflow of the run.';
COMMENT ON COLUMN open_runs.workflow_name IS 'Name of the workflow; null if unknown.';
COMMENT ON COLUMN open_runs.status IS 'PENDING or RUNNING.';
COMMENT ON COLUMN open_runs.created_at IS 'When the run was created.';
COMMENT ON COLUMN open_runs.age_s IS 'Seconds since created_at; null if created_at is null.';
COMMENT ON COLUMN open_runs.last_synced_at IS 'When the content of the row last changed.';

-- Most runs are roots without children and need no recursion. For other roots, the recursion starts at the root, so
-- that a condition on root_run_id or day restricts it to the matching trees.
CREATE VIEW run_tree AS
SELECT
    root.id AS root_run_id,
    root.id AS run_id,
    NULL::text AS parent_run_id,
    NULL::text AS parent_step_key,
    0 AS depth,
    root.status,
    root.own_credits AS credits,
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
    child.own_credits,
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
            OFFSET 0 -- forces a lookup per run instead of a join with the whole table per root
        ) AS children
        WHERE children.run_id <> ALL (tree.line)
    )
    SELECT DISTINCT ON (tree.run_id) tree.run_id, tree.parent_run_id, tree.parent_step_key, tree.depth
    FROM tree
    ORDER BY tree.run_id, tree.depth, tree.parent_run_id, tree.parent_step_key
) AS below
LEFT JOIN runs AS child ON child.id = below.run_id
-- IS TRUE forces a lookup per root; a join would scan the whole table.
WHERE (EXISTS (SELECT FROM child_runs WHERE child_runs.parent_run_id = root.id)) IS TRUE
    AND NOT EXISTS (
        SELECT FROM child_runs WHERE child_runs.run_id = root.id AND child_runs.parent_run_id <> root.id
    );
COMMENT ON VIEW run_tree IS
    'One row per root and run in its tree. A root is a run that no other run in the warehouse started. Its tree contains the root, the runs that it started, the runs that these started, and so on. A run appears once per root. Runs that name each other as started have no root, and appear in no tree.';
COMMENT ON COLUMN run_tree.root_run_id IS 'Root of the tree.';
COMMENT ON COLUMN run_tree.run_id IS 'The run.';
COMMENT ON COLUMN run_tree.parent_run_id IS 'The run that started the run; null for the root.';
COMMENT ON COLUMN run_tree.parent_step_key IS 'The step of the parent that started the run; null for the root.';
COMMENT ON COLUMN run_tree.depth IS 'Level below the root; the root is 0.';
COMMENT ON COLUMN run_tree.status IS 'Status of the run; null if its workflow is not synced.';
COMMENT ON COLUMN run_tree.credits IS
    'Credits of the run without those of the runs that it started (runs.own_credits), exact; null if the API gave none or the workflow is not synced. A run that is in several trees is in the sum of each.';
COMMENT ON COLUMN run_tree.day IS 'UTC day of the root''s created_at. Filter by it to read few trees.';

CREATE VIEW listed_runs AS
SELECT
    id, stream_app_id AS listed_by, workflow_id, status, origin, created_at, updated_at, updated_on_day
FROM runs
WHERE gone_at IS NULL AND stream_app_id IS NOT NULL
UNION ALL
SELECT
    runs.id, listing.app_id, coalesce(runs.listed_under_workflow_id, runs.workflow_id), runs.status, runs.origin, runs.created_at, runs.updated_at,
    runs.updated_on_day
FROM runs
CROSS JOIN LATERAL unnest(runs.also_listed_by) AS listing (app_id)
WHERE runs.also_listed_by IS NOT NULL AND runs.gone_at IS NULL
UNION ALL
SELECT
    id, listed_under_app_id, listed_under_workflow_id, status, origin, created_at, updated_at, updated_on_day
FROM runs
WHERE listed_under_workflow_id IS NOT NULL AND gone_at IS NULL;
COMMENT ON VIEW listed_runs IS 'One row per run that the API lists and app whose listing contains it.';
COMMENT ON COLUMN listed_runs.id IS 'Id of the run (runs.id).';
COMMENT ON COLUMN listed_runs.listed_by IS 'App whose listing contains the run. With workflow_id, it identifies the stream (etl_streams).';
COMMENT ON COLUMN listed_runs.workflow_id IS 'Workflow whose listing contains the run; usually the workflow that ran.';
COMMENT ON COLUMN listed_runs.status IS 'Status of the run, as in runs.status.';
COMMENT ON COLUMN listed_runs.origin IS 'Origin of the run, as in runs.origin.';
COMMENT ON COLUMN listed_runs.created_at IS 'When the run was created.';
COMMENT ON COLUMN listed_runs.updated_at IS 'When the run last changed in the API.';
COMMENT ON COLUMN listed_runs.updated_on_day IS 'True if the API gave updated_at without a time of day.';

CREATE VIEW stream_counts AS
SELECT
    streams.app_id,
    streams.workflow_id,
    listed.runs AS warehouse_count,
    quarantine.runs AS quarantined,
    listed.runs + quarantine.without_copy AS accounted_for
FROM etl_streams AS streams
LEFT JOIN (
    SELECT workflow_id, stream_app_id, sum(listed)::bigint AS runs
    FROM credit_days
    GROUP BY workflow_id, stream_app_id
) AS stored ON stored.workflow_id = streams.workflow_id AND stored.stream_app_id = streams.app_id
CROSS JOIN LATERAL (
    SELECT coalesce(stored.runs, 0) + (
        SELECT count(*) FROM runs
        WHERE coalesce(runs.listed_under_workflow_id, runs.workflow_id) = streams.workflow_id
            AND runs.also_listed_by @> ARRAY[streams.app_id]
            AND runs.gone_at IS NULL
    ) + (
        SELECT count(*) FROM runs
        WHERE runs.listed_under_workflow_id = streams.workflow_id AND runs.listed_under_app_id = streams.app_id
            AND runs.gone_at IS NULL
    ) AS runs
    WHERE streams.listing_status = 'ALL' AND streams.listing_origin = 'ALL'
    UNION ALL
    SELECT (
        SELECT count(*) FROM listed_runs AS runs
        WHERE runs.listed_by = streams.app_id AND runs.workflow_id = streams.workflow_id
            AND streams.listing_status IN ('ALL', runs.status) AND streams.listing_origin IN ('ALL', runs.origin)
    )
    WHERE NOT (streams.listing_status = 'ALL' AND streams.listing_origin = 'ALL')
) AS listed
CROSS JOIN LATERAL (
    SELECT
        count(DISTINCT coalesce(rejects.run_id, encode(rejects.digest, 'hex'))) AS runs,
        count(DISTINCT coalesce(rejects.run_id, encode(rejects.digest, 'hex'))) FILTER (
            WHERE NOT EXISTS (
                SELECT FROM listed_runs AS runs
                WHERE runs.id = rejects.run_id
                    AND runs.listed_by = streams.app_id AND runs.workflow_id = streams.workflow_id
                    AND streams.listing_status IN ('ALL', runs.status) AND streams.listing_origin IN ('ALL', runs.origin)
            )
        ) AS without_copy
    FROM etl_rejects AS rejects
    WHERE rejects.app_id = streams.app_id AND rejects.workflow_id = streams.workflow_id
        AND rejects.resolved_at IS NULL
) AS quarantine;
COMMENT ON VIEW stream_counts IS 'One row per stream: the number of its runs in the warehouse, which sync_health compares with the API.';
COMMENT ON COLUMN stream_counts.app_id IS 'App of the stream.';
COMMENT ON COLUMN stream_counts.workflow_id IS 'Workflow of the stream.';
COMMENT ON COLUMN stream_counts.warehouse_count IS
    'Number of the stream''s runs in the warehouse that are not gone and match the filters of the last sync.';
COMMENT ON COLUMN stream_counts.quarantined IS 'Number of the stream''s quarantined items (unresolved rows of etl_rejects).';
COMMENT ON COLUMN stream_counts.accounted_for IS
    'warehouse_count plus the quarantined runs that are not in the warehouse; equals api_count if the stream is complete.';

CREATE VIEW etl_locks AS
SELECT (classid::bigint << 32) | objid::bigint AS key, pid AS backend_pid
FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
COMMENT ON VIEW etl_locks IS 'One row per advisory lock in this database. Running invocations hold locks for themselves and for their streams.';
COMMENT ON COLUMN etl_locks.key IS
    'lock_key(''sync'', etl_syncs.id::text) of an invocation, lock_key(''stream'', app_id, workflow_id) of a stream.';
COMMENT ON COLUMN etl_locks.backend_pid IS 'Process id of the PostgreSQL session that holds the lock.';

CREATE VIEW live_syncs AS
SELECT syncs.id, syncs.mode, syncs.started_at, syncs.host, syncs.pid, locks.backend_pid
FROM etl_syncs AS syncs
JOIN etl_locks AS locks ON locks.key = lock_key('sync', syncs.id::text)
WHERE syncs.status = 'running';
COMMENT ON VIEW live_syncs IS
    'One row per running invocation, which is a row of etl_syncs whose lock is held; several rows if several processes share the invocation (--join).';
COMMENT ON COLUMN live_syncs.id IS 'Number of the invocation (etl_syncs.id).';
COMMENT ON COLUMN live_syncs.mode IS 'sync, backfill or reconcile.';
COMMENT ON COLUMN live_syncs.started_at IS 'When the invocation started.';
COMMENT ON COLUMN live_syncs.host IS 'Host on which the invocation was started.';
COMMENT ON COLUMN live_syncs.pid IS 'Process id on the host.';
COMMENT ON COLUMN live_syncs.backend_pid IS 'Process id of the PostgreSQL session that holds the lock of the invocation.';

CREATE VIEW sync_history AS
SELECT
    id, mode, started_at, ended_at,
    CASE WHEN status = 'running' AND id NOT IN (SELECT live.id FROM live_syncs AS live) THEN 'interrupted' ELSE status END AS status,
    requests, retries, pages, runs_seen, runs_inserted, runs_updated, runs_unchanged, runs_gone, rejects, error, host, pid, version
FROM etl_syncs;
COMMENT ON VIEW sync_history IS 'The rows of etl_syncs. An invocation whose processes died is shown as interrupted.';
COMMENT ON COLUMN sync_history.id IS 'Number of the invocation, ascending.';
COMMENT ON COLUMN sync_history.mode IS 'sync, backfill or reconcile.';
COMMENT ON COLUMN sync_history.started_at IS 'When the invocation started.';
COMMENT ON COLUMN sync_history.ended_at IS 'When the invocation ended; null while it is running, and if its process died.';
COMMENT ON COLUMN sync_history.status IS 'Like etl_syncs.status; interrupted if the process died without recording a result.';
COMMENT ON COLUMN sync_history.requests IS 'Number of HTTP requests sent, including retries.';
COMMENT ON COLUMN sync_history.retries IS 'Number of retries among them.';
COMMENT ON COLUMN sync_history.pages IS 'Number of pages read.';
COMMENT ON COLUMN sync_history.runs_seen IS 'Number of runs received.';
COMMENT ON COLUMN sync_history.runs_inserted IS 'Number of new runs.';
COMMENT ON COLUMN sync_history.runs_updated IS 'Number of runs whose content had changed.';
COMMENT ON COLUMN sync_history.runs_unchanged IS 'Number of runs whose content had not changed.';
COMMENT ON COLUMN sync_history.runs_gone IS 'Number of runs that the API no longer lists.';
COMMENT ON COLUMN sync_history.rejects IS 'Number of quarantined items (etl_rejects).';
COMMENT ON COLUMN sync_history.error IS 'Message of the error that ended the invocation, or of the first failure; null if there is none.';
COMMENT ON COLUMN sync_history.host IS 'Host on which the invocation ran.';
COMMENT ON COLUMN sync_history.pid IS 'Process id on the host.';
COMMENT ON COLUMN sync_history.version IS 'Version of cortex-etl.';

-- For hints, which users copy into a shell. Equivalent to Python's shlex.quote.
CREATE FUNCTION shell_word(word text) RETURNS text LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN word ~ '^[A-Za-z0-9_@%+=:,./-]+$' THEN word
    ELSE '''' || replace(word, '''', '''"''"''') || ''''
END;
COMMENT ON FUNCTION shell_word IS 'Quotes a word for a POSIX shell if it needs quotes.';

CREATE VIEW sync_health AS
WITH live AS MATERIALIZED (
    SELECT id, backend_pid,
        mode || format(' %s (process %s on %s, since %s)', id, pid, host,
            to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"')) AS name
    FROM live_syncs
),
holders AS MATERIALIZED (
    SELECT
        locks.key,
        coalesce(max(live.name), format('another command (PostgreSQL process %s)', max(locks.backend_pid))) AS name
    FROM etl_locks AS locks
    LEFT JOIN live ON live.backend_pid = locks.backend_pid
    GROUP BY locks.key
),
queued AS MATERIALIZED (
    SELECT app_id, queue.workflow_id, max(live.name) AS name
    FROM etl_queue AS queue
    JOIN live ON live.id = queue.sync_id
    CROSS JOIN LATERAL unnest(queue.app_ids) AS apps (app_id)
    WHERE queue.outcomes IS NULL
    GROUP BY app_id, queue.workflow_id
)
SELECT
    streams.app_id,
    streams.workflow_id,
    workflows.name AS workflow_name,
    health.state,
    CASE
        WHEN health.state = 'retired' THEN NULL
        WHEN health.state = 'loading' AND holder.name IS NOT NULL
            THEN 'Wait for the invocation that loads it. If the number of runs no longer grows, end that process: held_by names it.'
        WHEN health.state IN ('new', 'loading', 'incomplete', 'failing') AND failure.hint IS NOT NULL THEN failure.hint
        WHEN health.state = 'new' THEN 'Run: cortex-etl sync'
        WHEN health.state = 'loading' THEN format('Run: cortex-etl backfill --workflow %s', shell_word(streams.workflow_id))
        WHEN health.state = 'incomplete' THEN format('Run: cortex-etl reconcile --workflow %s', shell_word(streams.workflow_id))
        WHEN health.state = 'failing' THEN format('Run: cortex-etl sync --workflow %s', shell_word(streams.workflow_id))
        WHEN health.state = 'late' THEN 'Run: cortex-etl sync, and schedule it: cortex-etl schedule cron'
        WHEN counts.quarantined > 0 THEN 'Run: cortex-etl rejects list'
        ELSE streams.last_hint
    END AS hint,
    streams.watermark,
    extract(epoch FROM now() - streams.last_synced_at)::double precision AS lag_s,
    streams.last_synced_at,
    streams.last_reconciled_at,
    streams.backfill_done,
    streams.api_count,
    counts.warehouse_count,
    counts.quarantined,
    failure.error AS last_error,
    failure.error_at AS last_error_at,
    CASE health.state
        WHEN 'new' THEN 'no sync has read it yet'
        WHEN 'loading' THEN format('its history is not loaded yet (runs so far: %s)', counts.warehouse_count)
        WHEN 'incomplete' THEN format('the API counts %s run%s, the warehouse has %s',
            streams.api_count, CASE WHEN streams.api_count <> 1 THEN 's' END, counts.accounted_for)
        WHEN 'failing' THEN failure.error
        WHEN 'late' THEN CASE
            WHEN streams.last_succeeded_at IS NULL THEN 'no complete sync yet'
            ELSE format(
                CASE WHEN streams.last_succeeded_at > clock_timestamp()
                    THEN 'its last complete sync is dated %s, in the future' ELSE 'no complete sync since %s' END,
                to_char(streams.last_succeeded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"'))
        END
    END AS blocker,
    holder.name AS held_by,
    streams.last_succeeded_at,
    counts.accounted_for,
    (
        SELECT count(*) FROM listed_runs AS runs
        WHERE runs.listed_by = streams.app_id AND runs.workflow_id = streams.workflow_id
            AND runs.status IN ('PENDING', 'RUNNING')
    ) AS open_runs,
    streams.listing_order
FROM etl_streams AS streams
JOIN stream_counts AS counts ON counts.app_id = streams.app_id AND counts.workflow_id = streams.workflow_id
LEFT JOIN workflows ON workflows.id = streams.workflow_id
LEFT JOIN etl_app_errors AS app ON app.app_id = streams.app_id
    AND app.last_error_at > coalesce(streams.last_synced_at, '-infinity')
LEFT JOIN holders ON holders.key = lock_key('stream', streams.app_id, streams.workflow_id)
LEFT JOIN queued ON queued.app_id = streams.app_id AND queued.workflow_id = streams.workflow_id
CROSS JOIN LATERAL (SELECT coalesce(queued.name, holders.name) AS name) AS holder
CROSS JOIN LATERAL (
    SELECT
        coalesce(app.last_error, streams.last_error) AS error,
        CASE WHEN app.app_id IS NULL THEN streams.last_hint ELSE app.last_hint END AS hint,
        coalesce(app.last_error_at, streams.last_error_at) AS error_at
) AS failure
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN NOT streams.requested THEN 'retired'
        WHEN NOT streams.backfill_done AND streams.backfill_cursor IS NULL AND counts.accounted_for = 0
            AND holder.name IS NULL THEN 'new'
        WHEN NOT streams.backfill_done THEN 'loading'
        WHEN streams.api_count <> counts.accounted_for THEN 'incomplete'
        WHEN failure.error IS NOT NULL THEN 'failing'
        WHEN streams.last_succeeded_at BETWEEN now() - streams.late_after AND clock_timestamp() THEN 'complete'
        ELSE 'late'
    END AS state
) AS health
UNION ALL
SELECT
    app.app_id, '*', NULL, 'failing', coalesce(app.last_hint, 'Run: cortex-etl sync'), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    app.last_error, app.last_error_at, app.last_error, NULL, NULL, NULL, NULL, NULL
FROM etl_app_errors AS app;
COMMENT ON VIEW sync_health IS
    'One row per stream, with its state and counts, and one row per app whose workflows could not be listed completely.';
COMMENT ON COLUMN sync_health.app_id IS 'App of the stream.';
COMMENT ON COLUMN sync_health.workflow_id IS 'Workflow of the stream; * for an app whose workflows could not be listed completely.';
COMMENT ON COLUMN sync_health.workflow_name IS 'Name of the workflow; null if unknown.';
COMMENT ON COLUMN sync_health.state IS
    'The first state that applies: retired (the settings no longer request the stream), new (not synced yet), loading (the history is not loaded completely), incomplete (counts differ), failing (the last sync failed, or the workflows of the app could not be listed), late (no complete sync within etl_streams.late_after), complete.';
COMMENT ON COLUMN sync_health.hint IS 'What to do about the state; null if there is nothing to do.';
COMMENT ON COLUMN sync_health.watermark IS
    'Largest updated_at for which all listed runs up to that time are loaded or quarantined.';
COMMENT ON COLUMN sync_health.lag_s IS 'Seconds since last_synced_at.';
COMMENT ON COLUMN sync_health.last_synced_at IS 'When the last sync of the stream reached the end of its listing.';
COMMENT ON COLUMN sync_health.last_reconciled_at IS 'When all runs listed by the API were last compared with the warehouse.';
COMMENT ON COLUMN sync_health.backfill_done IS 'Whether the whole history has been loaded.';
COMMENT ON COLUMN sync_health.api_count IS
    'Number of runs in the listing according to the API, with the filters of the last sync.';
COMMENT ON COLUMN sync_health.warehouse_count IS
    'Number of the stream''s runs in the warehouse that are not gone and match the filters of the last sync.';
COMMENT ON COLUMN sync_health.quarantined IS 'Number of the stream''s quarantined items (unresolved rows of etl_rejects).';
COMMENT ON COLUMN sync_health.last_error IS 'Message of the last failure; null after a success.';
COMMENT ON COLUMN sync_health.last_error_at IS 'When the last failure occurred.';
COMMENT ON COLUMN sync_health.blocker IS 'Why the stream is not complete; null if it is complete or retired.';
COMMENT ON COLUMN sync_health.held_by IS
    'The running invocation that is syncing the stream or has it in its queue: process, host and start time; null if there is none.';
COMMENT ON COLUMN sync_health.last_succeeded_at IS
    'When a sync of the stream last ended with equal counts in the API and the warehouse.';
COMMENT ON COLUMN sync_health.accounted_for IS
    'warehouse_count plus the quarantined runs that are not in the warehouse; equals api_count if the stream is complete.';
COMMENT ON COLUMN sync_health.open_runs IS 'Number of the stream''s runs that were pending or running when last synced.';
COMMENT ON COLUMN sync_health.listing_order IS
    'Observed order of the listing: created_desc, created_asc, updated_desc, or none, in which case each sync reads the whole listing; null if unknown.';

DO $$
DECLARE
    key record;
BEGIN
    FOR key IN
        SELECT i.indexrelid::regclass AS index_name, i.indrelid::regclass AS table_name
        FROM pg_index AS i
        JOIN pg_class AS c ON c.oid = i.indrelid
        WHERE i.indisprimary AND c.relnamespace = quote_ident(current_schema())::regnamespace
    LOOP
        EXECUTE format('COMMENT ON INDEX %s IS %L', key.index_name, format('A row of %s by its primary key.', key.table_name));
    END LOOP;
END
$$;
