-- name: last_sent
-- The state sent last under this name (good or bad), and since when it holds.
SELECT value ->> 'state' AS state, value ->> 'since' AS since FROM etl_settings WHERE name = $1

-- name: store
INSERT INTO etl_settings (name, value) VALUES ($1, jsonb_build_object(
    'state', $2::text, 'since', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"')))
ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_at = now()

-- name: late_streams
SELECT count(*) FROM sync_health WHERE state = 'late'
