-- name: fill
-- Queue the streams of an invocation, grouped by workflow. $1 invocation, $2 apps, $3 workflows.
WITH filled AS (UPDATE etl_shared_syncs SET is_queued = true WHERE sync_id = $1)
INSERT INTO etl_queue (sync_id, place, workflow_id, app_ids)
SELECT $1, min(place), workflow_id, array_agg(app_id ORDER BY place)
FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS streams (app_id, workflow_id, place)
GROUP BY workflow_id

-- name: claim
-- Claim the next unclaimed workflow. $1 invocation, $2 this process.
UPDATE etl_queue SET claimed_by = $2
WHERE sync_id = $1 AND place = (
    SELECT place FROM etl_queue
    WHERE sync_id = $1 AND claimed_by IS NULL AND held_since IS NULL
    ORDER BY place
    LIMIT 1
    FOR UPDATE SKIP LOCKED)
RETURNING place, workflow_id, app_ids

-- name: put_back
-- Postpone a claimed workflow, because another invocation holds one of its streams.
UPDATE etl_queue SET claimed_by = NULL, held_since = coalesce(held_since, now())
WHERE sync_id = $1 AND claimed_by = $2 AND place = $3

-- name: unfinished
-- The workflows that are not finished. `held_s`: seconds since another invocation was first found to hold a stream.
SELECT place, workflow_id, app_ids, claimed_by, extract(epoch FROM now() - held_since)::float8 AS held_s
FROM etl_queue
WHERE sync_id = $1 AND outcomes IS NULL
ORDER BY place

-- name: claim_again
-- Claim a workflow whose streams this process has locked: the process that claimed it before is dead or released it.
UPDATE etl_queue SET claimed_by = $2 WHERE sync_id = $1 AND place = $3 AND outcomes IS NULL RETURNING place

-- name: finish
-- Record the outcomes of a workflow's streams, unless another process has claimed the workflow since. $5 requests,
-- $6 retries.
UPDATE etl_queue SET outcomes = $4::text::jsonb, requests = $5, retries = $6
WHERE sync_id = $1 AND claimed_by = $2 AND place = $3
