-- name: lock_migrations
-- Wait until no other process migrates the schema $1. The number is "cetl" in ASCII.
SELECT pg_advisory_lock(1667593324, hashtext($1));

-- name: unlock_migrations
SELECT pg_advisory_unlock(1667593324, hashtext($1));

-- name: create_ledger
-- Create the table of applied migrations. The search_path must be the schema.
CREATE TABLE etl_migrations (
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    applied_by text        NOT NULL DEFAULT current_user,
    CONSTRAINT etl_migrations_pkey PRIMARY KEY (name)
);
COMMENT ON TABLE etl_migrations IS 'The migrations that have been applied to this schema.';
COMMENT ON COLUMN etl_migrations.name IS 'Name of the SQL file.';
COMMENT ON COLUMN etl_migrations.checksum IS 'SHA-256 of the file as applied, in hex.';
COMMENT ON COLUMN etl_migrations.applied_at IS 'When it was applied.';
COMMENT ON COLUMN etl_migrations.applied_by IS 'Role that applied it.';

-- name: record_migration
-- $1 file name, $2 checksum.
INSERT INTO etl_migrations (name, checksum) VALUES ($1, $2);

-- name: lock_holders
-- Processes that hold a lock on a table or view of the schema $1.
SELECT DISTINCT locks.pid
FROM pg_locks AS locks
JOIN pg_class AS relations ON relations.oid = locks.relation
WHERE locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND relations.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
    AND locks.granted AND locks.pid <> pg_backend_pid()
ORDER BY locks.pid;

-- name: missing_relations
-- The relations named in $2 that the schema $1 does not have.
SELECT name FROM unnest($2::text[]) AS name WHERE to_regclass(format('%I.%I', $1::text, name)) IS NULL ORDER BY name
