-- name: streams
-- $1 status and $2 origin: the filters of the listing, 'ALL' for none. The counts are of what passes them.
SELECT health.app_id, health.workflow_id, health.workflow_name, health.watermark, health.lag_s, health.last_synced_at,
    health.last_reconciled_at, health.backfill_done, health.api_count, listed.runs AS warehouse_count, health.quarantined,
    health.last_error, health.last_error_at, health.workflow_gone_at, streams.listing_order, streams.backfill_cursor,
    -- A run of which an earlier, good copy is here stands in both counts.
    listed.runs + listed.forgotten + (
        SELECT count(DISTINCT coalesce(held.run_id, encode(held.digest, 'hex'))) FROM etl_rejects AS held
        WHERE held.app_id = health.app_id AND held.workflow_id = health.workflow_id AND held.resolved_at IS NULL
          AND NOT EXISTS (
              SELECT FROM runs
              WHERE runs.id = held.run_id AND runs.gone_at IS NULL
                AND ($1 = 'ALL' OR runs.status = $1) AND ($2 = 'ALL' OR runs.origin = $2))) AS accounted_for,
    (SELECT count(*) FROM runs
     WHERE stream_app_id = health.app_id AND workflow_id = health.workflow_id AND gone_at IS NULL
       AND status IN ('PENDING', 'RUNNING')) AS open_runs
FROM sync_health AS health
JOIN etl_streams AS streams USING (app_id, workflow_id)
CROSS JOIN LATERAL (
    SELECT health.warehouse_count AS runs, health.forgotten
    WHERE $1 = 'ALL' AND $2 = 'ALL'
    UNION ALL
    SELECT
        (SELECT count(*) FROM runs
         WHERE stream_app_id = health.app_id AND workflow_id = health.workflow_id AND gone_at IS NULL
           AND ($1 = 'ALL' OR status = $1) AND ($2 = 'ALL' OR origin = $2)),
        (SELECT count(*) FROM etl_tombstones AS erased
         WHERE erased.kind = 'run' AND erased.app_id = health.app_id AND erased.workflow_id = health.workflow_id
           AND erased.gone_at IS NULL AND ($1 = 'ALL' OR erased.status IS NULL OR erased.status = $1)
           AND ($2 = 'ALL' OR erased.origin IS NULL OR erased.origin = $2))
    WHERE NOT ($1 = 'ALL' AND $2 = 'ALL')
) AS listed
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
SELECT id, status, created_at FROM runs
WHERE stream_app_id = $1 AND workflow_id = $2 AND gone_at IS NULL AND status IN ('PENDING', 'RUNNING')
ORDER BY created_at NULLS FIRST, id
LIMIT 1

-- name: rejects
-- The quarantine, newest first; the bytes themselves only on demand.
SELECT id, app_id, workflow_id, run_id, page, reason, error, created_at, resolved_at, length(payload) AS bytes, url
FROM etl_rejects
WHERE $1 OR resolved_at IS NULL
ORDER BY id DESC

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
