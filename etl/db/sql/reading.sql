-- name: read_only
-- Make the session read-only, and give up superuser privileges. These are not startup parameters, because a pooler
-- refuses parameters that it does not know.
SELECT
    set_config('default_transaction_read_only', 'on', false),
    CASE WHEN roles.rolsuper THEN set_config('role', 'pg_read_all_data', false) END
FROM pg_roles AS roles
WHERE roles.rolname = current_user

-- name: formats
-- For this transaction, use psql's default formats of numbers and times, whatever the settings of the role.
SELECT
    set_config('datestyle', 'ISO', true),
    set_config('intervalstyle', 'postgres', true),
    set_config('extra_float_digits', '1', true),
    set_config('bytea_output', 'hex', true)

-- name: may_become_superuser
-- Whether the role that connected is a superuser, or a member of one.
SELECT bool_or(rolsuper) FROM pg_roles WHERE pg_has_role(session_user, oid, 'MEMBER')

-- name: relations
-- Names of the tables and views of the schema, if the role may use it.
SELECT relname
FROM pg_class
WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relkind IN ('r', 'p', 'v') AND NOT relispartition
