-- name: known_runs
-- The stored state of the runs $1, for recognizing unchanged runs without parsing them. $2 end of the last sync of the
-- stream: runs loaded later are `recent`. $3 app and $4 workflow of the stream. `listed_under` is the workflow whose
-- listing contains the run.
SELECT id, content_hash, status, created_at, updated_at, updated_on_day, gone_at IS NOT NULL AS gone,
    erased_at IS NOT NULL AS erased, workflow_id, coalesce(listed_under_workflow_id, workflow_id) AS listed_under,
    coalesce(listed_under_workflow_id, workflow_id) = $4
        AND $3 = ANY (coalesce(listed_under_app_id, stream_app_id) || coalesce(also_listed_by, '{}')) AS is_ours,
    coalesce(last_synced_at > $2, false) AS recent
FROM runs
WHERE id = ANY ($1::text[])

-- name: begin_commit
-- Mark the transaction as one of this stream and as one that `forget` waits for; return its id.
SELECT pg_current_xact_id()::text,
    pg_advisory_xact_lock_shared(lock_key('commit', $1::text, $2::text)),
    pg_advisory_xact_lock_shared(lock_key('erased'))

-- name: keep_payloads
-- A run with empty payloads keeps the stored ones if their retention has expired, even if it was extended since.
UPDATE pg_temp.staged_runs AS staged
SET input = runs.input, result = runs.result, kept = true
FROM runs
WHERE runs.id = staged.id
  AND staged.emptied
  AND least(staged.retention_due_at, runs.retention_due_at) <= now()
RETURNING staged.id

-- name: delete_children
-- Delete the steps and child runs of runs $1 and the usage of runs $2, which are about to be replaced. Calls are
-- deleted with their steps. Return the ids of the former child runs of runs $2.
WITH steps AS (
    DELETE FROM run_steps WHERE run_id = ANY ($1::text[])
), usage AS (
    DELETE FROM run_usage_calls WHERE run_id = ANY ($2::text[])
), children AS (
    DELETE FROM child_runs WHERE parent_run_id = ANY ($1::text[])
)
SELECT run_id FROM child_runs WHERE parent_run_id = ANY ($2::text[])

-- name: merge_kept_step
-- A run with kept payloads keeps its steps; only their credits are updated.
INSERT INTO run_steps (run_id, step_key, ordinal, credits)
VALUES ($1, $2, (SELECT coalesce(max(ordinal) + 1, 0) FROM run_steps WHERE run_id = $1), $3)
ON CONFLICT (run_id, step_key) DO UPDATE SET credits = excluded.credits, child_credits = NULL

-- name: clear_kept_usage
UPDATE run_steps SET credits = NULL, child_credits = NULL WHERE run_id = $1 AND NOT step_key = ANY ($2::text[])

-- name: restore_runs
-- Record runs that are listed again unchanged. If $4 is true, also move runs here from the listing of another stream.
UPDATE runs
SET gone_at = NULL,
    stream_app_id = CASE WHEN workflow_id = $3 THEN $2 END,
    listed_under_app_id = CASE WHEN workflow_id <> $3 THEN $2 END,
    listed_under_workflow_id = CASE WHEN workflow_id <> $3 THEN $3 END,
    also_listed_by = NULL
WHERE id = ANY ($1::text[]) AND (gone_at IS NOT NULL OR $4)

-- name: share_runs
-- Record that app $2 also lists these runs of workflow $3.
UPDATE runs SET also_listed_by = array_append(also_listed_by, $2)
WHERE id = ANY ($1::text[]) AND coalesce(listed_under_workflow_id, workflow_id) = $3 AND gone_at IS NULL
    AND coalesce(listed_under_app_id, stream_app_id) <> $2 AND NOT $2 = ANY (coalesce(also_listed_by, '{}'))

-- name: mark_gone
-- Mark runs of workflow $3 that app $2 no longer lists as gone. A run that another requested stream lists is moved to
-- that stream instead, unless that stream was last synced more than a day before this one was last reconciled.
WITH others AS (
    SELECT other.app_id
    FROM etl_streams AS other
    LEFT JOIN etl_streams AS this ON this.app_id = $2 AND this.workflow_id = $3
    WHERE other.workflow_id = $3 AND other.app_id <> $2 AND other.requested
        AND other.last_synced_at > CASE
            WHEN this.last_reconciled_at <= clock_timestamp() THEN this.last_reconciled_at - interval '1 day'
            ELSE '-infinity' END
)
UPDATE runs
SET (stream_app_id, listed_under_app_id, gone_at, also_listed_by) = (
    SELECT
        CASE WHEN runs.listed_under_app_id IS NULL THEN coalesce(apps[1], runs.stream_app_id) END,
        CASE WHEN runs.listed_under_app_id IS NOT NULL THEN coalesce(apps[1], runs.listed_under_app_id) END,
        CASE WHEN apps IS NULL THEN now() END,
        nullif(apps[2:], '{}')
    FROM (
        SELECT array_agg(app_id ORDER BY place) AS apps
        FROM unnest(coalesce(runs.listed_under_app_id, runs.stream_app_id) || runs.also_listed_by)
            WITH ORDINALITY AS listing (app_id, place)
        JOIN others USING (app_id)
    ) AS still_listing
)
WHERE id = ANY ($1::text[]) AND gone_at IS NULL
RETURNING id, gone_at

-- name: hold_versions
-- Lock the rows against deletion until the transaction ends. A time more than a day ahead is ignored.
SELECT id, content_hash, CASE WHEN as_of <= now() + interval '1 day' THEN as_of END AS as_of
FROM workflow_versions WHERE id = ANY ($1::text[]) FOR KEY SHARE

-- name: delete_version_parts
WITH steps AS (DELETE FROM workflow_steps WHERE workflow_version_id = ANY ($1::text[]))
DELETE FROM workflow_step_links WHERE workflow_version_id = ANY ($1::text[])

-- name: touch_version
UPDATE workflow_versions SET as_of = $2 WHERE id = $1

-- name: quarantine
-- Identical bytes are stored once while unresolved.
INSERT INTO etl_rejects (sync_id, app_id, workflow_id, run_id, url, page, reason, error, payload, digest, bytes)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT DO NOTHING

-- name: supersede_rejects
-- A new invalid copy of a run replaces the earlier one.
UPDATE etl_rejects SET resolved_at = now()
WHERE app_id = $1 AND workflow_id = $2 AND run_id = $3 AND digest <> $4 AND resolved_at IS NULL

-- name: resolve_rejects
-- A valid copy of the run was loaded, or the API no longer lists the run.
UPDATE etl_rejects SET resolved_at = now()
WHERE app_id = $1 AND workflow_id = $2 AND run_id = ANY ($3::text[]) AND resolved_at IS NULL

-- name: checkpoint
-- Move the cursor. No row is returned if another process has taken over the stream.
UPDATE etl_streams SET backfill_cursor = $4::text::jsonb
WHERE app_id = $1 AND workflow_id = $2 AND fence = $3
RETURNING fence

-- name: hold
-- Check the fencing token in a commit that does not move the cursor.
SELECT fence FROM etl_streams WHERE app_id = $1 AND workflow_id = $2 AND fence = $3 FOR UPDATE

-- name: hold_slice
-- Check the fencing token, and the claim of this process, in a commit for a slice of the stream. FOR SHARE allows
-- other processes to commit for other slices at the same time.
SELECT streams.fence
FROM etl_streams AS streams JOIN etl_queue AS queue ON queue.fence = streams.fence
WHERE streams.app_id = $1 AND streams.workflow_id = $2 AND streams.fence = $3
    AND queue.sync_id = $4 AND queue.place = $5 AND queue.claimed_by = $6 AND queue.outcomes IS NULL
FOR SHARE

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
