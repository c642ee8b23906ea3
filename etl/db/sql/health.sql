-- name: streams
SELECT * FROM sync_health ORDER BY app_id, workflow_id = '*' DESC, workflow_name, workflow_id

-- name: last_sync
-- The last invocation that did something.
SELECT * FROM sync_history ORDER BY status = 'skipped', id DESC LIMIT 1

-- name: last_success
-- When an invocation last succeeded.
SELECT max(ended_at) FROM etl_syncs WHERE status = 'succeeded' AND ended_at <= clock_timestamp()

-- name: paused_until
-- Until when requests are paused at the API's request (null if they are not paused), and the current time.
SELECT max(paused_until) AS paused_until, now() FROM etl_rate_budgets WHERE paused_until > now()

-- name: oldest_open_run
SELECT id, status, created_at FROM listed_runs
WHERE listed_by = $1 AND workflow_id = $2 AND status IN ('PENDING', 'RUNNING')
ORDER BY created_at NULLS FIRST, id
LIMIT 1

-- name: newest_rejects
SELECT run_id, reason, error FROM etl_rejects
WHERE app_id = $1 AND workflow_id = $2 AND resolved_at IS NULL
ORDER BY id DESC
LIMIT $3

-- name: record_requested
-- Record which streams the settings request. $1 apps and $2 workflows of these streams, $3 time without a complete sync
-- after which a stream is late, $4 apps whose workflows could not be listed completely: their other streams stay
-- unchanged. A row that is locked by a commit is left to the next sync.
WITH asked AS (
    SELECT DISTINCT app_id, workflow_id FROM unnest($1::text[], $2::text[]) AS asked (app_id, workflow_id)
),
added AS (
    INSERT INTO etl_streams (app_id, workflow_id, late_after)
    SELECT app_id, workflow_id, $3 FROM asked
    ON CONFLICT DO NOTHING
),
changed AS (
    SELECT streams.app_id, streams.workflow_id, now_.requested
    FROM etl_streams AS streams
    LEFT JOIN asked ON asked.app_id = streams.app_id AND asked.workflow_id = streams.workflow_id
    CROSS JOIN LATERAL (
        SELECT asked.app_id IS NOT NULL OR (streams.requested AND streams.app_id = ANY ($4::text[])) AS requested
    ) AS now_
    WHERE streams.requested <> now_.requested OR streams.late_after <> $3
    FOR NO KEY UPDATE OF streams SKIP LOCKED
)
UPDATE etl_streams AS streams
SET requested = changed.requested, late_after = $3
FROM changed
WHERE changed.app_id = streams.app_id AND changed.workflow_id = streams.workflow_id

-- name: forget_unread
-- Forget streams that are no longer requested and that no sync has tried to read, such as those of mistyped ids.
DELETE FROM etl_streams WHERE NOT requested AND fence = 0 AND last_error IS NULL

-- name: clear_app_errors
-- Delete the errors of all apps except for $1: these apps have been listed, or the settings no longer name them.
DELETE FROM etl_app_errors WHERE NOT app_id = ANY ($1::text[])

-- name: record_app_error
INSERT INTO etl_app_errors (app_id, last_error, last_hint) VALUES ($1, $2, nullif($3, ''))
ON CONFLICT (app_id) DO UPDATE SET
    last_error = excluded.last_error, last_hint = excluded.last_hint, last_error_at = excluded.last_error_at

-- name: server_limits
-- How many connections the server accepts, and for how many locks its lock table has room.
SELECT
    current_setting('max_connections')::integer,
    current_setting('max_locks_per_transaction')::integer
        * (current_setting('max_connections')::integer + current_setting('max_prepared_transactions')::integer)

-- name: listed
-- What the streams of the settings listed when they were last read: runs, their average size, the largest pages, and
-- how many apps list the same workflow at most.
SELECT
    coalesce(sum(api_count), 0)::bigint AS runs,
    avg(run_bytes)::integer AS run_bytes,
    (SELECT min(page_size) FROM etl_page_sizes) AS page_size,
    (SELECT max(count) FROM (SELECT count(*) FROM etl_streams WHERE requested GROUP BY workflow_id) AS counts)::integer AS apps
FROM etl_streams WHERE requested
