-- name: lock
-- Liveness: held by this session until it ends, however it ends.
SELECT pg_try_advisory_lock(hashtextextended($1, 0))

-- name: lock_shared
SELECT pg_try_advisory_lock_shared(hashtextextended($1, 0))

-- name: unlock
SELECT pg_advisory_unlock(hashtextextended(name, 0)) FROM unnest($1::text[]) AS names (name)

-- name: unlock_all
SELECT pg_advisory_unlock_all()

-- name: take_streams
-- Lock streams, and return the state of those that no other session holds, as it is after they were locked. $1 apps,
-- $2 workflows, $3 names of their locks, $4 names of the locks of their commits.
-- A process that sleeps in the middle of a commit to such a stream keeps rows locked: its session is ended. The new
-- fencing token is for safety: whoever held the stream before can no longer commit to it.
-- A time in the future, written while the clock was ahead, says nothing: a reconcile is due, and any run may be recent.
WITH asked AS MATERIALIZED (
    SELECT app_id, workflow_id, pg_try_advisory_lock(hashtextextended(name, 0)) AS is_locked, hashtextextended(commit_name, 0) AS key
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS asked (app_id, workflow_id, name, commit_name)
),
taken AS MATERIALIZED (
    SELECT asked.app_id, asked.workflow_id, count(pg_terminate_backend(activity.pid))
    FROM asked
    LEFT JOIN (
        pg_locks AS locks
        JOIN pg_stat_activity AS activity ON activity.pid = locks.pid AND activity.datname = current_database()
            AND activity.usename = current_user AND activity.pid <> pg_backend_pid()
    ) ON locks.locktype = 'advisory' AND locks.objsubid = 1
        AND locks.classid::bigint = (asked.key >> 32) & 4294967295 AND locks.objid::bigint = asked.key & 4294967295
    WHERE asked.is_locked
    GROUP BY asked.app_id, asked.workflow_id
)
INSERT INTO etl_streams AS streams (app_id, workflow_id, fence)
SELECT app_id, workflow_id, 1 FROM taken ORDER BY app_id, workflow_id
ON CONFLICT (app_id, workflow_id) DO UPDATE SET fence = streams.fence + 1
RETURNING
    app_id, workflow_id,
    fence, watermark, backfill_done, backfill_cursor,
    CASE WHEN last_synced_at > clock_timestamp() THEN 'epoch' ELSE last_synced_at END AS last_synced_at,
    CASE WHEN last_reconciled_at <= clock_timestamp() THEN last_reconciled_at END AS last_reconciled_at,
    api_count, listing_order, last_succeeded_at, run_bytes,
    (SELECT page_size FROM etl_page_sizes AS known
     WHERE known.app_id = streams.app_id AND known.tried_at > now() - interval '7 days') AS page_size

-- name: end_holder
-- End the session that holds an advisory lock: one whose connection this process lost.
WITH mark AS (SELECT hashtextextended($1, 0) AS key)
SELECT count(pg_terminate_backend(activity.pid))
FROM mark
JOIN pg_locks AS locks ON locks.locktype = 'advisory' AND locks.objsubid = 1
    AND locks.classid::bigint = (mark.key >> 32) & 4294967295 AND locks.objid::bigint = mark.key & 4294967295
JOIN pg_stat_activity AS activity ON activity.pid = locks.pid AND activity.datname = current_database()
WHERE activity.usename = current_user AND activity.pid <> pg_backend_pid()

-- name: read_stream
-- As `take_streams` returns it.
SELECT
    fence, watermark, backfill_done, backfill_cursor,
    CASE WHEN last_synced_at > clock_timestamp() THEN 'epoch' ELSE last_synced_at END AS last_synced_at,
    CASE WHEN last_reconciled_at <= clock_timestamp() THEN last_reconciled_at END AS last_reconciled_at,
    api_count, listing_order, last_succeeded_at, run_bytes,
    (SELECT page_size FROM etl_page_sizes AS known
     WHERE known.app_id = streams.app_id AND known.tried_at > now() - interval '7 days') AS page_size
FROM etl_streams AS streams
WHERE app_id = $1 AND workflow_id = $2

-- name: clock
SELECT now()

-- name: count_listed
-- The warehouse's own count of what the API lists for a stream: runs not gone, plus what the quarantine holds for it.
-- `sync_health.accounted_for` is the same by the filters of the last reading.
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
SELECT id, status FROM listed_runs
WHERE listed_by = $1 AND workflow_id = $2 AND status IN ('PENDING', 'RUNNING')
ORDER BY created_at, id

-- name: requested_workflows
-- The workflows that the settings read.
SELECT DISTINCT workflow_id FROM etl_streams WHERE requested

-- name: open_rejects
SELECT digest, run_id, reason, coalesce(created_at > $3, false) AS recent FROM etl_rejects
WHERE app_id = $1 AND workflow_id = $2 AND resolved_at IS NULL

-- name: drop_rejects
-- Quarantined items that the API no longer lists.
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
    run_bytes = coalesce($13, run_bytes)
WHERE app_id = $1 AND workflow_id = $2 AND fence = $3
RETURNING fence

-- name: remember_page_size
INSERT INTO etl_page_sizes (app_id, page_size) VALUES ($1, $2)
ON CONFLICT (app_id) DO UPDATE SET page_size = excluded.page_size, tried_at = excluded.tried_at

-- name: compare_again
-- Streams that succeeded whose counts differ after all, because what another stream loaded since has moved runs of theirs:
-- they are incomplete, and their watermark and the time of their last success are set back. $1 apps, $2 workflows,
-- $3 fencing tokens (a stream that another invocation has taken since is left to it), $4 watermarks, $5 last successes.
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
-- Whether the transaction $1 was committed; null if it is too old to tell.
SELECT pg_xact_status($1::text::xid8) = 'committed'

-- name: fail_stream
UPDATE etl_streams SET last_error = $4, last_hint = nullif($5, ''), last_error_at = now()
WHERE app_id = $1 AND workflow_id = $2 AND ($3::bigint IS NULL OR fence = $3)

-- name: count_after
-- How many listed runs were created after a moment.
SELECT count(*) FROM listed_runs WHERE listed_by = $1 AND workflow_id = $2 AND created_at > $3

-- name: count_before
SELECT count(*) FROM listed_runs WHERE listed_by = $1 AND workflow_id = $2 AND created_at < $3

-- name: runs_between
-- The listed runs created between two moments, both included; null is open.
SELECT id, created_at FROM listed_runs
WHERE listed_by = $1 AND workflow_id = $2
  AND ($3::timestamptz IS NULL OR created_at >= $3) AND ($4::timestamptz IS NULL OR created_at <= $4)

-- name: create_seen
CREATE TEMPORARY TABLE IF NOT EXISTS seen_runs (pass integer, key text, PRIMARY KEY (pass, key))

-- name: note_seen
-- Note items as met in a pass; returns how many of them were not met before.
WITH fresh AS (
    INSERT INTO pg_temp.seen_runs SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING RETURNING key
)
SELECT count(*) FROM fresh

-- name: forget_seen
DELETE FROM pg_temp.seen_runs WHERE pass = $1

-- name: unseen_runs
-- Runs of a stream (of those created in a window) that a pass over its listing did not meet.
SELECT id FROM listed_runs
WHERE listed_by = $1 AND workflow_id = $2
  AND ($4 = 'ALL' OR status = $4) AND ($5 = 'ALL' OR origin = $5)
  AND ($6::timestamptz IS NULL OR created_at >= $6) AND ($7::timestamptz IS NULL OR created_at < $7)
  AND NOT EXISTS (SELECT FROM pg_temp.seen_runs AS seen WHERE seen.pass = $3 AND seen.key = listed_runs.id)
ORDER BY created_at DESC, id

-- name: unseen_rejects
SELECT digest FROM etl_rejects AS held
WHERE held.app_id = $1 AND held.workflow_id = $2 AND held.resolved_at IS NULL
  AND NOT EXISTS (
      SELECT FROM pg_temp.seen_runs AS seen
      WHERE seen.pass = $3 AND seen.key IN (held.run_id, encode(held.digest, 'hex')))

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
-- Other invocations that are running or have left something, or whose processes died.
SELECT id FROM etl_syncs WHERE status = 'running' AND id <> $1
UNION SELECT sync_id FROM etl_shared_syncs WHERE sync_id <> $1

-- name: close_sync
-- Of an invocation without any process.
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
-- Runs of a stream whose payloads are due to be removed here too.
UPDATE runs SET input = NULL, result = NULL, payload_removed_at = now()
WHERE (stream_app_id = $1 AND workflow_id = $2 OR listed_under_app_id = $1 AND listed_under_workflow_id = $2)
  AND retention_due_at <= now() AND payload_removed_at IS NULL
  AND EXISTS (SELECT FROM etl_streams WHERE app_id = $1 AND etl_streams.workflow_id = $2 AND fence = $3)
  AND NOT (status = 'FAILED' AND coalesce(retention_preserve_on_failure, false))
RETURNING id

-- name: remove_payloads
WITH calls AS (UPDATE run_step_calls SET output = NULL, logs = NULL WHERE run_id = ANY ($1::text[]))
UPDATE run_steps SET output = NULL, logs = NULL WHERE run_id = ANY ($1::text[])

-- name: rejects_with_retention
SELECT rejects.id, rejects.payload, now(), runs.payload_removed_at IS NOT NULL AS run_is_due
FROM etl_rejects AS rejects
LEFT JOIN runs ON runs.id = rejects.run_id
WHERE rejects.payload <> ''
    AND (runs.payload_removed_at IS NOT NULL OR position('"retention_due_at"'::bytea IN rejects.payload) > 0)

-- name: empty_rejects
UPDATE etl_rejects SET payload = '' WHERE id = ANY ($1::bigint[])

-- name: prune_syncs
-- The ledger keeps the last 90 days, and at least the last 1000 invocations; rejects outlive the row they point at.
DELETE FROM etl_syncs
WHERE id IN (
    SELECT id FROM etl_syncs
    WHERE started_at < now() - interval '90 days' AND status <> 'running'
        AND id < (SELECT id FROM etl_syncs ORDER BY id DESC OFFSET 999 LIMIT 1)
    ORDER BY id
    LIMIT 10000)

-- name: prune_rejects
-- What was settled 90 days ago needs no bytes any more.
DELETE FROM etl_rejects
WHERE id IN (SELECT id FROM etl_rejects WHERE resolved_at < now() - interval '90 days' ORDER BY id LIMIT 1000)
