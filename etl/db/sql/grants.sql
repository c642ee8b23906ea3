-- name: place
-- The database, the owner of the schema $1, and whether the role $2 may connect (false if it does not exist).
SELECT
    current_database() AS name,
    (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = $1) AS owner,
    coalesce((
        SELECT has_database_privilege(oid, current_database(), 'CONNECT') FROM pg_roles WHERE rolname = $2
    ), false) AS may_connect

-- name: relations
SELECT relname AS name FROM pg_class
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND relkind IN ('r', 'v', 'p', 'm')
ORDER BY relname

-- name: columns
SELECT attname AS name FROM pg_attribute
WHERE attrelid = (
        SELECT oid FROM pg_class
        WHERE relname = $2 AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1))
    AND attnum > 0 AND NOT attisdropped
ORDER BY attnum
