-- name: streams
SELECT health.app_id, health.workflow_id, health.workflow_name, health.watermark, health.lag_s, health.last_synced_at,
    health.last_reconciled_at, health.backfill_done, health.api_count, health.warehouse_count, health.quarantined,
    health.last_error, health.last_error_at, health.workflow_gone_at, streams.listing_order, streams.backfill_cursor,
    health.accounted_for,
    (SELECT count(*) FROM listed_runs
     WHERE listed_by = health.app_id AND workflow_id = health.workflow_id AND status IN ('PENDING', 'RUNNING')) AS open_runs
FROM sync_health AS health
JOIN etl_streams AS streams USING (app_id, workflow_id)
ORDER BY health.app_id, health.workflow_name, health.workflow_id

-- name: last_sync
SELECT id, mode, status, started_at, ended_at, requests, retries, pages, runs_seen, runs_inserted, runs_updated,
    runs_unchanged, runs_gone, rejects, streams, streams_failed, error
FROM etl_syncs
ORDER BY id DESC
LIMIT 1

-- name: paused_until
-- Until when nobody sends requests, because the API asked for it; null where all may.
SELECT max(paused_until) FROM etl_rate_budgets WHERE paused_until > now()

-- name: oldest_open_run
SELECT id, status, created_at FROM listed_runs
WHERE listed_by = $1 AND workflow_id = $2 AND status IN ('PENDING', 'RUNNING')
ORDER BY created_at NULLS FIRST, id
LIMIT 1

-- name: rejects
-- The quarantine, newest first; the bytes themselves only on demand.
SELECT id, app_id, workflow_id, run_id, page, reason, error, created_at, resolved_at, NULL::bigint AS bytes, url
FROM etl_rejects
WHERE $1 OR resolved_at IS NULL
ORDER BY id DESC

-- name: may_read_payloads
-- Readers may not (see grants.sql), and PostgreSQL tells them no length either.
SELECT has_column_privilege('etl_rejects', 'payload', 'SELECT')

-- name: reject_sizes
SELECT id, length(payload) AS bytes FROM etl_rejects WHERE id = ANY ($1::bigint[])

-- name: open_payloads
SELECT id, app_id, workflow_id, run_id, url, payload FROM etl_rejects
WHERE resolved_at IS NULL AND ($1::bigint[] IS NULL OR id = ANY ($1::bigint[]))
ORDER BY app_id, workflow_id, id

-- name: resolve_reject
UPDATE etl_rejects SET resolved_at = now() WHERE id = $1 AND resolved_at IS NULL

-- name: still_open
-- The item itself, or what the API's copy of its run has put in its place.
SELECT id, reason, error FROM etl_rejects
WHERE (id = $1 OR (app_id = $2 AND workflow_id = $3 AND run_id = $4)) AND resolved_at IS NULL
