-- name: read_only
-- Make the session read-only, and give up the rights of a superuser. Not as startup parameters: a pooler refuses those
-- that it does not know.
SELECT
    set_config('default_transaction_read_only', 'on', false),
    CASE WHEN roles.rolsuper THEN set_config('role', 'pg_read_all_data', false) END
FROM pg_roles AS roles
WHERE roles.rolname = current_user

-- name: formats
-- For this transaction: write numbers and times as psql does by default, whatever the settings of the role.
SELECT
    set_config('datestyle', 'ISO', true),
    set_config('intervalstyle', 'postgres', true),
    set_config('extra_float_digits', '1', true),
    set_config('bytea_output', 'hex', true)

-- name: may_become_superuser
-- Whether the role that connected is a superuser, or a member of one.
SELECT bool_or(rolsuper) FROM pg_roles WHERE pg_has_role(session_user, oid, 'MEMBER')
