-- name: fill
-- Queue the streams of an invocation, grouped by workflow. $1 invocation, $2 apps, $3 workflows.
WITH filled AS (UPDATE etl_shared_syncs SET is_queued = true WHERE sync_id = $1)
INSERT INTO etl_queue (sync_id, place, workflow_id, app_ids)
SELECT $1, min(place), workflow_id, array_agg(app_id ORDER BY place)
FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS streams (app_id, workflow_id, place)
GROUP BY workflow_id

-- name: claim
-- Claim the next unclaimed workflow, and lock those of its streams that no other session holds. $1 invocation, $2 this
-- process. Returns the unit, and the state of each locked stream; a row without a stream if none could be locked.
WITH unit AS (
    UPDATE etl_queue SET claimed_by = $2
    WHERE sync_id = $1 AND place = (
        SELECT place FROM etl_queue
        WHERE sync_id = $1 AND claimed_by IS NULL AND held_since IS NULL AND fence IS NULL
        ORDER BY place
        LIMIT 1
        FOR UPDATE SKIP LOCKED)
    RETURNING place, workflow_id, app_ids
)
SELECT
    unit.place, unit.workflow_id AS queued_workflow_id, unit.app_ids,
    streams.*, page_size_of(streams.app_id) AS page_size, clock_timestamp() AS read_at
FROM unit
LEFT JOIN lock_streams(unit.app_ids, array_fill(unit.workflow_id, ARRAY[cardinality(unit.app_ids)])) AS streams ON true

-- name: put_back
-- Postpone a claimed workflow, because another invocation holds one of its streams.
UPDATE etl_queue SET claimed_by = NULL, held_since = coalesce(held_since, now())
WHERE sync_id = $1 AND claimed_by = $2 AND place = $3

-- name: unfinished
-- The workflows that are not finished. `held_s`: seconds since another invocation was first found to hold a stream.
SELECT place, workflow_id, app_ids, claimed_by, extract(epoch FROM now() - held_since)::float8 AS held_s
FROM etl_queue
WHERE sync_id = $1 AND outcomes IS NULL AND fence IS NULL
ORDER BY place

-- name: claim_again
-- Claim a workflow whose streams this process has locked: the process that claimed it before is dead or released it.
UPDATE etl_queue SET claimed_by = $2 WHERE sync_id = $1 AND place = $3 AND outcomes IS NULL RETURNING place

-- name: finish
-- Record the outcomes of a workflow's streams, or the outcome of a slice, unless another process has claimed it since.
-- $5 requests, $6 retries; $7 apps and $8 workflows of the streams to unlock.
WITH finished AS (
    UPDATE etl_queue SET outcomes = $4::text::jsonb, requests = requests + $5, retries = retries + $6
    WHERE sync_id = $1 AND claimed_by = $2 AND place = $3
)
SELECT pg_advisory_unlock(lock_key('stream', app_id, workflow_id))
FROM unnest($7::text[], $8::text[]) AS streams (app_id, workflow_id)

-- name: requeue
-- Queue finished workflows again whose runs are in quarantine only because another workflow listed the id first, which
-- no longer lists it.
UPDATE etl_queue SET claimed_by = NULL, held_since = NULL, outcomes = NULL
WHERE sync_id = $1 AND outcomes IS NOT NULL AND fence IS NULL AND workflow_id IN (
    SELECT rejects.workflow_id
    FROM etl_rejects AS rejects JOIN runs ON runs.id = rejects.run_id
    WHERE rejects.reason = 'id_taken' AND rejects.resolved_at IS NULL AND runs.gone_at IS NOT NULL)
RETURNING place

-- name: add_slices
-- Queue the slices of the stream of app $2 and workflow $3. $4 fencing token.
INSERT INTO etl_queue (sync_id, place, workflow_id, app_ids, fence, since, until)
SELECT $1, (SELECT max(place) FROM etl_queue WHERE sync_id = $1) + number, $3, ARRAY[$2::text], $4, since, until
FROM unnest($5::timestamptz[], $6::timestamptz[]) WITH ORDINALITY AS slices (since, until, number)

-- name: adopt_slices
-- Take over the slices of a stream that a former owner has queued: replace their fencing token, and release those that
-- are not finished.
UPDATE etl_queue SET fence = $4, claimed_by = CASE WHEN outcomes IS NOT NULL THEN claimed_by END
WHERE sync_id = $1 AND app_ids = ARRAY[$2::text] AND workflow_id = $3 AND fence IS NOT NULL
RETURNING (SELECT started_at FROM etl_syncs WHERE id = $1)

-- name: claim_slice
-- Claim the next slice, of any stream if $2 is null.
UPDATE etl_queue SET claimed_by = $5
WHERE sync_id = $1 AND place = (
    SELECT place FROM etl_queue
    WHERE sync_id = $1 AND claimed_by IS NULL AND held_since IS NULL AND outcomes IS NULL AND fence IS NOT NULL
        AND ($2::text IS NULL OR app_ids = ARRAY[$2] AND workflow_id = $3 AND fence = $4)
    ORDER BY place
    LIMIT 1
    FOR UPDATE SKIP LOCKED)
RETURNING place, workflow_id, app_ids, fence, since, until

-- name: slices
SELECT since, until, claimed_by, outcomes FROM etl_queue
WHERE sync_id = $1 AND app_ids = ARRAY[$2::text] AND workflow_id = $3 AND fence = $4
ORDER BY place

-- name: free_slices
-- Release the unfinished slices that a process has claimed, except for one that a commit has locked.
UPDATE etl_queue SET claimed_by = NULL
WHERE sync_id = $1 AND place = ANY (ARRAY(
    SELECT place FROM etl_queue
    WHERE sync_id = $1 AND claimed_by = $2 AND fence IS NOT NULL AND outcomes IS NULL AND ($3::integer IS NULL OR place = $3)
    FOR UPDATE SKIP LOCKED))

-- name: void_slices
-- Finish all unfinished slices of a stream, because one process reads the whole stream: processes that read the
-- slices can no longer commit.
UPDATE etl_queue SET claimed_by = coalesce(claimed_by, ''), outcomes = $5::text::jsonb
WHERE sync_id = $1 AND app_ids = ARRAY[$2::text] AND workflow_id = $3 AND fence = $4 AND outcomes IS NULL
