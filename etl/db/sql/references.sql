-- name: may_spare
-- On Citus the shards check for themselves.
SELECT has_parameter_privilege('session_replication_role', 'SET')
    AND NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')

-- name: may_spare_14
SELECT current_setting('is_superuser')::boolean AND NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')

-- name: spare
-- Checks of foreign keys are triggers. The lock keeps others from adding any until the transaction ends. Nothing is left
-- out where there are some on insert that this program does not know, or partitions, which may have their own; nor where
-- runs have some, which may take away what was just written.
LOCK TABLE run_steps, run_step_calls, run_usage_calls IN ROW EXCLUSIVE MODE;
WITH children AS (
    SELECT unnest(ARRAY['run_steps'::regclass, 'run_step_calls'::regclass, 'run_usage_calls'::regclass]) AS id
)
SELECT set_config('session_replication_role', 'replica', true)
WHERE current_setting('session_replication_role') = 'origin'
    AND NOT EXISTS (
        SELECT FROM children
        JOIN pg_trigger ON tgrelid = children.id AND tgtype & 4 <> 0
        LEFT JOIN pg_constraint ON pg_constraint.oid = tgconstraint
        WHERE coalesce(conname, '') NOT IN ('run_steps_run_fkey', 'run_step_calls_step_fkey', 'run_usage_calls_run_fkey')
    )
    AND NOT EXISTS (
        SELECT FROM pg_trigger
        WHERE tgrelid = 'runs'::regclass AND NOT tgisinternal
            AND tgname NOT IN ('runs_inserted', 'runs_updated', 'runs_deleted', 'runs_truncated')
    )
    AND NOT EXISTS (SELECT FROM children JOIN pg_class ON pg_class.oid = children.id WHERE relkind <> 'r')

-- name: check_again
SET LOCAL session_replication_role = origin
