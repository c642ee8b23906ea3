-- name: stored_runs
SELECT id, content_hash FROM runs WHERE gone_at IS NULL

-- name: held_items
SELECT digest FROM etl_rejects WHERE resolved_at IS NULL

-- name: let_time_pass
-- So many hours, for the reconciles of the streams; not so many that one is late, and read at once.
UPDATE etl_streams SET last_reconciled_at = last_reconciled_at - interval '1 hour' * least($1, 25)
