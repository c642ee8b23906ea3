-- name: streams
SELECT
    health.*,
    health.last_error IS NOT NULL AS is_failing,
    (SELECT count(*) FROM listed_runs
     WHERE listed_by = health.app_id AND workflow_id = health.workflow_id AND status IN ('PENDING', 'RUNNING')) AS open_runs
FROM sync_health AS health
ORDER BY health.app_id, health.workflow_id

-- name: last_success
-- When an invocation last succeeded for all its streams.
SELECT max(ended_at) FROM etl_syncs WHERE status = 'succeeded'
