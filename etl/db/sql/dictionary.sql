-- name: relations
-- Tables and views of the schema $1 in order of creation.
SELECT
    c.relname AS name,
    c.relkind = 'v' AS is_view,
    coalesce(obj_description(c.oid, 'pg_class'), '') AS comment
FROM pg_class AS c
WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
ORDER BY c.oid

-- name: columns
-- Columns of tables and views; `kind` is key (part of the primary key), computed or ''.
SELECT
    c.relname AS relation,
    a.attname AS name,
    format_type(a.atttypid, a.atttypmod) AS type,
    coalesce(col_description(c.oid, a.attnum), '') AS comment,
    CASE
        WHEN EXISTS (
            SELECT FROM pg_constraint AS k
            WHERE k.conrelid = c.oid AND k.contype = 'p' AND a.attnum = ANY (k.conkey)
        ) THEN 'key'
        WHEN a.attgenerated <> '' THEN 'computed'
        ELSE ''
    END AS kind,
    NOT a.attnotnull AS nullable
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relkind IN ('r', 'p', 'v')
ORDER BY c.oid, a.attnum

-- name: references
-- Foreign keys: their columns and the referenced table.
SELECT
    k.conrelid::regclass::text AS relation,
    array_agg(a.attname::text ORDER BY place.ordinality) AS columns,
    target.relname AS target
FROM pg_constraint AS k
CROSS JOIN unnest(k.conkey) WITH ORDINALITY AS place (attnum, ordinality)
JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = place.attnum
JOIN pg_class AS target ON target.oid = k.confrelid
WHERE k.connamespace = to_regnamespace(quote_ident($1)) AND k.contype = 'f'
GROUP BY k.oid, k.conrelid, target.relname
ORDER BY k.conrelid, k.oid

-- name: indexes
-- Indexes that do not belong to a constraint.
SELECT
    c.relname AS relation,
    index.relname AS name,
    coalesce(obj_description(index.oid, 'pg_class'), '') AS comment
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indrelid
JOIN pg_class AS index ON index.oid = i.indexrelid
WHERE c.relnamespace = to_regnamespace(quote_ident($1))
    AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = index.oid AND contype IN ('p', 'u'))
ORDER BY c.oid, index.oid

-- name: late_after
-- How long a stream may go without a complete sync; null before the first sync.
SELECT max(late_after) FROM etl_streams WHERE requested
