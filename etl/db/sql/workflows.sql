-- name: return_workflows
UPDATE workflows SET gone_at = NULL WHERE id = ANY ($1::text[]) AND gone_at IS NOT NULL

-- name: misses_workflows
-- Whether streams of app $1 were read before whose workflows are not among $2, those that any app lists.
SELECT EXISTS (
    SELECT FROM etl_streams
    WHERE app_id = $1 AND requested AND last_synced_at IS NOT NULL AND workflow_id <> ALL ($2::text[]))

-- name: mark_workflows_gone
-- Workflows that the apps $1, whose lists are complete, no longer list, and that the settings request through no app.
UPDATE workflows SET gone_at = now()
WHERE gone_at IS NULL
  AND EXISTS (
      SELECT FROM etl_streams AS streams
      WHERE streams.workflow_id = workflows.id AND streams.app_id = ANY ($1::text[]) AND NOT streams.requested)
  AND NOT EXISTS (
      SELECT FROM etl_streams AS streams WHERE streams.workflow_id = workflows.id AND streams.requested)

