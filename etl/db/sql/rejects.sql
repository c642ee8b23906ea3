-- name: rejects
-- The quarantine without payloads, newest first.
SELECT id, app_id, workflow_id, run_id, page, reason, error, created_at, resolved_at, bytes, url
FROM etl_rejects
WHERE $1 OR resolved_at IS NULL
ORDER BY id DESC

-- name: open_payloads
SELECT id, app_id, workflow_id, run_id, url, payload, digest FROM etl_rejects
WHERE resolved_at IS NULL AND ($1::bigint[] IS NULL OR id = ANY ($1::bigint[]))
ORDER BY app_id, workflow_id, id

-- name: resolve_reject
UPDATE etl_rejects SET resolved_at = now() WHERE id = $1 AND resolved_at IS NULL

-- name: still_open
-- The item $1, or the item by which a newer copy of the same run has replaced it, if it is unresolved.
SELECT id, reason, error FROM etl_rejects
WHERE (id = $1 OR (app_id = $2 AND workflow_id = $3 AND run_id = $4)) AND resolved_at IS NULL
