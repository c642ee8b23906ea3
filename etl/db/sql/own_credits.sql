-- name: note_changes
-- Record what update_own_credits() has to compute after this transaction. Not on Citus, where it cannot.
INSERT INTO etl_changed_credits (run_ids)
SELECT $1::text[] WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')

-- name: update_own_credits
SELECT update_own_credits($1)
