-- Days that change are noted also while a load leaves out checks of foreign keys (session_replication_role = replica).

ALTER TABLE runs ENABLE ALWAYS TRIGGER runs_inserted;
ALTER TABLE runs ENABLE ALWAYS TRIGGER runs_updated;
ALTER TABLE runs ENABLE ALWAYS TRIGGER runs_deleted;
ALTER TABLE runs ENABLE ALWAYS TRIGGER runs_truncated;
