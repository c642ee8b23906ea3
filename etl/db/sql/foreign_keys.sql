-- name: may_spare
-- On Citus the shards check for themselves.
SELECT has_parameter_privilege('session_replication_role', 'SET')
    AND NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')

-- name: may_spare_14
SELECT current_setting('is_superuser')::boolean AND NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')

-- name: spare
-- Checks of foreign keys are triggers. The lock keeps others from adding any until the transaction ends. Nothing is left
-- out where there are some on insert that this program does not know; where runs have any that it does not know, which
-- may take away what was just written; where its own note of changed days would be left out too; nor with partitions,
-- which may have their own.
LOCK TABLE runs, run_steps, run_step_calls, run_usage_calls IN ROW EXCLUSIVE MODE;
WITH loaded AS (
    SELECT oid, relkind
    FROM pg_class
    WHERE oid IN ('runs'::regclass, 'run_steps'::regclass, 'run_step_calls'::regclass, 'run_usage_calls'::regclass)
)
SELECT set_config('session_replication_role', 'replica', true)
WHERE current_setting('session_replication_role') = 'origin'
    AND NOT EXISTS (SELECT FROM loaded WHERE relkind <> 'r')
    AND NOT EXISTS (
        SELECT FROM pg_trigger
        JOIN loaded ON loaded.oid = tgrelid
        LEFT JOIN pg_constraint ON pg_constraint.oid = tgconstraint
        WHERE CASE
            WHEN tgrelid = 'runs'::regclass AND NOT tgisinternal THEN
                tgenabled <> 'A'
                OR tgname NOT IN ('runs_inserted', 'runs_updated', 'runs_deleted', 'runs_truncated')
            WHEN tgtype & 4 <> 0 THEN
                coalesce(conname, '') NOT IN (
                    'runs_version_fkey', 'runs_draft_fkey', 'run_steps_run_fkey', 'run_step_calls_step_fkey',
                    'run_usage_calls_run_fkey'
                )
            ELSE false
        END
    )

-- name: check_again
SET LOCAL session_replication_role = origin
