-- name: return_workflows
UPDATE workflows SET gone_at = NULL WHERE id = ANY ($1::text[]) AND gone_at IS NOT NULL

-- name: mark_workflows_gone
UPDATE workflows SET gone_at = now()
WHERE app_id = ANY ($1::text[]) AND NOT id = ANY ($2::text[]) AND gone_at IS NULL

-- name: name_workflows
-- Known by id alone where discovery is off.
INSERT INTO workflows (id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING
