-- name: return_workflows
UPDATE workflows SET gone_at = NULL WHERE id = ANY ($1::text[]) AND gone_at IS NOT NULL

-- name: mark_workflows_gone
-- An app's listing says nothing of workflows that it never held, though it may show some that belong to the same app.
UPDATE workflows SET gone_at = now()
WHERE gone_at IS NULL AND NOT id = ANY ($2::text[])
  AND (app_id = $1 OR EXISTS (SELECT FROM etl_streams WHERE app_id = $1 AND workflow_id = workflows.id))

