-- name: take_turns
-- One process at a time; who finds another at it leaves the work to it.
SELECT pg_try_advisory_lock(hashtextextended('cortex-etl rollups ' || current_schema(), 0))

-- name: give_turn
SELECT pg_advisory_unlock(hashtextextended('cortex-etl rollups ' || current_schema(), 0))

-- name: due
-- Days whose rollups do not hold, the newest first, each with its workflows that are noted. One of many runs of which few
-- have changed can wait for an hour: it would be counted at each sync, and the views count it meanwhile from its runs.
-- A day of which much has changed comes in $1 shares of its workflows.
WITH days AS (
    SELECT day, array_agg(workflow_id ORDER BY runs DESC, workflow_id) AS workflows, sum(runs) AS changed,
        min(noted_at) AS since
    FROM (
        SELECT day, workflow_id, sum(runs) AS runs, min(noted_at) AS noted_at
        FROM etl_changed_days
        GROUP BY day, workflow_id
    ) AS noted
    GROUP BY day
)
SELECT ARRAY[day] AS days, array_agg(share.workflow_id ORDER BY place) AS workflows
FROM days
CROSS JOIN LATERAL unnest(workflows) WITH ORDINALITY AS share (workflow_id, place)
WHERE since < now() - interval '1 hour'
    OR (SELECT coalesce(sum(kept.runs), 0) FROM rollup_health AS kept
        WHERE kept.day = days.day AND kept.workflow_id = ANY (days.workflows)) <= 5000 + 4 * changed
GROUP BY day, CASE WHEN changed > 5000 THEN place % $1 END
ORDER BY day DESC

-- name: join_in
-- Beside other streams of this or another process, and not while one counts all days: see take_turns.
SELECT pg_try_advisory_lock_shared(hashtextextended('cortex-etl rollups ' || current_schema(), 0))

-- name: leave
SELECT pg_advisory_unlock_shared(hashtextextended('cortex-etl rollups ' || current_schema(), 0))

-- name: due_of_workflow
-- The same of one workflow ($1), the newest days first: as many at once as have about 5,000 changed runs together.
WITH days AS (
    SELECT day, sum(runs) AS changed, min(noted_at) AS since
    FROM etl_changed_days
    WHERE workflow_id = $1
    GROUP BY day
), due AS (
    SELECT day, sum(changed) OVER (ORDER BY day DESC) AS so_far
    FROM days
    WHERE since < now() - interval '1 hour'
        OR (SELECT coalesce(sum(kept.runs), 0) FROM rollup_health AS kept
            WHERE kept.day = days.day AND kept.workflow_id = $1) <= 5000 + 4 * changed
)
SELECT array_agg(day) AS days, ARRAY[$1] AS workflows
FROM due
GROUP BY div(so_far, 5000)
ORDER BY max(day) DESC

-- name: tune
-- For one transaction: a plan made while the rollups were small would read all of them later, compiling costs more than
-- these statements take, and no two steps are alike in what their calls are looked up by, to remember the answer. What is
-- counted is few rows by their keys: reading whole tables for them, or collecting their places first, takes longer.
SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true),
    set_config('enable_memoize', 'off', true), set_config('enable_seqscan', 'off', true),
    set_config('enable_bitmapscan', 'off', true)

-- name: count
-- Counts noted days ($1) of workflows ($2) anew. Being one statement, it sees one picture: a note exactly where it sees the
-- change. The notes in that picture go with it, those made meanwhile stay.
WITH noted AS (
    SELECT day, workflow_id FROM etl_changed_days WHERE day = ANY ($1) AND workflow_id = ANY ($2)
), drop_health AS (
    DELETE FROM rollup_health WHERE day = ANY ($1) AND (day, workflow_id) IN (SELECT day, workflow_id FROM noted)
), drop_credits AS (
    DELETE FROM rollup_credits WHERE day = ANY ($1) AND (day, workflow_id) IN (SELECT day, workflow_id FROM noted)
), drop_steps AS (
    DELETE FROM rollup_steps WHERE day = ANY ($1) AND (day, workflow_id) IN (SELECT day, workflow_id FROM noted)
), drop_models AS (
    DELETE FROM rollup_models WHERE day = ANY ($1) AND (day, workflow_id) IN (SELECT day, workflow_id FROM noted)
), count_health AS (
    INSERT INTO rollup_health (
        workflow_id, day, app_id, runs, completed, failed, cancelled, skipped, open, p50_duration_s, p95_duration_s,
        credits)
    SELECT
        workflow_id, day, app_id, runs, completed, failed, cancelled, skipped, open, p50_duration_s, p95_duration_s,
        credits
    FROM counted_health
    WHERE day = ANY ($1) AND workflow_id = ANY ($2)
), count_credits AS (
    INSERT INTO rollup_credits (workflow_id, day, app_id, stream_app_id, origin, runs, listed, credits)
    SELECT workflow_id, day, app_id, stream_app_id, origin, runs, listed, credits
    FROM counted_credits
    WHERE day = ANY ($1) AND workflow_id = ANY ($2)
), count_steps AS (
    INSERT INTO rollup_steps (
        workflow_id, day, app_id, step_key, type, runs, ended, failed, p50_s, p95_s, credits, durations_s)
    SELECT workflow_id, day, app_id, step_key, type, runs, ended, failed, p50_s, p95_s, credits, durations_s
    FROM counted_steps
    WHERE day = ANY ($1) AND workflow_id = ANY ($2)
), count_models AS (
    INSERT INTO rollup_models (workflow_id, day, provider, model, calls, failed, credits)
    SELECT workflow_id, day, provider, model, calls, failed, credits
    FROM counted_models
    WHERE day = ANY ($1) AND workflow_id = ANY ($2)
)
DELETE FROM etl_changed_days WHERE day = ANY ($1) AND workflow_id = ANY ($2)
