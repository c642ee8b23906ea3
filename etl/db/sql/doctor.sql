-- name: server
-- Version, role and database of the server; and whether it is a standby, which takes no writes.
SELECT current_setting('server_version')          AS version,
       current_user                               AS role,
       current_database()                         AS database,
       pg_is_in_recovery()                        AS is_standby,
       current_setting('default_transaction_read_only')::boolean                 AS is_read_only,
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user)          AS connections,
       has_database_privilege(current_database(), 'TEMP')   AS may_temp,
       has_database_privilege(current_database(), 'CREATE') AS may_create;

-- name: schema
-- Rights on the schema $1; no row where there is no such schema.
SELECT has_schema_privilege(n.oid, 'USAGE')  AS may_use,
       has_schema_privilege(n.oid, 'CREATE') AS may_create,
       pg_get_userbyid(n.nspowner)           AS owner
FROM pg_namespace n
WHERE n.nspname = $1;

-- name: tables
-- Tables and views of the schema $1 on which the role lacks a right that loading needs.
SELECT c.relname AS name
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN unnest(CASE WHEN c.relkind = 'v' THEN '{SELECT}'::text[] ELSE '{SELECT,INSERT,UPDATE,DELETE}' END) AS needed (r)
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v') AND NOT has_table_privilege(c.oid, needed.r)
GROUP BY c.relname
ORDER BY c.relname;

-- name: newest
-- When the latest change of each stream's listed runs was.
SELECT listed_by AS app_id, workflow_id, max(updated_at) AS newest
FROM listed_runs
GROUP BY 1, 2;

-- name: locks
-- Sessions that hold the lock of a running invocation; stale: PostgreSQL has heard nothing of it for ten minutes.
SELECT
    locks.pid,
    syncs.id                                              AS sync_id,
    syncs.host,
    syncs.pid                                             AS process,
    activity.state_change                                 AS silent_since,
    activity.state_change < now() - interval '10 minutes' AS is_stale
FROM etl_syncs AS syncs
JOIN pg_locks AS locks
    ON locks.locktype = 'advisory' AND locks.granted
    AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (locks.classid::bigint << 32) | locks.objid::bigint = hashtextextended(current_schema() || E'\nsync\n' || syncs.id, 0)
JOIN pg_stat_activity AS activity ON activity.pid = locks.pid
WHERE syncs.status = 'running'
ORDER BY is_stale DESC NULLS LAST, syncs.id;

-- name: paused
-- When an API host asked for a pause last, within a day, and how many requests it had taken in the minute before.
SELECT paused_at, paused_after FROM etl_rate_budgets
WHERE host = $1 AND paused_at > now() - interval '1 day';
