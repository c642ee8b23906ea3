-- A run may stand in the listings of several apps: each counts it, and it has gone when none lists it any more.

ALTER TABLE runs ADD COLUMN also_listed_by text[];
COMMENT ON COLUMN runs.also_listed_by IS
    'Further apps whose listings of the workflow show the run; null where only that of stream_app_id does.';

COMMENT ON COLUMN runs.stream_app_id IS
    'App in whose listing the run was found first: with workflow_id it names a stream (etl_streams).';

ALTER TABLE etl_tombstones ADD COLUMN also_listed_by text[];
COMMENT ON COLUMN etl_tombstones.also_listed_by IS 'Further apps whose listings of the workflow show the run; null where none does.';

DROP INDEX etl_tombstones_listed_idx;
CREATE INDEX etl_tombstones_listed_idx ON etl_tombstones (workflow_id, app_id) WHERE kind = 'run' AND gone_at IS NULL;
COMMENT ON INDEX etl_tombstones_listed_idx IS
    'Counts the erased runs that the API still lists for a stream, to compare its count with the warehouse''s.';

CREATE INDEX runs_shared_idx ON runs (workflow_id, created_at) WHERE also_listed_by IS NOT NULL;
COMMENT ON INDEX runs_shared_idx IS 'Runs in the listings of several apps: listed_runs and sync_health.';

CREATE VIEW listed_runs AS
SELECT
    id, stream_app_id AS listed_by, workflow_id, status, origin, created_at, updated_at, updated_on_day
FROM runs
WHERE gone_at IS NULL
UNION ALL
SELECT
    runs.id, listing.app_id, runs.workflow_id, runs.status, runs.origin, runs.created_at, runs.updated_at,
    runs.updated_on_day
FROM runs
CROSS JOIN LATERAL unnest(runs.also_listed_by) AS listing (app_id)
WHERE runs.also_listed_by IS NOT NULL AND runs.gone_at IS NULL;
COMMENT ON VIEW listed_runs IS 'One row a run that the API lists, and app in whose listing it stands.';
COMMENT ON COLUMN listed_runs.id IS 'Id of the run (runs.id).';
COMMENT ON COLUMN listed_runs.listed_by IS 'App in whose listing it stands: with workflow_id it names the stream (etl_streams).';
COMMENT ON COLUMN listed_runs.workflow_id IS 'Workflow that ran.';
COMMENT ON COLUMN listed_runs.status IS 'As in runs.';
COMMENT ON COLUMN listed_runs.origin IS 'As in runs.';
COMMENT ON COLUMN listed_runs.created_at IS 'When the run was created.';
COMMENT ON COLUMN listed_runs.updated_at IS 'When the run last changed in the API.';
COMMENT ON COLUMN listed_runs.updated_on_day IS 'True where the API gave updated_at as a bare day.';

CREATE OR REPLACE VIEW sync_health AS
SELECT
    streams.app_id,
    streams.workflow_id,
    streams.watermark,
    extract(epoch FROM now() - streams.watermark)::double precision AS lag_s,
    streams.last_synced_at,
    streams.last_reconciled_at,
    streams.backfill_done,
    streams.api_count,
    listed.runs AS warehouse_count,
    quarantine.runs AS quarantined,
    streams.last_error,
    streams.last_error_at,
    workflows.name AS workflow_name,
    streams.last_succeeded_at,
    erased.runs AS forgotten,
    workflows.gone_at AS workflow_gone_at,
    listed.runs + quarantine.without_copy + erased.runs AS accounted_for
FROM etl_streams AS streams
LEFT JOIN (
    SELECT workflow_id, stream_app_id, sum(listed)::bigint AS runs
    FROM credit_days
    GROUP BY workflow_id, stream_app_id
) AS stored ON stored.workflow_id = streams.workflow_id AND stored.stream_app_id = streams.app_id
CROSS JOIN LATERAL (
    SELECT coalesce(stored.runs, 0) + (
        SELECT count(*) FROM runs
        WHERE runs.workflow_id = streams.workflow_id AND runs.also_listed_by @> ARRAY[streams.app_id]
            AND runs.gone_at IS NULL
    ) AS runs
    WHERE streams.listing_status = 'ALL' AND streams.listing_origin = 'ALL'
    UNION ALL
    SELECT (
        SELECT count(*) FROM listed_runs AS runs
        WHERE runs.listed_by = streams.app_id AND runs.workflow_id = streams.workflow_id
            AND streams.listing_status IN ('ALL', runs.status) AND streams.listing_origin IN ('ALL', runs.origin)
    )
    WHERE NOT (streams.listing_status = 'ALL' AND streams.listing_origin = 'ALL')
) AS listed
CROSS JOIN LATERAL (
    SELECT
        count(DISTINCT coalesce(rejects.run_id, encode(rejects.digest, 'hex'))) AS runs,
        count(DISTINCT coalesce(rejects.run_id, encode(rejects.digest, 'hex'))) FILTER (
            WHERE NOT EXISTS (
                SELECT FROM listed_runs AS runs
                WHERE runs.id = rejects.run_id
                    AND runs.listed_by = streams.app_id AND runs.workflow_id = streams.workflow_id
                    AND streams.listing_status IN ('ALL', runs.status) AND streams.listing_origin IN ('ALL', runs.origin)
            )
        ) AS without_copy
    FROM etl_rejects AS rejects
    WHERE rejects.app_id = streams.app_id AND rejects.workflow_id = streams.workflow_id
        AND rejects.resolved_at IS NULL
) AS quarantine
CROSS JOIN LATERAL (
    SELECT count(*) AS runs
    FROM etl_tombstones AS tombstones
    WHERE tombstones.workflow_id = streams.workflow_id
        AND streams.app_id = ANY (tombstones.app_id || tombstones.also_listed_by)
        AND tombstones.kind = 'run' AND tombstones.gone_at IS NULL
        AND streams.listing_status IN ('ALL', coalesce(tombstones.status, streams.listing_status))
        AND streams.listing_origin IN ('ALL', coalesce(tombstones.origin, streams.listing_origin))
) AS erased
LEFT JOIN workflows ON workflows.id = streams.workflow_id;
