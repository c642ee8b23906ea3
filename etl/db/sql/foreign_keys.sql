-- name: hold_owners
-- Lock the apps $1 and workflows $2 that exist against deletion until the transaction ends.
WITH held_apps AS (
    SELECT id FROM apps WHERE id = ANY ($1::text[]) FOR KEY SHARE
), held_workflows AS (
    SELECT id FROM workflows WHERE id = ANY ($2::text[]) FOR KEY SHARE
)
SELECT 'app' AS kind, id FROM held_apps UNION ALL SELECT 'workflow', id FROM held_workflows

-- name: add_apps
INSERT INTO apps (id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING

-- name: add_workflows
INSERT INTO workflows (id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING

-- name: may_skip
-- On Citus, the shards check foreign keys themselves.
SELECT has_parameter_privilege('session_replication_role', 'SET')
    AND NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')

-- name: may_skip_14
SELECT current_setting('is_superuser')::boolean AND NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')

-- name: skip
-- Skip foreign key checks, which are triggers, until the transaction ends. The lock prevents other sessions from adding
-- triggers. Nothing is skipped if a table has an unknown insert trigger, if runs has any unknown trigger (which may
-- delete rows just written), if the triggers of the migrations on runs would be skipped too, or if a table is
-- partitioned (partitions may have triggers).
LOCK TABLE runs, run_steps, run_step_calls, run_usage_calls, child_runs IN ROW EXCLUSIVE MODE;
WITH loaded AS (
    SELECT oid, relkind
    FROM pg_class
    WHERE oid IN (
        'runs'::regclass, 'run_steps'::regclass, 'run_step_calls'::regclass, 'run_usage_calls'::regclass,
        'child_runs'::regclass
    )
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
                    'runs_app_fkey', 'runs_workflow_fkey', 'runs_version_fkey', 'runs_draft_fkey', 'run_steps_run_fkey',
                    'run_step_calls_step_fkey', 'run_usage_calls_run_fkey', 'child_runs_run_fkey'
                )
            ELSE false
        END
    )

-- name: check_again
SET LOCAL session_replication_role = origin
