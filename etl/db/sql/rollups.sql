-- name: note_changes
-- Record the runs that update_own_credits() has to process after this transaction. Citus does not support this.
INSERT INTO etl_changed_credits (run_ids)
SELECT $1::text[] WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')

-- name: update_own_credits
SELECT update_own_credits($1)

-- name: lock_all
-- Prevent other processes from rolling up; false if another process is rolling up.
SELECT pg_try_advisory_lock(lock_key('rollups'))

-- name: unlock_all
SELECT pg_advisory_unlock(lock_key('rollups'))

-- name: due
-- Days whose rollups are out of date, newest first, each with its changed workflows. A large day with few changes is
-- postponed for up to an hour, because otherwise each sync would roll it up; until then, the views compute it from its
-- runs. A day with many changes is divided into $1 parts by workflow.
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
WHERE since NOT BETWEEN now() - interval '1 hour' AND clock_timestamp()
    OR (SELECT coalesce(sum(kept.runs), 0) FROM rollup_health AS kept
        WHERE kept.day = days.day AND kept.workflow_id = ANY (days.workflows)) <= 5000 + 4 * changed
GROUP BY day, CASE WHEN changed > 5000 THEN place % $1 END
ORDER BY day DESC

-- name: wait_for_erasing
-- An erased run must be erased in the snapshot of the rollup, too. LOCK TABLE takes no snapshot.
LOCK TABLE rollup_failures IN ROW EXCLUSIVE MODE

-- name: tune
-- For one transaction. A plan cached while the rollups were small would scan all of them later. JIT compilation takes
-- longer than these statements. Memoize never hits, because each step has its own calls. Sequential and bitmap scans
-- are slower for the few rows that the statement reads by key.
SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true),
    set_config('enable_memoize', 'off', true), set_config('enable_seqscan', 'off', true),
    set_config('enable_bitmapscan', 'off', true)

-- name: roll_up
-- Roll up the changed days $1 of the workflows $2. A single statement has a single snapshot, in which a change and its
-- record in etl_changed_days are either both visible or both invisible. Only visible records are deleted.
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
), drop_failures AS (
    DELETE FROM rollup_failures WHERE day = ANY ($1) AND (day, workflow_id) IN (SELECT day, workflow_id FROM noted)
), count_health AS (
    INSERT INTO rollup_health (
        workflow_id, day, workflow_app_id, app_id, runs, completed, failed, cancelled, skipped, open, p50_duration_s,
        p95_duration_s, credits)
    SELECT
        workflow_id, day, workflow_app_id, app_id, runs, completed, failed, cancelled, skipped, open, p50_duration_s,
        p95_duration_s, credits
    FROM counted_health
    WHERE day = ANY ($1) AND workflow_id = ANY ($2)
), count_credits AS (
    INSERT INTO rollup_credits (
        workflow_id, day, workflow_app_id, app_id, stream_app_id, origin, runs, listed, credits, credits_with_children)
    SELECT
        workflow_id, day, workflow_app_id, app_id, stream_app_id, origin, runs, listed, credits, credits_with_children
    FROM counted_credits
    WHERE day = ANY ($1) AND workflow_id = ANY ($2)
), count_steps AS (
    INSERT INTO rollup_steps (
        workflow_id, day, workflow_app_id, app_id, step_key, type, type_at, runs, ended, failed, p50_s, p95_s, credits,
        durations_s)
    SELECT
        workflow_id, day, workflow_app_id, app_id, step_key, type, type_at, runs, ended, failed, p50_s, p95_s, credits,
        durations_s
    FROM counted_steps
    WHERE day = ANY ($1) AND workflow_id = ANY ($2)
), count_models AS (
    INSERT INTO rollup_models (
        workflow_id, day, workflow_app_id, app_id, provider, model, calls, failed, input_tokens, output_tokens, credits)
    SELECT
        workflow_id, day, workflow_app_id, app_id, provider, model, calls, failed, input_tokens, output_tokens, credits
    FROM counted_models
    WHERE day = ANY ($1) AND workflow_id = ANY ($2)
), count_failures AS (
    INSERT INTO rollup_failures (
        workflow_id, day, workflow_app_id, app_id, step_key, message, version, runs, first_seen, last_seen)
    SELECT
        workflow_id, day, workflow_app_id, app_id, step_key, message, version, runs, first_seen, last_seen
    FROM counted_failures
    WHERE day = ANY ($1) AND workflow_id = ANY ($2)
)
DELETE FROM etl_changed_days WHERE day = ANY ($1) AND workflow_id = ANY ($2)
