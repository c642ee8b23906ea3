-- name: last_sent
-- The state that was last sent under the name $1 (good or bad), and when it began.
SELECT value ->> 'state' AS state, value ->> 'since' AS since FROM etl_settings WHERE name = $1

-- name: store
INSERT INTO etl_settings (name, value) VALUES ($1, jsonb_build_object(
    'state', $2::text, 'since', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"')))
ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_at = now()

-- name: late_streams
SELECT count(*) FROM sync_health WHERE state = 'late'

-- name: rule
-- The state of a rule, and PostgreSQL's time.
SELECT now() AS now, checked_at, found_since, coalesce(firing, false) AS firing
FROM (SELECT $1::text AS name) AS wanted LEFT JOIN etl_alert_rules USING (name)

-- name: store_rule
INSERT INTO etl_alert_rules (name, checked_at, found_since, firing) VALUES ($1, $2, $3, $4)
ON CONFLICT (name) DO UPDATE SET
    checked_at = excluded.checked_at, found_since = excluded.found_since, firing = excluded.firing
