-- Days that change are noted also while a load leaves out checks of foreign keys (session_replication_role = replica).

DO $$
DECLARE
    noting record;
BEGIN
    FOR noting IN
        SELECT tgname FROM pg_trigger WHERE tgrelid = 'runs'::regclass AND tgfoid = 'note_changed_days'::regproc
    LOOP
        EXECUTE format('ALTER TABLE runs ENABLE ALWAYS TRIGGER %I', noting.tgname);
    END LOOP;
    -- Spread over a Citus cluster there are none, and all days are counted from the runs: what 0009 took away there.
    IF NOT FOUND THEN
        CREATE OR REPLACE VIEW etl_uncounted_runs AS
        SELECT
            id, workflow_id, (created_at AT TIME ZONE 'UTC')::date AS day, app_id, stream_app_id, origin, status,
            gone_at, duration_s, usage_total
        FROM runs;
    END IF;
END
$$;
