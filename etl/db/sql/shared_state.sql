-- name: lock_name
-- Serialize processes that start or join an invocation at the same time, until the transaction ends.
SELECT pg_advisory_xact_lock(lock_key('join', $1))

-- name: running
-- The last invocation with the name $1, if it is running.
SELECT id, started_at, host, pid, version, terms
FROM (
    SELECT syncs.id, syncs.started_at, syncs.host, syncs.pid, syncs.version, syncs.status, shared.terms
    FROM etl_shared_syncs AS shared JOIN etl_syncs AS syncs ON syncs.id = shared.sync_id
    WHERE shared.name = $1
    ORDER BY syncs.id DESC
    LIMIT 1
) AS last
WHERE status = 'running'

-- name: add
INSERT INTO etl_shared_syncs (sync_id, name, terms) VALUES ($1, $2, $3::text::jsonb)

-- name: read
-- The shared state of the invocation $1. No row if another invocation has closed it.
SELECT shared.terms, shared.is_queued, shared.stop_code, shared.stop_error, shared.stop_hint, shared.summary
FROM etl_shared_syncs AS shared WHERE shared.sync_id = $1

-- name: add_requests
UPDATE etl_shared_syncs SET requests = requests + $2, retries = retries + $3 WHERE sync_id = $1

-- name: queue_ended
-- Record the outcome of an app whose workflows could not be listed. The row cannot be claimed. $2 a negative number,
-- $3 app, $4 outcome.
INSERT INTO etl_queue (sync_id, place, workflow_id, app_ids, claimed_by, outcomes)
VALUES ($1, $2, '*', ARRAY[$3::text], '', $4::text::jsonb)
ON CONFLICT (sync_id, place) DO UPDATE SET app_ids = excluded.app_ids, outcomes = excluded.outcomes

-- name: stop
-- Ask all processes to end with an error; an earlier error is kept.
UPDATE etl_shared_syncs SET stop_code = $2, stop_error = $3, stop_hint = $4 WHERE sync_id = $1 AND stop_code IS NULL

-- name: streams
SELECT app_id, workflow_id FROM etl_queue CROSS JOIN LATERAL unnest(app_ids) AS apps (app_id)
WHERE sync_id = $1 AND place > 0 AND fence IS NULL
ORDER BY place

-- name: unfinished
SELECT place FROM etl_queue WHERE sync_id = $1 AND outcomes IS NULL AND fence IS NULL LIMIT 1

-- name: outcomes
SELECT outcomes, app_ids[1] AS app_id, workflow_id, fence IS NOT NULL AS is_slice
FROM etl_queue WHERE sync_id = $1 AND outcomes IS NOT NULL
ORDER BY place

-- name: requests
-- Requests and retries of all processes.
SELECT shared.requests + coalesce(sum(queue.requests), 0)::bigint AS requests,
    shared.retries + coalesce(sum(queue.retries), 0)::bigint AS retries
FROM etl_shared_syncs AS shared LEFT JOIN etl_queue AS queue ON queue.sync_id = shared.sync_id
WHERE shared.sync_id = $1
GROUP BY shared.sync_id

-- name: end
UPDATE etl_shared_syncs SET summary = $2::text::jsonb WHERE sync_id = $1

-- name: remove
DELETE FROM etl_shared_syncs WHERE sync_id = $1

-- name: tell
-- Send events of a process to the caller. $1 channel, $2 JSON.
SELECT pg_notify($1, $2)
