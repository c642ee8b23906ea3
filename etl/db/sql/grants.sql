-- name: place
-- The name of the database, and whether the role $1 may connect to it (false if the role does not exist).
SELECT
    current_database() AS name,
    coalesce((
        SELECT has_database_privilege(oid, current_database(), 'CONNECT') FROM pg_roles WHERE rolname = $1
    ), false) AS may_connect

-- name: relations
-- The tables named in $2 and the views of the schema $1 that belong to the owner of runs.
SELECT relname AS name FROM pg_class
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
    AND (relkind IN ('v', 'm') OR (relkind IN ('r', 'p') AND relname = ANY ($2::text[])))
    AND relowner = (
        SELECT relowner FROM pg_class
        WHERE relname = 'runs' AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
    )
ORDER BY relname

-- name: relation_oids
SELECT oid FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)

-- name: grants_of_new_relations
-- Statements that grant the readers of the schema $1 SELECT on the views, and on the tables named in $2, except for the
-- relations $3. A reader is a role that has SELECT on runs and etl_streams.
SELECT format(
    'GRANT SELECT ON %I.%I TO %s', $1::text, added.relname,
    CASE WHEN readers.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(readers.grantee)) END
) AS statement
FROM (
    SELECT held.grantee
    FROM pg_class CROSS JOIN LATERAL aclexplode(relacl) AS held
    WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND relname IN ('runs', 'etl_streams')
        AND held.privilege_type = 'SELECT' AND held.grantee <> relowner
    GROUP BY held.grantee
    HAVING count(DISTINCT relname) = 2
) AS readers
CROSS JOIN pg_class AS added
WHERE added.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
    AND (added.relkind IN ('v', 'm') OR (added.relkind IN ('r', 'p') AND added.relname = ANY ($2::text[])))
    AND added.oid <> ALL ($3::oid[])
ORDER BY 1

-- name: lock
-- Prevent other processes from changing the privileges of the reader role until the transaction ends. The number is
-- "cetl" in ASCII.
SELECT pg_advisory_xact_lock(1667593324, hashtext('reader'))

-- name: has_role
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)

-- name: missing_grants
-- Statements that grant the role $2 the missing privileges to read all relations of the schema $1 except for the
-- columns $3 (table.column).
WITH relations AS (
    SELECT oid, relname, format('%I.%I', $1::text, relname) AS name
    FROM pg_class
    WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND relkind IN ('r', 'p', 'v', 'm')
),
secret AS (
    SELECT split_part(name, '.', 1) AS relname, split_part(name, '.', 2) AS attname FROM unnest($3::text[]) AS name
)
SELECT format('GRANT USAGE ON SCHEMA %I TO %I', nspname, $2::text) AS statement
FROM pg_namespace
WHERE nspname = $1 AND NOT has_schema_privilege($2, oid, 'USAGE')
UNION ALL
SELECT format('GRANT SELECT ON %s TO %I', name, $2::text)
FROM relations
WHERE relname NOT IN (SELECT relname FROM secret) AND NOT has_table_privilege($2, oid, 'SELECT')
UNION ALL
SELECT format('GRANT SELECT (%I) ON %s TO %I', columns.attname, name, $2::text)
FROM relations JOIN pg_attribute AS columns ON columns.attrelid = relations.oid
WHERE relname IN (SELECT relname FROM secret) AND (relname, columns.attname) NOT IN (SELECT relname, attname FROM secret)
    AND attnum > 0 AND NOT attisdropped AND NOT has_column_privilege($2, relations.oid, attnum, 'SELECT')

-- name: excess_privileges
-- Statements that revoke what every role may do by default and the role $1 must not: create temporary tables and large
-- objects, take the advisory locks of syncs, end other sessions. A read-only transaction prevents only some of these.
SELECT format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database()) AS statement
WHERE has_database_privilege($1, current_database(), 'TEMPORARY')
UNION ALL
SELECT format('REVOKE EXECUTE ON FUNCTION pg_catalog.%s FROM PUBLIC', oid::regprocedure)
FROM pg_proc
WHERE pronamespace = 'pg_catalog'::regnamespace
    AND proname ~ '^(lo_.*|lo(read|write)|pg_(try_)?advisory_.*|pg_notify|pg_logical_emit_message|pg_(cancel|terminate)_backend)$'
    AND has_function_privilege($1, oid, 'EXECUTE')
