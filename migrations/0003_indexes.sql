-- Indexes beyond the primary keys. Each names the question that it is there for; loading pays for every one of them.

CREATE INDEX runs_created_idx ON runs (created_at);
COMMENT ON INDEX runs_created_idx IS 'Runs of a stretch of time: WHERE created_at >= now() - interval ''7 days''.';

-- Holds all that the daily views need, so that they read the index alone. created_at stands in it because PostgreSQL
-- takes an index with an expression for complete only when the columns of the expression are there as well.
CREATE INDEX runs_day_idx ON runs (((created_at AT TIME ZONE 'UTC')::date), workflow_id)
    INCLUDE (created_at, app_id, origin, status, duration_s, usage_total);
COMMENT ON INDEX runs_day_idx IS 'The days of workflow_health_daily and credits_daily: WHERE day >= current_date - 30.';

CREATE INDEX runs_stream_idx ON runs (workflow_id, stream_app_id, created_at) INCLUDE (gone_at);
COMMENT ON INDEX runs_stream_idx IS
    'The runs of a workflow by time, and the counts of a stream (sync_health, the end of a sync): WHERE workflow_id = ... AND created_at >= ...';

CREATE INDEX runs_open_idx ON runs (workflow_id, stream_app_id, created_at)
    WHERE status IN ('PENDING', 'RUNNING') AND gone_at IS NULL;
COMMENT ON INDEX runs_open_idx IS 'The open runs: open_runs, and what a sync asks the API about again.';

CREATE INDEX runs_failed_idx ON runs ((coalesce(ended_at, updated_at, created_at))) WHERE status = 'FAILED';
COMMENT ON INDEX runs_failed_idx IS 'The last failures: recent_failures ORDER BY failed_at DESC LIMIT 20.';

CREATE INDEX runs_record_idx ON runs (record_id) WHERE record_id IS NOT NULL;
COMMENT ON INDEX runs_record_idx IS 'The runs of a record: WHERE record_id = ...';

CREATE INDEX runs_retention_idx ON runs (retention_due_at) WHERE retention_due_at IS NOT NULL AND gone_at IS NULL;
COMMENT ON INDEX runs_retention_idx IS
    'What the API removes soon: WHERE gone_at IS NULL AND retention_due_at < now() + interval ''7 days''.';

CREATE INDEX run_steps_child_idx ON run_steps (child_run_id, run_id) WHERE child_run_id IS NOT NULL;
COMMENT ON INDEX run_steps_child_idx IS 'The parent of a run: run_tree, child_runs WHERE run_id = ...';

CREATE INDEX run_steps_parent_idx ON run_steps (run_id) INCLUDE (step_key, child_run_id)
    WHERE child_run_id IS NOT NULL;
COMMENT ON INDEX run_steps_parent_idx IS 'The children of a run: run_tree, child_runs WHERE parent_run_id = ...';

CREATE INDEX run_step_calls_child_idx ON run_step_calls (child_run_id, run_id) WHERE child_run_id IS NOT NULL;
COMMENT ON INDEX run_step_calls_child_idx IS 'As run_steps_child_idx, for runs that a loop started.';

CREATE INDEX run_step_calls_parent_idx ON run_step_calls (run_id) INCLUDE (step_key, child_run_id)
    WHERE child_run_id IS NOT NULL;
COMMENT ON INDEX run_step_calls_parent_idx IS 'As run_steps_parent_idx, for runs that a loop started.';

-- Fresh statistics and a fresh visibility map keep the plans above right while a warehouse grows.
ALTER TABLE runs SET (autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
ALTER TABLE run_steps SET (autovacuum_analyze_scale_factor = 0.02);
