-- name: columns
-- The columns of table $1 and their types, in order of definition.
SELECT attname AS name, format_type(atttypid, NULL) AS type
FROM pg_attribute
WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped
ORDER BY attnum

-- name: months
-- The months in which runs were created (null for runs without created_at), each with a fingerprint that changes
-- whenever a run of the month is added, changed, removed, gone or listed again. The child rows of a run change only
-- with the run.
SELECT
    date_trunc('month', created_at AT TIME ZONE 'UTC') AS month,
    sum(hash_record_extended(
        ROW (
            id, content_hash, stream_app_id, also_listed_by, first_synced_at, last_synced_at, gone_at, payload_removed_at,
            own_credits
        ), 0
    ))::text AS fingerprint
FROM runs
GROUP BY month
ORDER BY month

-- name: month
-- The same fingerprint for runs created at or after $1 and before $2; for runs without created_at if $1 is null.
SELECT
    count(*) AS runs,
    sum(hash_record_extended(
        ROW (
            id, content_hash, stream_app_id, also_listed_by, first_synced_at, last_synced_at, gone_at, payload_removed_at,
            own_credits
        ), 0
    ))::text AS fingerprint
FROM runs
WHERE (created_at >= $1::timestamptz AND created_at < $2::timestamptz)
    OR ($1::timestamptz IS NULL AND created_at IS NULL)
