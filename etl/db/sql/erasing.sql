-- name: anything_erased
SELECT EXISTS (SELECT FROM etl_tombstones)

-- name: erased_records
SELECT id FROM etl_tombstones WHERE kind = 'record'

-- name: erased_runs
-- $2, $3: app and workflow of a stream; whether they are known to stand in its listing.
SELECT id, status, origin,
    gone_at IS NULL AND coalesce(workflow_id = $3 AND $2 = ANY (app_id || also_listed_by), false) AS is_listed
FROM etl_tombstones
WHERE kind = 'run' AND id = ANY ($1::text[])

-- name: erase_met
-- The runs before their tombstones, as everywhere.
WITH erased AS (
    DELETE FROM runs WHERE id = ANY ($1::text[])
)
DELETE FROM etl_rejects WHERE run_id = ANY ($1::text[])

-- name: bury_met
-- An erased run stands in the listing of a stream; it counts there from now on, and where else it is listed.
INSERT INTO etl_tombstones (kind, id, app_id, workflow_id, status, origin)
VALUES ('run', $1, $2, $3, $4, $5)
ON CONFLICT (kind, id) DO UPDATE
SET workflow_id = excluded.workflow_id,
    status = coalesce(excluded.status, etl_tombstones.status), origin = coalesce(excluded.origin, etl_tombstones.origin),
    app_id = CASE WHEN etl_tombstones.gone_at IS NULL THEN coalesce(etl_tombstones.app_id, excluded.app_id)
                  ELSE excluded.app_id END,
    also_listed_by = CASE WHEN etl_tombstones.gone_at IS NOT NULL OR etl_tombstones.app_id IS NULL THEN NULL
                          WHEN excluded.app_id = ANY (etl_tombstones.app_id || etl_tombstones.also_listed_by)
                              THEN etl_tombstones.also_listed_by
                          ELSE array_append(etl_tombstones.also_listed_by, excluded.app_id) END,
    gone_at = NULL

-- name: erase_landed
-- Of the runs $1, which this very transaction wrote, those that were forgotten while they were on their way.
WITH doomed AS (
    SELECT runs.id, stream_app_id, runs.also_listed_by, runs.workflow_id, runs.status, runs.origin
    FROM etl_tombstones AS tombstones
    JOIN runs ON runs.id = tombstones.id
    WHERE tombstones.kind = 'run' AND tombstones.id = ANY ($1::text[])
    UNION
    SELECT runs.id, stream_app_id, runs.also_listed_by, runs.workflow_id, runs.status, runs.origin
    FROM runs
    WHERE runs.id = ANY ($1::text[])
        AND runs.record_id IN (SELECT tombstones.id FROM etl_tombstones AS tombstones WHERE tombstones.kind = 'record')
),
buried AS (
    INSERT INTO etl_tombstones (kind, id, app_id, also_listed_by, workflow_id, status, origin)
    SELECT 'run', id, stream_app_id, also_listed_by, workflow_id, status, origin FROM doomed
    ON CONFLICT (kind, id) DO UPDATE
    SET app_id = excluded.app_id, also_listed_by = excluded.also_listed_by, workflow_id = excluded.workflow_id,
        status = excluded.status, origin = excluded.origin, gone_at = NULL
)
DELETE FROM runs USING doomed WHERE runs.id = doomed.id

-- name: erase_landed_rejects
DELETE FROM etl_rejects
WHERE run_id = ANY ($1::text[])
    AND run_id IN (SELECT id FROM etl_tombstones WHERE kind = 'run')

-- name: lose_unseen
-- Erased runs of a stream that passes over its whole listing did not meet: they count there no more.
UPDATE etl_tombstones AS tombstones
SET (app_id, gone_at, also_listed_by) = (
    SELECT coalesce(apps[1], tombstones.app_id), CASE WHEN apps = '{}' THEN now() END, nullif(apps[2:], '{}')
    FROM (SELECT array_remove(tombstones.app_id || tombstones.also_listed_by, $1) AS apps) AS still_listing
)
WHERE kind = 'run' AND $1 = ANY (app_id || also_listed_by) AND workflow_id = $2 AND gone_at IS NULL
    AND ($4 = 'ALL' OR status IS NULL OR status = $4) AND ($5 = 'ALL' OR origin IS NULL OR origin = $5)
    AND NOT EXISTS (SELECT FROM pg_temp.seen_runs AS seen WHERE seen.pass = ANY ($3::integer[]) AND seen.ident = tombstones.id)

-- name: counts_erased
SELECT EXISTS (
    SELECT FROM etl_tombstones
    WHERE kind = 'run' AND $1 = ANY (app_id || also_listed_by) AND workflow_id = $2 AND gone_at IS NULL)

-- name: wait_for_commits
-- Every commit of a stream ends with a lock on its row: once these are held, what was under way is committed, and what
-- comes later sees the tombstones.
SELECT FROM etl_streams ORDER BY app_id, workflow_id FOR UPDATE

-- name: entomb
INSERT INTO etl_tombstones (kind, id) SELECT $1, unnest($2::text[]) ON CONFLICT (kind, id) DO NOTHING

-- name: doomed_runs
SELECT id FROM runs WHERE id = ANY ($1::text[]) OR record_id = ANY ($2::text[]) ORDER BY id

-- name: rejects_of
SELECT id FROM etl_rejects WHERE run_id = ANY ($1::text[]) ORDER BY id

-- name: payloads_of_rejects
-- In quarantine a record is known by its id alone, wherever it stands in the bytes.
SELECT id, payload FROM etl_rejects ORDER BY id

-- name: erase_run
-- One at a time, the run before its tombstone, as commits do: so that neither waits for the other.
WITH doomed AS (
    SELECT id, stream_app_id, also_listed_by, workflow_id, status, origin, gone_at FROM runs WHERE id = $1 FOR UPDATE
),
buried AS (
    INSERT INTO etl_tombstones (kind, id, app_id, also_listed_by, workflow_id, status, origin, gone_at)
    SELECT 'run', id, stream_app_id, also_listed_by, workflow_id, status, origin, gone_at FROM doomed
    ON CONFLICT (kind, id) DO UPDATE
    SET app_id = excluded.app_id, also_listed_by = excluded.also_listed_by, workflow_id = excluded.workflow_id,
        status = excluded.status, origin = excluded.origin, gone_at = excluded.gone_at
)
DELETE FROM runs USING doomed WHERE runs.id = doomed.id

-- name: erase_reject
WITH gone AS (
    DELETE FROM etl_rejects WHERE id = $1 RETURNING run_id, app_id, workflow_id, resolved_at
)
INSERT INTO etl_tombstones (kind, id, app_id, workflow_id)
SELECT 'run', run_id, app_id, workflow_id FROM gone WHERE run_id IS NOT NULL AND resolved_at IS NULL
ON CONFLICT (kind, id) DO UPDATE
SET app_id = coalesce(etl_tombstones.app_id, excluded.app_id),
    workflow_id = coalesce(etl_tombstones.workflow_id, excluded.workflow_id)
