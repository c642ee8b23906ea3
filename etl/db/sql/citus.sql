-- name: count_from_runs
DELETE FROM etl_changed_days;
DELETE FROM rollup_health;
DELETE FROM rollup_credits;
DELETE FROM rollup_steps;
DELETE FROM rollup_models;
DELETE FROM rollup_failures;
CREATE OR REPLACE VIEW etl_uncounted_runs AS
SELECT
    id, workflow_id, (created_at AT TIME ZONE 'UTC')::date AS day, created_at, workflow_app_id, app_id, stream_app_id,
    origin, status, gone_at, duration_s, credits, own_credits, version, error,
    coalesce(ended_at, updated_at, created_at) AS failed_at, erased_at
FROM runs
