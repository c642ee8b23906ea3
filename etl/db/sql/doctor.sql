-- name: server
-- Version, role and database of the server; and whether it is a standby, which takes no writes.
SELECT current_setting('server_version_num')::int AS version_num,
       current_setting('server_version')          AS version,
       current_user                               AS role,
       current_database()                         AS database,
       pg_is_in_recovery()                        AS is_standby,
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
-- Tables of the schema $1 on which the role lacks a right that loading needs.
SELECT c.relname AS name
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1
  AND c.relkind IN ('r', 'p')
  AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
       AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))
ORDER BY 1;

-- name: backends
-- The process that serves this connection: behind a pooler in transaction mode it changes from one call to the next.
SELECT pg_backend_pid();
