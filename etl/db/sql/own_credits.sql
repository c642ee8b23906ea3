-- name: note_changes
-- Record the runs that update_own_credits() has to process after this transaction. Citus does not support this.
INSERT INTO etl_changed_credits (run_ids)
SELECT $1::text[] WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')

-- name: update_own_credits
SELECT update_own_credits($1)
