-- name: lease
-- Lease requests from the budget of one API host, or return how long to wait.
--
-- $1 host, $2 egress, $3 requests wanted, $4 requests allowed in a window, $5 seconds of the window and its guard,
-- $6 seconds for which the lease is valid, $7 seconds of a slot.
-- Returns granted (0 to $3) and wait_s (seconds until more can be granted; 0 if any were). No row: unknown host.
--
-- `granted_at` holds the times by which granted requests have been sent at the latest, rounded up to slots to keep the
-- arrays short; `granted` holds their number. An entry counts for $5 seconds from its time, so that only requests more
-- than a window apart can exceed the limit together.
-- The row is locked before the clock is read. Times far in the future (the clock was set back) are reduced, so that they
-- do not block all requests until the clock has caught up: no pause that is asked for is longer than an hour.
WITH budget AS MATERIALIZED (
    SELECT granted_at, granted, paused_until
    FROM etl_rate_budgets
    WHERE host = $1 AND egress = $2
    FOR UPDATE
),
clock AS MATERIALIZED (
    SELECT budget.*, clock_timestamp() AS now FROM budget
),
live AS MATERIALIZED (
    SELECT least(entry.sent_by, clock.now + make_interval(secs => $5::float8)) AS sent_by, entry.requests
    FROM clock, unnest(clock.granted_at, clock.granted) AS entry (sent_by, requests)
    WHERE entry.sent_by + make_interval(secs => $5::float8) > clock.now
),
balance AS MATERIALIZED (
    SELECT
        clock.now,
        to_timestamp(ceil((extract(epoch FROM clock.now) + $6::float8::numeric) / $7::float8::numeric) * $7::float8::numeric) AS sent_by,
        greatest(extract(epoch FROM clock.paused_until - clock.now), 0) AS pause_s,
        greatest($4::bigint - coalesce((SELECT sum(requests) FROM live), 0), 0) AS free,
        coalesce((SELECT extract(epoch FROM min(sent_by) - clock.now) + $5::float8::numeric FROM live), 0) AS free_in_s
    FROM clock
),
decision AS MATERIALIZED (
    SELECT
        balance.*,
        CASE WHEN pause_s > 0 THEN 0 ELSE least($3::bigint, free) END::int AS requests
    FROM balance
),
entries AS MATERIALIZED (
    SELECT sent_by, sum(requests)::int AS requests
    FROM (
        SELECT sent_by, requests FROM live
        UNION ALL
        SELECT sent_by, requests FROM decision WHERE requests > 0
    ) AS entry
    GROUP BY sent_by
)
UPDATE etl_rate_budgets AS budget
SET
    granted_at = coalesce((SELECT array_agg(sent_by ORDER BY sent_by) FROM entries), '{}'),
    granted = coalesce((SELECT array_agg(requests ORDER BY sent_by) FROM entries), '{}'),
    paused_until = CASE
        WHEN decision.pause_s > 0 THEN least(budget.paused_until, decision.now + interval '1 hour')
    END
FROM decision
WHERE budget.host = $1 AND budget.egress = $2
RETURNING
    decision.requests AS granted,
    CASE
        WHEN decision.requests > 0 THEN 0
        WHEN decision.free > 0 THEN decision.pause_s
        ELSE greatest(decision.pause_s, decision.free_in_s)
    END::double precision AS wait_s

-- name: open
-- Create the budget of an API host if it does not exist. Requests that were not counted, because the schema did not
-- exist, count as sent when it was created.
--
-- $1 host, $2 egress, $3 number of these requests.
INSERT INTO etl_rate_budgets (host, egress, granted_at, granted)
SELECT $1, $2, ARRAY[min(applied_at)], ARRAY[$3::integer] FROM etl_migrations
ON CONFLICT (host, egress) DO NOTHING

-- name: pause
-- Pause all requests to an API host; a longer current pause is kept. Record how many were granted before it.
--
-- $1 host, $2 egress, $3 seconds.
INSERT INTO etl_rate_budgets AS budget (host, egress, granted_at, granted, paused_until, paused_at, paused_after)
VALUES ($1, $2, '{}', '{}', clock_timestamp() + make_interval(secs => $3), clock_timestamp(), 0)
ON CONFLICT (host, egress) DO UPDATE SET
    paused_until = greatest(budget.paused_until, excluded.paused_until),
    paused_at = excluded.paused_at,
    paused_after = coalesce((
        SELECT sum(entry.requests)
        FROM unnest(budget.granted_at, budget.granted) AS entry (sent_by, requests)
        WHERE entry.sent_by > excluded.paused_at - interval '1 minute'
    ), 0)
