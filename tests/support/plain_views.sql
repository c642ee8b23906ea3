-- The views, written plainly over the tables: what they must answer at every moment.

CREATE VIEW plain_workflow_health_daily AS
SELECT
    (runs.created_at AT TIME ZONE 'UTC')::date AS day,
    coalesce(max(runs.workflow_app_id), max(runs.app_id)) AS app_id,
    runs.workflow_id,
    (SELECT name FROM workflows WHERE id = runs.workflow_id) AS workflow_name,
    count(*) AS runs,
    count(*) FILTER (WHERE status = 'COMPLETED') AS completed,
    count(*) FILTER (WHERE status = 'FAILED') AS failed,
    count(*) FILTER (WHERE status = 'CANCELLED') AS cancelled,
    count(*) FILTER (WHERE status = 'SKIPPED') AS skipped,
    count(*) FILTER (WHERE status IN ('PENDING', 'RUNNING')) AS open,
    count(*) FILTER (WHERE status = 'FAILED')::double precision
        / nullif(count(*) FILTER (WHERE status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED')), 0) AS failure_rate,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_s) AS p50_duration_s,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_s) AS p95_duration_s,
    round(sum(own_credits), 12) AS credits
FROM runs
GROUP BY day, runs.workflow_id;

CREATE VIEW plain_credits_daily AS
SELECT
    (runs.created_at AT TIME ZONE 'UTC')::date AS day,
    coalesce(max(runs.workflow_app_id), max(runs.app_id)) AS app_id,
    runs.workflow_id,
    (SELECT name FROM workflows WHERE id = runs.workflow_id) AS workflow_name,
    origin,
    count(*) AS runs,
    round(sum(own_credits), 12) AS credits,
    round(sum(credits), 12) AS credits_with_children
FROM runs
GROUP BY day, runs.workflow_id, origin;

CREATE VIEW plain_step_performance AS
SELECT
    coalesce(max(runs.workflow_app_id), max(runs.app_id)) AS app_id,
    runs.workflow_id,
    (SELECT name FROM workflows WHERE id = runs.workflow_id) AS workflow_name,
    steps.step_key,
    (
        SELECT latest.type FROM run_steps AS latest
        JOIN runs AS of_run ON of_run.id = latest.run_id
        WHERE latest.type IS NOT NULL AND latest.step_key = steps.step_key
            AND of_run.workflow_id IS NOT DISTINCT FROM runs.workflow_id
        ORDER BY of_run.created_at DESC NULLS LAST, latest.type
        LIMIT 1
    ) AS type,
    count(*) AS runs,
    count(*) FILTER (WHERE steps.status = 'FAILED') AS failed,
    count(*) FILTER (WHERE steps.status = 'FAILED')::double precision
        / nullif(count(*) FILTER (WHERE steps.status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED')), 0) AS failure_rate,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY steps.duration_s) AS p50_s,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY steps.duration_s) AS p95_s,
    round(sum(CASE WHEN child_credits IS NULL THEN steps.credits ELSE steps.credits - child_credits END), 12) AS credits
FROM run_steps AS steps
JOIN runs ON runs.id = steps.run_id
GROUP BY runs.workflow_id, steps.step_key;

-- Model steps that did not loop, and the model calls of steps that did.
CREATE VIEW plain_model_calls AS
SELECT
    steps.run_id, steps.step_key, steps.provider, steps.model, steps.status, steps.input_tokens, steps.output_tokens,
    steps.credits - coalesce(child_credits, 0) AS credits, false AS of_loop
FROM run_steps AS steps
WHERE steps.type = 'model' AND steps.looped IS NOT TRUE
UNION ALL
SELECT
    calls.run_id, calls.step_key, calls.provider, calls.model, calls.status, calls.input_tokens, calls.output_tokens,
    CASE WHEN steps.type = 'model' THEN steps.credits - coalesce(child_credits, 0) END, true
FROM run_step_calls AS calls
JOIN run_steps AS steps ON steps.run_id = calls.run_id AND steps.step_key = calls.step_key
WHERE steps.looped AND (calls.type = 'model' OR calls.type IS NULL AND steps.type = 'model');

CREATE VIEW plain_model_usage_daily AS
SELECT
    (runs.created_at AT TIME ZONE 'UTC')::date AS day,
    coalesce(max(runs.workflow_app_id), max(runs.app_id)) AS app_id,
    runs.workflow_id,
    (SELECT name FROM workflows WHERE id = runs.workflow_id) AS workflow_name,
    used.provider,
    used.model,
    count(*) AS calls,
    count(*) FILTER (WHERE used.status = 'FAILED') AS failed,
    sum(used.input_tokens) AS input_tokens,
    sum(used.output_tokens) AS output_tokens,
    round(sum(used.credits) FILTER (
        WHERE NOT used.of_loop
            OR used.place = 1 AND (used.models = 1 AND used.model IS NOT NULL OR used.models = 0 AND used.providers = 1)
    ), 12) AS credits
FROM (
    SELECT
        calls.*,
        row_number() OVER (PARTITION BY run_id, step_key, provider, model) AS place,
        (
            SELECT count(DISTINCT (others.provider, others.model)) FROM plain_model_calls AS others
            WHERE others.run_id = calls.run_id AND others.step_key = calls.step_key AND others.model IS NOT NULL
        ) AS models,
        (
            SELECT count(DISTINCT coalesce(others.provider, ''))
            FROM plain_model_calls AS others
            WHERE others.run_id = calls.run_id AND others.step_key = calls.step_key
        ) AS providers
    FROM plain_model_calls AS calls
) AS used
JOIN runs ON runs.id = used.run_id
GROUP BY day, runs.workflow_id, used.provider, used.model;

CREATE VIEW plain_step_facts AS
SELECT
    steps.run_id,
    coalesce(runs.workflow_app_id, runs.app_id) AS app_id,
    runs.workflow_id,
    (SELECT name FROM workflows WHERE id = runs.workflow_id) AS workflow_name,
    runs.version, runs.created_at, steps.step_key, steps.type, steps.status, steps.started_at, steps.duration_s,
    steps.provider, steps.model,
    CASE WHEN steps.looped IS TRUE THEN looped.input_tokens ELSE steps.input_tokens END AS input_tokens,
    CASE WHEN steps.looped IS TRUE THEN looped.output_tokens ELSE steps.output_tokens END AS output_tokens,
    (SELECT count(*) FROM run_step_calls AS c WHERE c.run_id = steps.run_id AND c.step_key = steps.step_key) AS calls,
    CASE WHEN child_credits IS NULL THEN steps.credits ELSE steps.credits - child_credits END AS credits,
    steps.child_run_id, steps.error
FROM run_steps AS steps
JOIN runs ON runs.id = steps.run_id
LEFT JOIN (
    SELECT calls.run_id, calls.step_key, sum(calls.input_tokens) AS input_tokens, sum(calls.output_tokens) AS output_tokens
    FROM run_step_calls AS calls
    JOIN run_steps AS called ON called.run_id = calls.run_id AND called.step_key = calls.step_key
    WHERE calls.type = 'model' OR calls.type IS NULL AND called.type = 'model'
    GROUP BY calls.run_id, calls.step_key
) AS looped ON looped.run_id = steps.run_id AND looped.step_key = steps.step_key;

CREATE VIEW plain_first_failed AS
SELECT DISTINCT ON (run_id) run_id, step_key, type, error
FROM run_steps
WHERE status = 'FAILED'
ORDER BY run_id, started_at, ordinal;

CREATE VIEW plain_run_facts AS
SELECT
    runs.id AS run_id,
    coalesce(runs.workflow_app_id, runs.app_id) AS app_id,
    (SELECT name FROM apps WHERE id = coalesce(runs.workflow_app_id, runs.app_id)) AS app_name,
    runs.workflow_id,
    (SELECT name FROM workflows WHERE id = runs.workflow_id) AS workflow_name,
    runs.version, runs.status, runs.origin, runs.created_at, runs.started_at, runs.ended_at, runs.duration_s,
    runs.own_credits AS credits,
    runs.credits AS credits_with_children,
    sum(steps.input_tokens) AS input_tokens,
    sum(steps.output_tokens) AS output_tokens,
    count(steps.step_key) AS steps,
    failed.step_key AS failed_step_key,
    CASE WHEN runs.error IS NULL THEN failed.error ELSE runs.error END AS error,
    (
        SELECT DISTINCT ON (child_runs.run_id) parent_run_id FROM child_runs, runs AS parents
        WHERE parents.id = parent_run_id AND child_runs.run_id = runs.id AND parents.id <> runs.id
        ORDER BY child_runs.run_id, parents.created_at, parents.id
    ) AS parent_run_id,
    runs.record_id, runs.collection_id, runs.app_id AS triggered_by_app_id, runs.gone_at
FROM runs
LEFT JOIN plain_first_failed AS failed ON failed.run_id = runs.id
LEFT JOIN plain_step_facts AS steps ON steps.run_id = runs.id
GROUP BY runs.id, failed.step_key, failed.error;

CREATE VIEW plain_recent_failures AS
SELECT
    runs.id AS run_id,
    coalesce(runs.workflow_app_id, runs.app_id) AS app_id,
    runs.workflow_id,
    (SELECT name FROM workflows WHERE id = runs.workflow_id) AS workflow_name,
    CASE WHEN ended_at IS NOT NULL THEN ended_at WHEN updated_at IS NOT NULL THEN updated_at ELSE created_at END AS failed_at,
    failed.step_key,
    failed.type AS step_type,
    CASE WHEN runs.error IS NULL THEN failed.error ELSE runs.error END AS error,
    runs.origin,
    runs.version
FROM runs
LEFT JOIN plain_first_failed AS failed ON failed.run_id = runs.id
WHERE runs.status = 'FAILED' AND runs.erased_at IS NULL;

CREATE VIEW plain_failure_groups AS
SELECT
    (
        SELECT coalesce(max(runs.workflow_app_id), max(runs.app_id)) FROM runs WHERE runs.id = ANY (array_agg(run_id))
    ) AS app_id,
    workflow_id, workflow_name, step_key,
    failure_message(error) AS message,
    count(*) AS runs,
    min(failed_at) AS first_seen,
    max(failed_at) AS last_seen,
    ARRAY(SELECT DISTINCT unnest(array_agg(version)) AS version EXCEPT SELECT NULL ORDER BY version) AS versions
FROM plain_recent_failures
GROUP BY workflow_id, workflow_name, step_key, message;

CREATE VIEW plain_open_runs AS
SELECT
    id AS run_id,
    coalesce(workflow_app_id, app_id) AS app_id,
    workflow_id,
    (SELECT name FROM workflows WHERE id = runs.workflow_id) AS workflow_name,
    status,
    created_at,
    extract(epoch FROM now())::double precision - extract(epoch FROM created_at)::double precision AS age_s,
    last_synced_at
FROM runs
WHERE status = ANY ('{PENDING,RUNNING}') AND gone_at IS NULL AND erased_at IS NULL;

CREATE VIEW plain_run_tree AS
WITH RECURSIVE walk AS (
    SELECT id AS root_run_id, id AS run_id, NULL::text AS parent_run_id, NULL::text AS parent_step_key, 0 AS depth, ARRAY[id] AS line
    FROM runs
    WHERE id NOT IN (SELECT run_id FROM child_runs WHERE parent_run_id <> run_id)
    UNION ALL
    SELECT root_run_id, below.run_id, below.parent_run_id, below.parent_step_key, depth + 1, line || below.run_id
    FROM walk
    JOIN child_runs AS below ON below.parent_run_id = walk.run_id
    WHERE below.run_id <> ALL (line)
)
SELECT DISTINCT ON (root_run_id, run_id)
    root_run_id, run_id, parent_run_id, parent_step_key, depth, runs.status, runs.own_credits AS credits
FROM walk
LEFT JOIN runs ON runs.id = walk.run_id
ORDER BY root_run_id, run_id, depth, parent_run_id, parent_step_key;

-- What runs.own_credits must be, except where the run was erased.
CREATE VIEW plain_own_credits AS
WITH namings AS (
    SELECT
        child.credits, named.parent_run_id AS run_id, named.parent_step_key AS step_key,
        row_number() OVER (PARTITION BY child.id ORDER BY parent.created_at, parent.id, steps.ordinal) AS place
    FROM child_runs AS named
    JOIN runs AS child ON child.id = named.run_id
    JOIN runs AS parent ON parent.id = named.parent_run_id
    JOIN run_steps AS steps ON steps.run_id = named.parent_run_id AND steps.step_key = named.parent_step_key
), of_steps AS (
    SELECT steps.run_id, CASE WHEN steps.credits < sum(namings.credits) THEN steps.credits ELSE sum(namings.credits) END AS credits
    FROM namings
    JOIN run_steps AS steps ON steps.run_id = namings.run_id AND steps.step_key = namings.step_key
    WHERE place = 1 AND steps.credits IS NOT NULL
    GROUP BY steps.run_id, steps.step_key, steps.credits
)
SELECT
    id AS run_id,
    credits - (SELECT coalesce(sum(of_steps.credits), 0) FROM of_steps WHERE of_steps.run_id = runs.id) AS own_credits
FROM runs
WHERE erased_at IS NULL;

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
