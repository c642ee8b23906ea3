-- name: salt
-- The salt of the hashes of erased ids; null if nothing was ever erased.
SELECT value #>> '{}' FROM etl_settings WHERE name = 'erased_salt'

-- name: create_salt
INSERT INTO etl_settings (name, value) VALUES ('erased_salt', to_jsonb($1::text)) ON CONFLICT DO NOTHING

-- name: wait_for_loads
-- Every load holds this lock in shared mode (see begin_commit). When this statement returns, running loads have ended,
-- and later loads see the recorded hashes.
SELECT pg_advisory_xact_lock(lock_key('erased'))

-- name: loads_under_way
SELECT backend_pid FROM etl_locks
WHERE key = lock_key('erased') AND backend_pid <> pg_backend_pid()

-- name: record_hashes
INSERT INTO etl_erased (kind, hash) SELECT $1, unnest($2::bytea[]) ON CONFLICT DO NOTHING

-- name: known
SELECT hash FROM etl_erased WHERE hash = ANY ($1::bytea[])

-- name: runs_to_erase
SELECT id FROM runs
WHERE (id = ANY ($1::text[]) OR record_id = ANY ($2::text[])) AND erased_at IS NULL
ORDER BY id

-- name: count_to_erase
SELECT count(*) FROM runs
WHERE (id = ANY ($1::text[]) OR record_id = ANY ($2::text[])) AND erased_at IS NULL

-- name: wait_for_rollups
-- A rollup under way may see the run as it was, and insert its error message after it was erased.
LOCK TABLE rollup_failures IN SHARE ROW EXCLUSIVE MODE

-- name: delete_draft
DELETE FROM workflow_versions
WHERE id = $1 AND is_draft
    AND NOT EXISTS (SELECT FROM runs WHERE workflow_draft_id = $1 OR workflow_version_id = $1)

-- name: rejects_of
SELECT id FROM etl_rejects WHERE run_id = ANY ($1::text[]) AND payload <> $2

-- name: payloads_of_rejects
-- A quarantined item has no column for its record: the bytes are searched for the record's id.
SELECT id, payload FROM etl_rejects WHERE payload <> $1 ORDER BY id

-- name: empty_reject
UPDATE etl_rejects SET payload = $2, error = $3 WHERE id = $1
