-- Which filters a stream was read with: what the API counts is to be compared with what passes them.

ALTER TABLE etl_streams
    ADD COLUMN listing_status text NOT NULL DEFAULT 'ALL',
    ADD COLUMN listing_origin text NOT NULL DEFAULT 'ALL';
COMMENT ON COLUMN etl_streams.listing_status IS
    'Filter by status with which the listing was last read; api_count counts what passes it. ALL: none.';
COMMENT ON COLUMN etl_streams.listing_origin IS
    'Filter by origin with which the listing was last read; api_count counts what passes it. ALL: none.';

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
    SELECT coalesce(stored.runs, 0) AS runs
    WHERE streams.listing_status = 'ALL' AND streams.listing_origin = 'ALL'
    UNION ALL
    SELECT (
        SELECT count(*) FROM runs
        WHERE runs.stream_app_id = streams.app_id AND runs.workflow_id = streams.workflow_id AND runs.gone_at IS NULL
            AND streams.listing_status IN ('ALL', runs.status) AND streams.listing_origin IN ('ALL', runs.origin)
    )
    WHERE NOT (streams.listing_status = 'ALL' AND streams.listing_origin = 'ALL')
) AS listed
CROSS JOIN LATERAL (
    SELECT
        count(DISTINCT coalesce(rejects.run_id, encode(rejects.digest, 'hex'))) AS runs,
        count(DISTINCT coalesce(rejects.run_id, encode(rejects.digest, 'hex'))) FILTER (
            WHERE NOT EXISTS (
                SELECT FROM runs
                WHERE runs.id = rejects.run_id AND runs.gone_at IS NULL
                    AND runs.stream_app_id = streams.app_id AND runs.workflow_id = streams.workflow_id
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
    WHERE tombstones.app_id = streams.app_id AND tombstones.workflow_id = streams.workflow_id
        AND tombstones.kind = 'run' AND tombstones.gone_at IS NULL
        AND streams.listing_status IN ('ALL', coalesce(tombstones.status, streams.listing_status))
        AND streams.listing_origin IN ('ALL', coalesce(tombstones.origin, streams.listing_origin))
) AS erased
LEFT JOIN workflows ON workflows.id = streams.workflow_id;
COMMENT ON COLUMN sync_health.api_count IS
    'Number of runs that the API last counted, of those that pass the filters that are set.';
COMMENT ON COLUMN sync_health.warehouse_count IS
    'Number of the stream''s runs here that are not gone, and pass the filters that the listing was read with.';
COMMENT ON COLUMN sync_health.accounted_for IS
    'Those, the ones in quarantine that have no earlier state here, and the ones forgotten: what api_count should be.';
