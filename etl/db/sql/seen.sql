-- name: create
CREATE TEMPORARY TABLE IF NOT EXISTS seen_runs (pass integer, key text, PRIMARY KEY (pass, key))

-- name: note
-- Record items as seen by a pass; return how many of them it had not seen before.
WITH added AS (
    INSERT INTO pg_temp.seen_runs SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING RETURNING key
)
SELECT count(*) AS added FROM added

-- name: forget
DELETE FROM pg_temp.seen_runs WHERE pass = $1

-- name: unseen_runs
-- Listed runs of a stream, created in a window, that a pass did not see.
SELECT id FROM listed_runs
WHERE listed_by = $1 AND workflow_id = $2
  AND ($4 = 'ALL' OR status = $4) AND ($5 = 'ALL' OR origin = $5)
  AND ($6::timestamptz IS NULL OR created_at >= $6) AND ($7::timestamptz IS NULL OR created_at < $7)
  AND NOT EXISTS (SELECT FROM pg_temp.seen_runs AS seen WHERE seen.pass = $3 AND seen.key = listed_runs.id)
ORDER BY created_at DESC, id

-- name: unseen_elsewhere
-- Runs that a pass did not see either, of listings of the same workflow by other apps that are not read any more: their
-- streams are retired, or have failed for a day. At most $8 of them, at random: some may never be gone. `apps` are the
-- apps of these listings.
WITH former AS MATERIALIZED (
    SELECT app_id FROM etl_streams
    WHERE workflow_id = $2 AND app_id <> $1
        AND (requested AND last_synced_at > now() - interval '1 day') IS NOT TRUE
)
SELECT id, array_agg(listed_by) AS apps
FROM listed_runs AS listed
WHERE listed_by IN (SELECT app_id FROM former) AND workflow_id = $2
  AND ($4 = 'ALL' OR status = $4) AND ($5 = 'ALL' OR origin = $5)
  AND ($6::timestamptz IS NULL OR created_at >= $6) AND ($7::timestamptz IS NULL OR created_at < $7)
  AND NOT EXISTS (SELECT FROM pg_temp.seen_runs AS seen WHERE seen.pass = $3 AND seen.key = listed.id)
  AND NOT EXISTS (
      SELECT FROM listed_runs AS other
      WHERE other.id = listed.id AND other.listed_by NOT IN (SELECT app_id FROM former))
GROUP BY id
ORDER BY random()
LIMIT $8

-- name: unseen_rejects
SELECT digest FROM etl_rejects AS held
WHERE held.app_id = $1 AND held.workflow_id = $2 AND held.resolved_at IS NULL
  AND NOT EXISTS (
      SELECT FROM pg_temp.seen_runs AS seen
      WHERE seen.pass = $3 AND seen.key IN (held.run_id, encode(held.digest, 'hex')))
