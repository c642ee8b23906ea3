-- name: relations
SELECT relname AS value, coalesce(obj_description(oid, 'pg_class'), '') AS help
FROM pg_class
WHERE relnamespace = to_regnamespace(quote_ident(current_schema())) AND relkind IN ('r', 'p', 'v') AND NOT relispartition
ORDER BY relname

-- name: workflows
SELECT id AS value, coalesce(name, '') AS help FROM workflows ORDER BY id

-- name: apps
SELECT id AS value, coalesce(name, '') AS help FROM apps ORDER BY id
