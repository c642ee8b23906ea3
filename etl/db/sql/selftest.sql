-- name: stored_runs
SELECT id, content_hash FROM runs WHERE gone_at IS NULL

-- name: held_items
SELECT digest FROM etl_rejects WHERE resolved_at IS NULL
