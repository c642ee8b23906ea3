-- name: lock
-- The session holds the lock until it releases the lock or ends.
SELECT pg_try_advisory_lock(lock_key(VARIADIC $1::text[]))

-- name: lock_shared
SELECT pg_try_advisory_lock_shared(lock_key(VARIADIC $1::text[]))

-- name: is_free
-- Whether no session holds the lock exclusively. The transaction, which is this statement, releases it again.
SELECT pg_try_advisory_xact_lock_shared(lock_key(VARIADIC $1::text[]))

-- name: unlock
SELECT pg_advisory_unlock(lock_key(VARIADIC $1::text[]))

-- name: unlock_streams
SELECT pg_advisory_unlock(lock_key('stream', app_id, workflow_id))
FROM unnest($1::text[], $2::text[]) AS streams (app_id, workflow_id)

-- name: unlock_all
SELECT pg_advisory_unlock_all()

-- name: lock_streams
-- Lock the streams of apps $1 and workflows $2 that no other session holds; return their state.
SELECT streams.*, page_size_of(app_id) AS page_size, clock_timestamp() AS read_at FROM lock_streams($1, $2) AS streams

-- name: end_holder
-- Terminate the session that holds an advisory lock, whose connection this process has lost.
SELECT count(pg_terminate_backend(activity.pid))
FROM etl_locks AS locks JOIN pg_stat_activity AS activity ON activity.pid = locks.backend_pid
WHERE locks.key = lock_key(VARIADIC $1::text[]) AND activity.usename = current_user AND activity.pid <> pg_backend_pid()

-- name: read_stream
-- The state of a stream, as returned by `lock_streams`; nulls if it was never read.
SELECT streams.*, page_size_of($1) AS page_size, clock_timestamp() AS read_at
FROM (SELECT) AS asked
LEFT JOIN etl_streams AS streams ON app_id = $1 AND workflow_id = $2

-- name: has_unread_history
SELECT EXISTS (SELECT FROM etl_streams WHERE requested AND NOT backfill_done)

-- name: count_listed
-- The number of listed items of a stream in the warehouse: runs that are not gone, and unresolved quarantined items.
-- `sync_health.accounted_for` is the same number for the filters of the last sync.
SELECT
    (SELECT count(*) FROM listed_runs
     WHERE listed_by = $1 AND workflow_id = $2
       AND ($3 = 'ALL' OR status = $3) AND ($4 = 'ALL' OR origin = $4))
    +
    (SELECT count(DISTINCT coalesce(held.run_id, encode(held.digest, 'hex'))) FROM etl_rejects AS held
     WHERE held.app_id = $1 AND held.workflow_id = $2 AND held.resolved_at IS NULL
       AND NOT EXISTS (
           SELECT FROM listed_runs AS listed
           WHERE listed.id = held.run_id AND listed.listed_by = $1 AND listed.workflow_id = $2
             AND ($3 = 'ALL' OR listed.status = $3) AND ($4 = 'ALL' OR listed.origin = $4)))

-- name: open_runs
-- The open runs of a stream with their status, and the ids, without one, of runs in quarantine because another workflow
-- listed them first, which no longer lists them.
SELECT id, status FROM listed_runs
WHERE listed_by = $1 AND workflow_id = $2 AND status IN ('PENDING', 'RUNNING')
UNION ALL
SELECT DISTINCT runs.id, NULL
FROM etl_rejects AS rejects JOIN runs ON runs.id = rejects.run_id
WHERE rejects.app_id = $1 AND rejects.workflow_id = $2 AND rejects.reason = 'id_taken' AND rejects.resolved_at IS NULL
    AND runs.gone_at IS NOT NULL
ORDER BY id

-- name: requested_workflows
-- The workflows that the settings request.
SELECT DISTINCT workflow_id FROM etl_streams WHERE requested

-- name: open_rejects
SELECT digest, run_id, reason, coalesce(created_at > $3, false) AS recent FROM etl_rejects
WHERE app_id = $1 AND workflow_id = $2 AND resolved_at IS NULL

-- name: drop_rejects
-- Resolve quarantined items that the API no longer lists.
UPDATE etl_rejects SET resolved_at = now()
WHERE app_id = $1 AND workflow_id = $2 AND resolved_at IS NULL AND digest = ANY ($4::bytea[])
  AND EXISTS (SELECT FROM etl_streams WHERE app_id = $1 AND workflow_id = $2 AND fence = $3)

-- name: finish_stream
UPDATE etl_streams
SET watermark = greatest(watermark, $4),
    backfill_done = backfill_done OR $5,
    backfill_cursor = CASE WHEN $5 THEN NULL ELSE backfill_cursor END,
    last_synced_at = now(),
    last_succeeded_at = CASE WHEN $9::text IS NULL THEN now() ELSE last_succeeded_at END,
    last_reconciled_at = coalesce($6, last_reconciled_at),
    api_count = $7,
    counts_at = now(),
    listing_order = coalesce($8, listing_order),
    last_error = $9,
    last_hint = $12,
    last_error_at = CASE WHEN $9::text IS NULL THEN last_error_at ELSE now() END,
    listing_status = $10,
    listing_origin = $11,
    run_bytes = coalesce($13, run_bytes),
    reconcile_began_at = $14,
    reconciled_since = $15
WHERE app_id = $1 AND workflow_id = $2 AND fence = $3
RETURNING fence

-- name: note_count
-- Record the API's count in the last answer of an attempt that failed.
UPDATE etl_streams SET api_count = $4, counts_at = now(), listing_status = $5, listing_origin = $6
WHERE app_id = $1 AND workflow_id = $2 AND fence = $3

-- name: remember_page_size
INSERT INTO etl_page_sizes (app_id, page_size) VALUES ($1, $2)
ON CONFLICT (app_id) DO UPDATE SET page_size = excluded.page_size, tried_at = excluded.tried_at

-- name: compare_again
-- Find succeeded streams whose counts differ now because another stream has loaded some of their runs since. Record
-- them as incomplete, and reset their watermark and the time of their last success. $1 apps, $2 workflows, $3 fencing
-- tokens (streams that another invocation has locked since are skipped), $4 former watermarks, $5 former times of
-- success.
UPDATE etl_streams AS streams
SET watermark = before.watermark,
    last_succeeded_at = before.last_succeeded_at,
    last_error = format('the API counts %s run%s, the warehouse %s',
        streams.api_count, CASE WHEN streams.api_count <> 1 THEN 's' END, counts.accounted_for),
    last_hint = format('Run: cortex-etl reconcile --workflow %s', shell_word(streams.workflow_id)),
    last_error_at = now()
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::timestamptz[])
        AS before (app_id, workflow_id, fence, watermark, last_succeeded_at)
JOIN stream_counts AS counts ON counts.app_id = before.app_id AND counts.workflow_id = before.workflow_id
WHERE streams.app_id = before.app_id AND streams.workflow_id = before.workflow_id AND streams.fence = before.fence
  AND streams.api_count <> counts.accounted_for
RETURNING streams.app_id, streams.workflow_id, counts.accounted_for, streams.last_error, streams.last_hint

-- name: is_committed
-- Whether the transaction $1 was committed; null if it is too old for PostgreSQL to know.
SELECT pg_xact_status($1::text::xid8) = 'committed'

-- name: fail_stream
UPDATE etl_streams SET last_error = $4, last_hint = nullif($5, ''), last_error_at = now()
WHERE app_id = $1 AND workflow_id = $2 AND ($3::bigint IS NULL OR fence = $3)

-- name: count_after
-- The number of listed runs created after $3.
SELECT count(*) FROM listed_runs WHERE listed_by = $1 AND workflow_id = $2 AND created_at > $3

-- name: count_before
SELECT count(*) FROM listed_runs WHERE listed_by = $1 AND workflow_id = $2 AND created_at < $3

-- name: runs_between
-- The listed runs created from $3 to $4, inclusive; null is unbounded.
SELECT id, created_at FROM listed_runs
WHERE listed_by = $1 AND workflow_id = $2
  AND ($3::timestamptz IS NULL OR created_at >= $3::timestamptz) AND ($4::timestamptz IS NULL OR created_at <= $4)

-- name: left_to_reconcile
-- Count the listed runs created before $3 (all if it is null), and those without a creation time.
SELECT
    count(*) FILTER (WHERE (created_at >= $3::timestamptz) IS NOT TRUE AND created_at IS NOT NULL) AS "left",
    count(*) FILTER (WHERE created_at IS NULL) AS undated
FROM listed_runs WHERE listed_by = $1 AND workflow_id = $2

-- name: slice_start
-- Return the creation time of the run with number $4, counted from 0, among the runs created before $3 (all if it is
-- null), newest first.
SELECT created_at FROM listed_runs
WHERE listed_by = $1 AND workflow_id = $2 AND ($3::timestamptz IS NULL OR created_at < $3)
ORDER BY created_at DESC
OFFSET $4 LIMIT 1

-- name: start_sync
INSERT INTO etl_syncs (mode, status, host, pid, version) VALUES ($1, 'running', $2, $3, $4)
RETURNING id, started_at, host, pid, version

-- name: finish_sync
WITH done AS (
    DELETE FROM etl_queue
    WHERE sync_id = $1 AND NOT EXISTS (SELECT FROM etl_shared_syncs WHERE sync_id = $1)
)
UPDATE etl_syncs
SET status = $2, ended_at = now(), requests = $3, retries = $4, pages = $5, runs_seen = $6, runs_inserted = $7,
    runs_updated = $8, runs_unchanged = $9, runs_gone = $10, rejects = $11, error = $12
WHERE id = $1
RETURNING ended_at

-- name: unclosed_syncs
-- Other invocations that are recorded as running or have shared state; their processes may be dead.
SELECT id FROM etl_syncs WHERE status = 'running' AND id <> $1
UNION SELECT sync_id FROM etl_shared_syncs WHERE sync_id <> $1

-- name: close_sync
-- Close an invocation whose processes are all dead.
WITH queue AS (DELETE FROM etl_queue WHERE sync_id = $1),
shared AS (DELETE FROM etl_shared_syncs WHERE sync_id = $1)
UPDATE etl_syncs
SET status = 'interrupted', ended_at = now(), error = coalesce(error, 'the process exited without recording a result')
WHERE id = $1 AND status = 'running'

-- name: has_bare_days
SELECT EXISTS (
    SELECT FROM listed_runs WHERE listed_by = $1 AND workflow_id = $2 AND updated_on_day)

-- name: streams_with_due_payloads
SELECT DISTINCT coalesce(listed_under_app_id, stream_app_id), coalesce(listed_under_workflow_id, workflow_id) FROM runs
WHERE retention_due_at <= now() AND payload_removed_at IS NULL
  AND coalesce(listed_under_app_id, stream_app_id) IS NOT NULL AND workflow_id IS NOT NULL
  AND NOT (status = 'FAILED' AND coalesce(retention_preserve_on_failure, false))

-- name: due_payloads
-- Remove the run payloads of a stream whose retention has expired; return the ids of the runs.
UPDATE runs SET input = NULL, result = NULL, payload_removed_at = now()
WHERE (stream_app_id = $1 AND workflow_id = $2 OR listed_under_app_id = $1 AND listed_under_workflow_id = $2)
  AND retention_due_at <= now() AND payload_removed_at IS NULL
  AND EXISTS (SELECT FROM etl_streams WHERE app_id = $1 AND etl_streams.workflow_id = $2 AND fence = $3)
  AND NOT (status = 'FAILED' AND coalesce(retention_preserve_on_failure, false))
RETURNING id

-- name: remove_payloads
-- Fields without a column are payloads too; of `extra`, only values that their columns cannot hold are kept.
WITH calls AS (
    UPDATE run_step_calls
    SET output = NULL, logs = NULL, extra = (
        SELECT jsonb_object_agg(key, value) FROM jsonb_each(extra) WHERE key IN ('index', 'start', 'end'))
    WHERE run_id = ANY ($1::text[])
)
UPDATE run_steps
SET output = NULL, logs = NULL, extra = (
    SELECT jsonb_object_agg(key, value) FROM jsonb_each(extra) WHERE key IN ('key', 'start', 'end'))
WHERE run_id = ANY ($1::text[])

-- name: rejects_with_retention
SELECT rejects.id, rejects.payload, now(), runs.payload_removed_at IS NOT NULL AS run_is_due
FROM etl_rejects AS rejects
LEFT JOIN runs ON runs.id = rejects.run_id
WHERE rejects.payload <> ''
    AND (runs.payload_removed_at IS NOT NULL OR position('"retention_due_at"'::bytea IN rejects.payload) > 0)

-- name: empty_rejects
UPDATE etl_rejects SET payload = '' WHERE id = ANY ($1::bigint[])

-- name: prune_syncs
-- Keep the invocations of the last 90 days, and at least the last 1000. Rejects are kept without their invocation.
DELETE FROM etl_syncs
WHERE id IN (
    SELECT id FROM etl_syncs
    WHERE started_at < now() - interval '90 days' AND status <> 'running'
        AND id < (SELECT id FROM etl_syncs ORDER BY id DESC OFFSET 999 LIMIT 1)
    ORDER BY id
    LIMIT 10000)

-- name: prune_rejects
-- Delete rejects that were resolved more than 90 days ago.
DELETE FROM etl_rejects
WHERE id IN (SELECT id FROM etl_rejects WHERE resolved_at < now() - interval '90 days' ORDER BY id LIMIT 1000)
