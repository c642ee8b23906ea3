-- name: return_workflows
UPDATE workflows SET gone_at = NULL WHERE id = ANY ($1::text[]) AND gone_at IS NOT NULL

-- name: mark_workflows_gone
-- Workflows that the apps $1, whose lists are complete, no longer list, and that the settings request through no app.
UPDATE workflows SET gone_at = now()
WHERE gone_at IS NULL
  AND EXISTS (
      SELECT FROM etl_streams AS streams
      WHERE streams.workflow_id = workflows.id AND streams.app_id = ANY ($1::text[]) AND NOT streams.requested)
  AND NOT EXISTS (
      SELECT FROM etl_streams AS streams WHERE streams.workflow_id = workflows.id AND streams.requested)

