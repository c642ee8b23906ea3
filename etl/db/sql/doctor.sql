-- name: server
-- Version of the server, role, database, and whether the server is a standby (read-only).
SELECT current_setting('server_version')          AS version,
       current_user                               AS role,
       current_database()                         AS database,
       pg_is_in_recovery()                        AS is_standby,
       current_setting('default_transaction_read_only')::boolean                 AS is_read_only,
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user)          AS connections,
       has_database_privilege(current_database(), 'TEMP')   AS may_temp,
       has_database_privilege(current_database(), 'CREATE') AS may_create;

-- name: schema
-- Privileges on the schema $1; no row if it does not exist.
SELECT has_schema_privilege(n.oid, 'USAGE')  AS may_use,
       has_schema_privilege(n.oid, 'CREATE') AS may_create,
       pg_get_userbyid(n.nspowner)           AS owner
FROM pg_namespace n
WHERE n.nspname = $1;

-- name: tables
-- Tables and views of the schema $1 for which the role lacks a privilege needed for loading.
SELECT c.relname AS name
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN unnest(CASE WHEN c.relkind = 'v' THEN '{SELECT}'::text[] ELSE '{SELECT,INSERT,UPDATE,DELETE}' END) AS needed (r)
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v') AND NOT has_table_privilege(c.oid, needed.r)
GROUP BY c.relname
ORDER BY c.relname;

-- name: locks
-- Running invocations. An invocation is stale if its session has been idle for ten minutes.
SELECT
    live.backend_pid                                      AS pid,
    live.id                                               AS sync_id,
    live.host,
    live.pid                                              AS process,
    activity.state_change                                 AS silent_since,
    activity.state_change < now() - interval '10 minutes' AS is_stale
FROM live_syncs AS live
JOIN pg_stat_activity AS activity ON activity.pid = live.backend_pid
ORDER BY is_stale DESC NULLS LAST, live.id;

-- name: paused
-- The last pause requested by an API host within a day, and the number of requests granted in the minute before.
SELECT paused_at, paused_after FROM etl_rate_budgets
WHERE host = $1 AND egress = $2 AND paused_at > now() - interval '1 day';

-- name: reader
-- The role and its privileges on the runs of the schema $1. Without USAGE of the schema, or without the table, it has
-- none.
SELECT
    current_user AS role,
    (SELECT bool_or(rolsuper) FROM pg_roles WHERE pg_has_role(current_user, oid, 'MEMBER')) AS is_superuser,
    coalesce(has_table_privilege(runs.oid, 'SELECT'), false) AS may_read,
    coalesce(has_table_privilege(runs.oid, 'INSERT, UPDATE, DELETE, TRUNCATE'), false) AS may_write
FROM (VALUES (true)) AS one
LEFT JOIN pg_namespace ON nspname = $1 AND has_schema_privilege(pg_namespace.oid, 'USAGE')
LEFT JOIN pg_class AS runs ON runs.relnamespace = pg_namespace.oid AND runs.relname = 'runs';
