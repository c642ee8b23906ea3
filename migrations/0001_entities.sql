-- Apps, workflows, their definitions, runs, and the child rows of runs.
-- Names are unqualified, because `migrate` sets search_path to the schema of the warehouse.

CREATE TABLE apps (
    id       text NOT NULL,
    name     text,
    verified boolean,
    CONSTRAINT apps_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE apps IS 'One row per app, which owns workflows. Until discovery reads the app, all columns except id are null.';
COMMENT ON COLUMN apps.id IS 'Id of the app, as given by the API.';
COMMENT ON COLUMN apps.name IS 'Display name of the app.';
COMMENT ON COLUMN apps.verified IS 'Whether the vendor has verified the app.';

CREATE TABLE workflows (
    id                            text NOT NULL,
    app_id                        text,
    name                          text,
    description                   text,
    enabled                       boolean,
    deleted                       boolean,
    runs_count                    bigint,
    template_id                   text,
    retention_max_age_s           bigint,
    retention_preserve_on_failure boolean,
    tags                          text[],
    current_version_id            text,
    created_at                    timestamptz,
    updated_at                    timestamptz,
    extra                         jsonb,
    gone_at                       timestamptz,
    CONSTRAINT workflows_pkey PRIMARY KEY (id),
    CONSTRAINT workflows_app_fkey FOREIGN KEY (app_id) REFERENCES apps (id)
);
COMMENT ON TABLE workflows IS
    'One row per workflow. If discovery is off or the workflow is not listed, all columns except id are null.';
COMMENT ON COLUMN workflows.id IS 'Id of the workflow, as given by the API.';
COMMENT ON COLUMN workflows.app_id IS 'App that the workflow belongs to (apps.id).';
COMMENT ON COLUMN workflows.name IS 'Display name of the workflow.';
COMMENT ON COLUMN workflows.description IS 'Description of the workflow.';
COMMENT ON COLUMN workflows.enabled IS 'Whether the workflow may run.';
COMMENT ON COLUMN workflows.deleted IS 'Whether the workflow was deleted in the app.';
COMMENT ON COLUMN workflows.runs_count IS
    'Number of runs of the workflow according to the API, at the last discovery.';
COMMENT ON COLUMN workflows.template_id IS 'Template from which the workflow was created.';
COMMENT ON COLUMN workflows.retention_max_age_s IS
    'How long the API keeps the workflow''s runs, in seconds; -1 keeps them forever.';
COMMENT ON COLUMN workflows.retention_preserve_on_failure IS
    'Whether the API keeps failed runs past their retention.';
COMMENT ON COLUMN workflows.tags IS 'Names of the workflow''s tags.';
COMMENT ON COLUMN workflows.current_version_id IS
    'Current version (workflow_versions.id, if a loaded run has used it).';
COMMENT ON COLUMN workflows.created_at IS 'When the workflow was created.';
COMMENT ON COLUMN workflows.updated_at IS 'When the workflow was last changed.';
COMMENT ON COLUMN workflows.extra IS
    'Fields of the document without a column, by path; null if there are none.';
COMMENT ON COLUMN workflows.gone_at IS
    'When discovery found that the API no longer lists the workflow; null if the API lists it.';

CREATE TABLE workflow_versions (
    id                text NOT NULL,
    app_id            text,
    workflow_id       text,
    is_draft          boolean NOT NULL,
    version           integer,
    rollback_version  integer,
    description       text,
    notes             text,
    key               text,
    created_by_id     text,
    created_by_name   text,
    created_at        timestamptz,
    input             jsonb,
    input_default     jsonb,
    input_options     jsonb,
    display_field     text,
    display_container text,
    display_hidden    boolean,
    extra             jsonb,
    content_hash      bytea,
    as_of             timestamptz,
    CONSTRAINT workflow_versions_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE workflow_versions IS
    'One row per workflow definition that a run used: a published version or a draft. Each is stored once, even if many runs used it.';
COMMENT ON COLUMN workflow_versions.id IS
    'Id of the version, as given by the API. For a draft, ''draft:'' and a hash of the workflow''s id and the draft''s content.';
COMMENT ON COLUMN workflow_versions.app_id IS
    'App that the definition belongs to; for a draft, the run''s workflow_app_id.';
COMMENT ON COLUMN workflow_versions.workflow_id IS 'Workflow that this version defines (workflows.id).';
COMMENT ON COLUMN workflow_versions.is_draft IS 'True for an unpublished draft, false for a published version.';
COMMENT ON COLUMN workflow_versions.version IS 'Number of the version within its workflow; null for a draft.';
COMMENT ON COLUMN workflow_versions.rollback_version IS
    'For a rollback, the number of the version that was restored.';
COMMENT ON COLUMN workflow_versions.description IS 'Description of the version.';
COMMENT ON COLUMN workflow_versions.notes IS 'Release notes of the version.';
COMMENT ON COLUMN workflow_versions.key IS 'Key of the definition, chosen by its author.';
COMMENT ON COLUMN workflow_versions.created_by_id IS 'Id of the user who published the version.';
COMMENT ON COLUMN workflow_versions.created_by_name IS 'Name of the user who published the version.';
COMMENT ON COLUMN workflow_versions.created_at IS 'When the version was published.';
COMMENT ON COLUMN workflow_versions.input IS 'Definitions of the workflow''s inputs, by name.';
COMMENT ON COLUMN workflow_versions.input_default IS 'Default values of the inputs.';
COMMENT ON COLUMN workflow_versions.input_options IS
    'Options of the input form, as received; known options are also in the display_* columns.';
COMMENT ON COLUMN workflow_versions.display_field IS 'Layout of the input form''s fields: inline or stacked.';
COMMENT ON COLUMN workflow_versions.display_container IS 'Layout of the input form: grid, full or center.';
COMMENT ON COLUMN workflow_versions.display_hidden IS 'Whether the input form is hidden.';
COMMENT ON COLUMN workflow_versions.extra IS
    'Fields of the definition without a column, by path; null if there are none.';
COMMENT ON COLUMN workflow_versions.content_hash IS
    'Hash of the definition as received; an equal hash means an unchanged definition.';
COMMENT ON COLUMN workflow_versions.as_of IS
    'updated_at of the newest run that contained this content. If runs contain different copies, that of the newest run is kept.';

CREATE TABLE workflow_steps (
    workflow_version_id text    NOT NULL,
    ordinal             integer NOT NULL,
    key                 text,
    type                text,
    display             text,
    conditional         text,
    loop                text,
    throw_on_error      boolean,
    input_connected     boolean,
    position_x          double precision,
    position_y          double precision,
    width               double precision,
    height              double precision,
    auto_provider       text,
    auto_model          text,
    auto_temperature    numeric,
    note                text,
    config              jsonb,
    CONSTRAINT workflow_steps_pkey PRIMARY KEY (workflow_version_id, ordinal),
    CONSTRAINT workflow_steps_version_fkey FOREIGN KEY (workflow_version_id)
        REFERENCES workflow_versions (id) ON DELETE CASCADE
);
COMMENT ON TABLE workflow_steps IS 'One row per step of a definition.';
COMMENT ON COLUMN workflow_steps.workflow_version_id IS 'Definition of the step (workflow_versions.id).';
COMMENT ON COLUMN workflow_steps.ordinal IS 'Position of the step in the definition, from 0.';
COMMENT ON COLUMN workflow_steps.key IS 'Key of the step (run_steps.step_key of the runs that used it).';
COMMENT ON COLUMN workflow_steps.type IS
    'Step type: note, branch, code, model, http_request, browser, workflow, service, input, or a value that the API added later.';
COMMENT ON COLUMN workflow_steps.display IS 'Display of the step in the editor: expanded, collapsed or minimal.';
COMMENT ON COLUMN workflow_steps.conditional IS 'Expression that decides whether the step runs.';
COMMENT ON COLUMN workflow_steps.loop IS 'Expression for the items over which the step loops.';
COMMENT ON COLUMN workflow_steps.throw_on_error IS 'Whether an error of the step fails the run.';
COMMENT ON COLUMN workflow_steps.input_connected IS 'Whether the step is connected to the workflow''s input.';
COMMENT ON COLUMN workflow_steps.position_x IS 'Horizontal position in the editor, in pixels.';
COMMENT ON COLUMN workflow_steps.position_y IS 'Vertical position in the editor, in pixels.';
COMMENT ON COLUMN workflow_steps.width IS 'Width in the editor, in pixels.';
COMMENT ON COLUMN workflow_steps.height IS 'Height in the editor, in pixels.';
COMMENT ON COLUMN workflow_steps.auto_provider IS 'Provider of the model that generates the step; null if the step is not generated.';
COMMENT ON COLUMN workflow_steps.auto_model IS 'Model that generates the step; null if the step is not generated.';
COMMENT ON COLUMN workflow_steps.auto_temperature IS 'Sampling temperature of that model.';
COMMENT ON COLUMN workflow_steps.note IS 'Text of a note step.';
COMMENT ON COLUMN workflow_steps.config IS
    'Remaining fields of the step, which depend on its type (url, code, provider, conditions and so on). Links are in workflow_step_links.';

CREATE TABLE workflow_step_links (
    workflow_version_id text NOT NULL,
    from_key            text NOT NULL,
    to_key              text NOT NULL,
    via                 text NOT NULL,
    CONSTRAINT workflow_step_links_pkey PRIMARY KEY (workflow_version_id, from_key, to_key, via),
    CONSTRAINT workflow_step_links_version_fkey FOREIGN KEY (workflow_version_id)
        REFERENCES workflow_versions (id) ON DELETE CASCADE
);
COMMENT ON TABLE workflow_step_links IS 'The graph of a definition: one row per link from a step to a next step.';
COMMENT ON COLUMN workflow_step_links.workflow_version_id IS
    'Definition of the link (workflow_versions.id).';
COMMENT ON COLUMN workflow_step_links.from_key IS 'Key of the step at the start of the link.';
COMMENT ON COLUMN workflow_step_links.to_key IS 'Key of the step at the end of the link.';
COMMENT ON COLUMN workflow_step_links.via IS
    'When the link is followed: destination (always), branch:NAME (if this condition of a branch is true) or else (if no condition is true).';

CREATE TABLE runs (
    id                            text NOT NULL,
    app_id                        text,
    workflow_app_id               text,
    workflow_id                   text,
    workflow_version_id           text,
    workflow_draft_id             text,
    version                       integer,
    status                        text,
    origin                        text,
    error                         text,
    started_at                    timestamptz,
    ended_at                      timestamptz,
    duration_s                    double precision
        GENERATED ALWAYS AS (extract(epoch FROM ended_at - started_at)::double precision) STORED,
    created_at                    timestamptz,
    updated_at                    timestamptz,
    updated_on_day                boolean,
    collection_id                 text,
    record_id                     text,
    input                         jsonb,
    result                        jsonb,
    credits                       numeric,
    own_credits                   numeric,
    retention_max_age_s           bigint,
    retention_preserve_on_failure boolean,
    retention_due_at              timestamptz,
    extra                         jsonb,
    content_hash                  bytea,
    stream_app_id                 text,
    listed_under_app_id           text,
    listed_under_workflow_id      text,
    first_synced_at               timestamptz NOT NULL DEFAULT now(),
    last_synced_at                timestamptz NOT NULL DEFAULT now(),
    gone_at                       timestamptz,
    erased_at                     timestamptz,
    payload_removed_at            timestamptz,
    also_listed_by                text[],
    CONSTRAINT runs_pkey PRIMARY KEY (id),
    CONSTRAINT runs_app_fkey FOREIGN KEY (workflow_app_id) REFERENCES apps (id),
    CONSTRAINT runs_workflow_fkey FOREIGN KEY (workflow_id) REFERENCES workflows (id),
    CONSTRAINT runs_version_fkey FOREIGN KEY (workflow_version_id) REFERENCES workflow_versions (id),
    CONSTRAINT runs_draft_fkey FOREIGN KEY (workflow_draft_id) REFERENCES workflow_versions (id)
);
COMMENT ON TABLE runs IS
    'One row per run of a workflow, in its latest known state. A run that the API no longer lists is kept, with gone_at set.';
COMMENT ON COLUMN runs.id IS 'Id of the run, as given by the API.';
COMMENT ON COLUMN runs.app_id IS 'App from which the run was triggered.';
COMMENT ON COLUMN runs.workflow_app_id IS 'App that the run''s workflow belongs to (apps.id).';
COMMENT ON COLUMN runs.workflow_id IS 'Workflow that ran (workflows.id).';
COMMENT ON COLUMN runs.workflow_version_id IS
    'Definition that ran (workflow_versions.id): the published version, or the draft if there is none.';
COMMENT ON COLUMN runs.workflow_draft_id IS
    'Draft in the run''s document (workflow_versions.id); null if there is none.';
COMMENT ON COLUMN runs.version IS 'Number of the workflow version that ran, as given by the API.';
COMMENT ON COLUMN runs.status IS
    'PENDING or RUNNING (open), CANCELLED, COMPLETED, SKIPPED, FAILED, or a value that the API added later.';
COMMENT ON COLUMN runs.origin IS
    'What started the run: WORKFLOW, TRIGGER, RECORD, TEST, ENDPOINT, WEBHOOK, or a value that the API added later.';
COMMENT ON COLUMN runs.error IS 'Message of the error that ended the run.';
COMMENT ON COLUMN runs.started_at IS 'When the run started; null before that.';
COMMENT ON COLUMN runs.ended_at IS 'When the run ended; null while it is open.';
COMMENT ON COLUMN runs.duration_s IS 'ended_at minus started_at, in seconds; null if either is null.';
COMMENT ON COLUMN runs.created_at IS 'When the run was created. The daily views group by its UTC day.';
COMMENT ON COLUMN runs.updated_at IS 'When the run last changed in the API. A replay or a change of its retention updates it.';
COMMENT ON COLUMN runs.updated_on_day IS
    'True if the API gave updated_at without a time of day. It then counts as the end of the day.';
COMMENT ON COLUMN runs.collection_id IS 'Collection of the record that the run processed.';
COMMENT ON COLUMN runs.record_id IS 'Record that the run processed.';
COMMENT ON COLUMN runs.input IS 'Input of the run, as received.';
COMMENT ON COLUMN runs.result IS 'Result of the run, as received.';
COMMENT ON COLUMN runs.credits IS
    'Credits of the run, including those of the runs that it started (usage.total of the API), exact; null if the API gave none. Do not sum them: the credits of a child run also count for its parent. Use own_credits. run_usage_calls has their breakdown.';
COMMENT ON COLUMN runs.own_credits IS
    'Credits of the run without those of the runs that it started: credits minus the child_credits of its steps, so that a sum over runs counts each credit once. What a child run cost stays included if it is not in the warehouse or has no credits. If the step that started it has no credits, nothing is subtracted, and a cost that credits includes counts twice. Null if credits is null.';
COMMENT ON COLUMN runs.retention_max_age_s IS 'How long the API keeps the run, in seconds; -1 keeps it forever.';
COMMENT ON COLUMN runs.retention_preserve_on_failure IS 'Whether the API keeps the run past its retention if it failed.';
COMMENT ON COLUMN runs.retention_due_at IS 'When the API will remove the run; null if the API keeps it.';
COMMENT ON COLUMN runs.extra IS
    'Fields of the payload without a column, by path; null if there are none.';
COMMENT ON COLUMN runs.content_hash IS 'Hash of the run as received; an equal hash means an unchanged run.';
COMMENT ON COLUMN runs.stream_app_id IS
    'App whose listing contained the run first. With workflow_id, it identifies the stream (etl_streams). Null if the run was found in the listing of another workflow.';
COMMENT ON COLUMN runs.listed_under_app_id IS
    'App whose listing of another workflow contained the run. With listed_under_workflow_id, it identifies the stream (etl_streams).';
COMMENT ON COLUMN runs.listed_under_workflow_id IS
    'Workflow whose listing contains the run, if it is not workflow_id and workflow_id is not synced; otherwise null.';
COMMENT ON COLUMN runs.first_synced_at IS 'When the run was first loaded.';
COMMENT ON COLUMN runs.last_synced_at IS 'When the content of the row last changed.';
COMMENT ON COLUMN runs.gone_at IS
    'When a sync found that the API no longer lists the run; null if the API lists it.';
COMMENT ON COLUMN runs.payload_removed_at IS
    'When the payloads were removed from the warehouse because their retention had expired; null if they were not removed.';
COMMENT ON COLUMN runs.erased_at IS
    'When cortex-etl forget erased the content of the run; null if it was not erased.';
COMMENT ON COLUMN runs.also_listed_by IS
    'Other apps whose listings of the same workflow contain the run; null if there are none.';

CREATE TABLE run_steps (
    run_id        text    NOT NULL,
    step_key      text    NOT NULL,
    ordinal       integer NOT NULL,
    type          text,
    status        text,
    started_at    timestamptz,
    ended_at      timestamptz,
    duration_s    double precision
        GENERATED ALWAYS AS (extract(epoch FROM ended_at - started_at)::double precision) STORED,
    error         text,
    output        jsonb,
    logs          jsonb,
    provider      text,
    model         text,
    input_tokens  bigint,
    output_tokens bigint,
    http_status   integer,
    child_run_id  text,
    looped        boolean,
    credits       numeric,
    child_credits numeric,
    extra         jsonb,
    CONSTRAINT run_steps_pkey PRIMARY KEY (run_id, step_key),
    CONSTRAINT run_steps_run_fkey FOREIGN KEY (run_id) REFERENCES runs (id) ON DELETE CASCADE
);
COMMENT ON TABLE run_steps IS
    'One row per step of a run that has an output or used credits.';
COMMENT ON COLUMN run_steps.run_id IS 'Run of the step (runs.id).';
COMMENT ON COLUMN run_steps.step_key IS
    'Key of the step in the definition (workflow_steps.key). A second step with the same key is key#2, and so on.';
COMMENT ON COLUMN run_steps.ordinal IS
    'Position of the step in the payload, from 0. Steps of which only the credits are known come last.';
COMMENT ON COLUMN run_steps.type IS
    'Step type: note, branch, code, model, http_request, browser, workflow, service, input, or a value that the API added later.';
COMMENT ON COLUMN run_steps.status IS 'Status, as in runs.status; null if only the credits of the step are known.';
COMMENT ON COLUMN run_steps.started_at IS 'When the step started.';
COMMENT ON COLUMN run_steps.ended_at IS 'When the step ended; null while it is open.';
COMMENT ON COLUMN run_steps.duration_s IS 'ended_at minus started_at, in seconds; null if either is null.';
COMMENT ON COLUMN run_steps.error IS 'Message of the step''s error.';
COMMENT ON COLUMN run_steps.output IS 'Output of the step, as received; a list if the step looped.';
COMMENT ON COLUMN run_steps.logs IS 'Log lines of the step, as received.';
COMMENT ON COLUMN run_steps.provider IS 'Provider of the model of a model step; null if the step looped (see run_step_calls).';
COMMENT ON COLUMN run_steps.model IS 'Model of a model step; null if the step looped (see run_step_calls).';
COMMENT ON COLUMN run_steps.input_tokens IS
    'Input tokens of a model step, as counted by its provider (output.raw); null if the provider does not report them, or if the step looped.';
COMMENT ON COLUMN run_steps.output_tokens IS
    'Output tokens of a model step, as counted by its provider (output.raw); null if the provider does not report them, or if the step looped.';
COMMENT ON COLUMN run_steps.http_status IS
    'HTTP status that an http_request or browser step received; null if the step looped (see run_step_calls.output).';
COMMENT ON COLUMN run_steps.child_run_id IS
    'Run that a workflow step started (runs.id, if that workflow is synced); null if the step looped (see run_step_calls). child_runs has the runs that steps of any type started.';
COMMENT ON COLUMN run_steps.looped IS 'Whether the step looped. Its output is then a list with an item per iteration.';
COMMENT ON COLUMN run_steps.credits IS
    'Credits of the step, including those of the runs that it started (usage.steps.KEY.total of the API), exact; null if the API gave none.';
COMMENT ON COLUMN run_steps.child_credits IS
    'Part of credits that was used by the runs that the step started: the sum of their runs.credits, but at most credits. If child_runs names several steps for a run, the run counts for the first. Null if there are no such runs. The credits of step_facts are credits minus child_credits.';
COMMENT ON COLUMN run_steps.extra IS
    'Fields of the step without a column, by path; null if there are none.';

CREATE TABLE run_step_calls (
    run_id        text    NOT NULL,
    step_key      text    NOT NULL,
    ordinal       integer NOT NULL,
    call_id       text,
    index         bigint,
    key           text,
    type          text,
    status        text,
    started_at    timestamptz,
    ended_at      timestamptz,
    duration_s    double precision
        GENERATED ALWAYS AS (extract(epoch FROM ended_at - started_at)::double precision) STORED,
    error         text,
    output        jsonb,
    logs          jsonb,
    provider      text,
    model         text,
    input_tokens  bigint,
    output_tokens bigint,
    child_run_id  text,
    extra         jsonb,
    CONSTRAINT run_step_calls_pkey PRIMARY KEY (run_id, step_key, ordinal),
    CONSTRAINT run_step_calls_step_fkey FOREIGN KEY (run_id, step_key)
        REFERENCES run_steps (run_id, step_key) ON DELETE CASCADE
);
COMMENT ON TABLE run_step_calls IS 'One row per loop iteration or tool call of a step.';
COMMENT ON COLUMN run_step_calls.run_id IS 'Run of the call (runs.id).';
COMMENT ON COLUMN run_step_calls.step_key IS 'Step of the call (run_steps.step_key).';
COMMENT ON COLUMN run_step_calls.ordinal IS 'Position of the call in the step''s list of calls, from 0.';
COMMENT ON COLUMN run_step_calls.call_id IS 'Id of the call; null if the API gave none.';
COMMENT ON COLUMN run_step_calls.index IS 'Number of the loop iteration, as given by the API.';
COMMENT ON COLUMN run_step_calls.key IS 'Key of the step in a loop iteration, or of the tool in a tool call.';
COMMENT ON COLUMN run_step_calls.type IS 'Step type of the call; null if the API gave none.';
COMMENT ON COLUMN run_step_calls.status IS 'Status, as in runs.status.';
COMMENT ON COLUMN run_step_calls.started_at IS 'When the call started.';
COMMENT ON COLUMN run_step_calls.ended_at IS 'When the call ended; null while it is open.';
COMMENT ON COLUMN run_step_calls.duration_s IS 'ended_at minus started_at, in seconds; null if either is null.';
COMMENT ON COLUMN run_step_calls.error IS 'Message of the call''s error.';
COMMENT ON COLUMN run_step_calls.output IS 'Output of the call, as received.';
COMMENT ON COLUMN run_step_calls.logs IS 'Log lines of the call, as received.';
COMMENT ON COLUMN run_step_calls.provider IS 'Provider of the model that was called.';
COMMENT ON COLUMN run_step_calls.model IS 'Model that was called.';
COMMENT ON COLUMN run_step_calls.input_tokens IS
    'Input tokens of a model call, as counted by its provider (output.raw); null if the provider does not report them.';
COMMENT ON COLUMN run_step_calls.output_tokens IS
    'Output tokens of a model call, as counted by its provider (output.raw); null if the provider does not report them.';
COMMENT ON COLUMN run_step_calls.child_run_id IS
    'Run that the call started, in an iteration of a looped workflow step or as a tool (runs.id, if that workflow is synced).';
COMMENT ON COLUMN run_step_calls.extra IS
    'Fields of the call without a column, by path; null if there are none.';

CREATE TABLE run_usage_calls (
    run_id      text    NOT NULL,
    step_key    text    NOT NULL,
    path        text    NOT NULL,
    parent_path text,
    depth       integer NOT NULL,
    call_id     text,
    credits     numeric,
    CONSTRAINT run_usage_calls_pkey PRIMARY KEY (run_id, step_key, path),
    CONSTRAINT run_usage_calls_run_fkey FOREIGN KEY (run_id) REFERENCES runs (id) ON DELETE CASCADE
);
COMMENT ON TABLE run_usage_calls IS
    'The tree of credits: one row per node below the root. The totals of the roots are runs.credits and run_steps.credits. Each node includes the nodes below it, and the tree of a run the trees of its steps, so sum one level of one tree only.';
COMMENT ON COLUMN run_usage_calls.run_id IS 'Run that used the credits (runs.id).';
COMMENT ON COLUMN run_usage_calls.step_key IS
    'Step of the tree (run_steps.step_key); an empty string for the tree of the run itself.';
COMMENT ON COLUMN run_usage_calls.path IS 'Positions of the node and its ancestors among their siblings, from 0, joined by dots: 0, 0.1, 0.1.0.';
COMMENT ON COLUMN run_usage_calls.parent_path IS 'Path of the parent node; null at the first level.';
COMMENT ON COLUMN run_usage_calls.depth IS 'Level below the root, from 1.';
COMMENT ON COLUMN run_usage_calls.call_id IS 'Id of the call; null if the API gave none.';
COMMENT ON COLUMN run_usage_calls.credits IS 'Credits of the node and all nodes below it, exact.';

CREATE TABLE child_runs (
    parent_run_id   text NOT NULL,
    parent_step_key text NOT NULL,
    run_id          text NOT NULL,
    CONSTRAINT child_runs_pkey PRIMARY KEY (parent_run_id, parent_step_key, run_id),
    CONSTRAINT child_runs_run_fkey FOREIGN KEY (parent_run_id) REFERENCES runs (id) ON DELETE CASCADE
);
COMMENT ON TABLE child_runs IS
    'One row per run that a step started. The ids are in the step''s output, in the items of its output if the step looped, and in the outputs of its calls: in run_id where the step or call has the type workflow. Where it has another type, in run_id if there is also a workflow_id and the step cost credits: such outputs may mention any run by its run_id alone, for instance if a model examines runs.';
COMMENT ON COLUMN child_runs.parent_run_id IS 'Run whose step started the run (runs.id).';
COMMENT ON COLUMN child_runs.parent_step_key IS 'Step that started the run (run_steps.step_key).';
COMMENT ON COLUMN child_runs.run_id IS 'Run that was started (runs.id, if its workflow is synced).';

-- Indexes besides the primary keys. The comment of an index describes the queries that use it. Each index slows down
-- loading.

CREATE INDEX runs_created_idx ON runs (created_at);
COMMENT ON INDEX runs_created_idx IS 'Runs of a period: WHERE created_at >= now() - interval ''7 days''.';

-- A covering index for index-only scans by the daily views. created_at is included, because PostgreSQL uses an
-- expression index for such scans only if the index also contains the columns of the expression.
CREATE INDEX runs_day_idx ON runs (((created_at AT TIME ZONE 'UTC')::date), workflow_id)
    INCLUDE (created_at, workflow_app_id, app_id, status, duration_s, own_credits);
COMMENT ON INDEX runs_day_idx IS 'Days of workflow_health_daily and credits_daily: WHERE day >= current_date - 30.';

CREATE INDEX runs_stream_idx ON runs (workflow_id, stream_app_id, created_at) INCLUDE (gone_at);
COMMENT ON INDEX runs_stream_idx IS
    'Runs of a workflow by time, and the counts of a stream (sync_health, the end of a sync): WHERE workflow_id = ... AND created_at >= ...';

CREATE INDEX runs_open_idx ON runs (workflow_id, stream_app_id, created_at)
    WHERE status IN ('PENDING', 'RUNNING') AND gone_at IS NULL;
COMMENT ON INDEX runs_open_idx IS 'Open runs: the view open_runs, and the runs that each sync requests again.';

CREATE INDEX runs_failed_idx ON runs ((coalesce(ended_at, updated_at, created_at))) WHERE status = 'FAILED';
COMMENT ON INDEX runs_failed_idx IS 'Latest failures: recent_failures ORDER BY failed_at DESC LIMIT 20.';

CREATE INDEX runs_record_idx ON runs (record_id) WHERE record_id IS NOT NULL;
COMMENT ON INDEX runs_record_idx IS 'Runs of a record: WHERE record_id = ...';

CREATE INDEX runs_retention_idx ON runs (retention_due_at) WHERE retention_due_at IS NOT NULL AND gone_at IS NULL;
COMMENT ON INDEX runs_retention_idx IS
    'Runs that the API removes soon: WHERE gone_at IS NULL AND retention_due_at < now() + interval ''7 days''.';

CREATE INDEX runs_version_idx ON runs (workflow_version_id);
COMMENT ON INDEX runs_version_idx IS 'Runs of a version: WHERE workflow_version_id = ...';

CREATE INDEX runs_draft_idx ON runs (workflow_draft_id) WHERE workflow_draft_id IS NOT NULL;
COMMENT ON INDEX runs_draft_idx IS 'Runs with a draft: WHERE workflow_draft_id = ..., and whether forget can delete the draft.';

CREATE INDEX runs_shared_idx ON runs ((coalesce(listed_under_workflow_id, workflow_id)), created_at)
    WHERE also_listed_by IS NOT NULL;
COMMENT ON INDEX runs_shared_idx IS 'Runs that several apps list: listed_runs and sync_health.';

CREATE INDEX runs_listed_under_idx ON runs (listed_under_workflow_id, created_at)
    WHERE listed_under_workflow_id IS NOT NULL;
COMMENT ON INDEX runs_listed_under_idx IS 'Runs in the listing of another workflow: listed_runs and sync_health.';

CREATE INDEX child_runs_run_idx ON child_runs (run_id, parent_run_id, parent_step_key);
COMMENT ON INDEX child_runs_run_idx IS 'Parents of a run: WHERE run_id = ..., run_tree, run_facts, and own credits.';

-- Keep statistics and visibility maps up to date while a warehouse grows, for good query plans.
ALTER TABLE runs SET (autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
ALTER TABLE run_steps SET (autovacuum_analyze_scale_factor = 0.02);

-- ANALYZE underestimates the number of distinct run_id values (by a factor of 4 with a million runs), so that the
-- planner prefers a sequential scan to an index scan for the steps of a week's runs. The values are fractions of the
-- row count.
ALTER TABLE run_steps ALTER COLUMN run_id SET (n_distinct = -0.2);
ALTER TABLE run_usage_calls ALTER COLUMN run_id SET (n_distinct = -0.12);

-- lz4 is several times faster than the default compression. Servers built without lz4 keep the default.
DO $$
DECLARE
    payload record;
BEGIN
    FOR payload IN
        SELECT a.attrelid::regclass AS table_name, a.attname AS column_name
        FROM pg_attribute AS a
        JOIN pg_class AS c ON c.oid = a.attrelid
        WHERE c.relnamespace = quote_ident(current_schema())::regnamespace AND c.relkind = 'r'
            AND a.atttypid = 'jsonb'::regtype AND a.attnum > 0
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET COMPRESSION lz4', payload.table_name, payload.column_name);
    END LOOP;
EXCEPTION
    WHEN feature_not_supported THEN
        RAISE NOTICE 'This server does not support lz4; payloads use its default compression.';
END
$$;
