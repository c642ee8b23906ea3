-- Apps, workflows, their definitions, and the runs with everything that belongs to a run.
-- Names are unqualified: the runner sets search_path to the warehouse's schema.

CREATE TABLE apps (
    id       text NOT NULL,
    name     text,
    verified boolean,
    CONSTRAINT apps_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE apps IS 'One row an app: the owner of workflows.';
COMMENT ON COLUMN apps.id IS 'Id of the app, as the API gives it.';
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
    CONSTRAINT workflows_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE workflows IS
    'One row a workflow. Known only by its id (nulls elsewhere) where discovery is off.';
COMMENT ON COLUMN workflows.id IS 'Id of the workflow, as the API gives it.';
COMMENT ON COLUMN workflows.app_id IS 'App that the workflow belongs to (apps.id).';
COMMENT ON COLUMN workflows.name IS 'Display name of the workflow.';
COMMENT ON COLUMN workflows.description IS 'What the workflow is for, in its author''s words.';
COMMENT ON COLUMN workflows.enabled IS 'Whether the workflow may run.';
COMMENT ON COLUMN workflows.deleted IS 'Whether the workflow was deleted in the app.';
COMMENT ON COLUMN workflows.runs_count IS
    'Number of runs that the API counts for the workflow, at the time of discovery.';
COMMENT ON COLUMN workflows.template_id IS 'Template that the workflow was made from.';
COMMENT ON COLUMN workflows.retention_max_age_s IS
    'How long the API keeps the workflow''s runs, in seconds; -1 keeps them for ever.';
COMMENT ON COLUMN workflows.retention_preserve_on_failure IS
    'Whether failed runs are kept past their retention.';
COMMENT ON COLUMN workflows.tags IS 'Names of the workflow''s tags.';
COMMENT ON COLUMN workflows.current_version_id IS
    'Version in force (an id of workflow_versions, which holds it once a run has used it).';
COMMENT ON COLUMN workflows.created_at IS 'When the workflow was created.';
COMMENT ON COLUMN workflows.updated_at IS 'When the workflow was last changed.';
COMMENT ON COLUMN workflows.extra IS
    'Fields of the API''s document that no column holds, by their path; null when there are none.';
COMMENT ON COLUMN workflows.gone_at IS
    'When the API was found to list the workflow no longer; null while it does.';

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
    'One row a workflow definition that any run used, a published version or a draft, stored once however many runs carry it.';
COMMENT ON COLUMN workflow_versions.id IS
    'Id of the version as the API gives it; of a draft, which has none, ''draft:'' and a hash of the workflow''s id and the draft''s content.';
COMMENT ON COLUMN workflow_versions.app_id IS
    'App that the definition belongs to; of a draft, the run''s workflow_app_id.';
COMMENT ON COLUMN workflow_versions.workflow_id IS 'Workflow that this defines (workflows.id).';
COMMENT ON COLUMN workflow_versions.is_draft IS 'True for an unpublished draft, false for a published version.';
COMMENT ON COLUMN workflow_versions.version IS 'Number of the version within its workflow; null for a draft.';
COMMENT ON COLUMN workflow_versions.rollback_version IS
    'Number of the version that this one went back to, where it is a rollback.';
COMMENT ON COLUMN workflow_versions.description IS 'Description of the version.';
COMMENT ON COLUMN workflow_versions.notes IS 'Release notes of the version.';
COMMENT ON COLUMN workflow_versions.key IS 'Key of the definition, as its author named it.';
COMMENT ON COLUMN workflow_versions.created_by_id IS 'Id of the user who published the version.';
COMMENT ON COLUMN workflow_versions.created_by_name IS 'Name of the user who published the version.';
COMMENT ON COLUMN workflow_versions.created_at IS 'When the version was published.';
COMMENT ON COLUMN workflow_versions.input IS 'Definitions of the workflow''s inputs, by name.';
COMMENT ON COLUMN workflow_versions.input_default IS 'Default values of the inputs.';
COMMENT ON COLUMN workflow_versions.input_options IS
    'Options of the input form, as received (display_* hold the known ones).';
COMMENT ON COLUMN workflow_versions.display_field IS 'Layout of the input form''s fields: inline or stacked.';
COMMENT ON COLUMN workflow_versions.display_container IS 'Layout of the input form: grid, full or center.';
COMMENT ON COLUMN workflow_versions.display_hidden IS 'Whether the input form is hidden.';
COMMENT ON COLUMN workflow_versions.extra IS
    'Fields of the definition that no column holds, by their path; null when there are none.';
COMMENT ON COLUMN workflow_versions.content_hash IS
    'Hash of the definition as received, to recognise an unchanged one.';
COMMENT ON COLUMN workflow_versions.as_of IS
    'updated_at of the newest run that carried this text: where runs disagree on it, the newest run''s copy stands.';

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
COMMENT ON TABLE workflow_steps IS 'One row a step of a definition.';
COMMENT ON COLUMN workflow_steps.workflow_version_id IS 'Definition that the step is part of (workflow_versions.id).';
COMMENT ON COLUMN workflow_steps.ordinal IS 'Place of the step in the definition, from 0.';
COMMENT ON COLUMN workflow_steps.key IS 'Key of the step; run_steps.step_key of the runs that used it.';
COMMENT ON COLUMN workflow_steps.type IS
    'Step type: note, branch, code, model, http_request, browser, workflow, service, input, or a newer one.';
COMMENT ON COLUMN workflow_steps.display IS 'How the editor shows the step: expanded, collapsed or minimal.';
COMMENT ON COLUMN workflow_steps.conditional IS 'Expression that decides whether the step runs.';
COMMENT ON COLUMN workflow_steps.loop IS 'Expression whose items the step loops over.';
COMMENT ON COLUMN workflow_steps.throw_on_error IS 'Whether an error of the step fails the run.';
COMMENT ON COLUMN workflow_steps.input_connected IS 'Whether the step is connected to the workflow''s input.';
COMMENT ON COLUMN workflow_steps.position_x IS 'Horizontal place in the editor, in pixels.';
COMMENT ON COLUMN workflow_steps.position_y IS 'Vertical place in the editor, in pixels.';
COMMENT ON COLUMN workflow_steps.width IS 'Width in the editor, in pixels.';
COMMENT ON COLUMN workflow_steps.height IS 'Height in the editor, in pixels.';
COMMENT ON COLUMN workflow_steps.auto_provider IS 'Model provider that writes the step, where it is made automatically.';
COMMENT ON COLUMN workflow_steps.auto_model IS 'Model that writes the step, where it is made automatically.';
COMMENT ON COLUMN workflow_steps.auto_temperature IS 'Temperature of that model.';
COMMENT ON COLUMN workflow_steps.note IS 'Text of a note step.';
COMMENT ON COLUMN workflow_steps.config IS
    'Everything else of the step, by its type (url, code, provider, conditions and so on); links are in workflow_step_links.';

CREATE TABLE workflow_step_links (
    workflow_version_id text NOT NULL,
    from_key            text NOT NULL,
    to_key              text NOT NULL,
    via                 text NOT NULL,
    CONSTRAINT workflow_step_links_pkey PRIMARY KEY (workflow_version_id, from_key, to_key, via),
    CONSTRAINT workflow_step_links_version_fkey FOREIGN KEY (workflow_version_id)
        REFERENCES workflow_versions (id) ON DELETE CASCADE
);
COMMENT ON TABLE workflow_step_links IS 'The graph of a definition: one row a link from a step to a next one.';
COMMENT ON COLUMN workflow_step_links.workflow_version_id IS
    'Definition that the link is part of (workflow_versions.id).';
COMMENT ON COLUMN workflow_step_links.from_key IS 'Key of the step that the link leaves.';
COMMENT ON COLUMN workflow_step_links.to_key IS 'Key of the step that the link leads to.';
COMMENT ON COLUMN workflow_step_links.via IS
    'Why the link is taken: destination (always), branch:NAME (that condition of a branch) or else.';

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
    usage_total                   numeric,
    retention_max_age_s           bigint,
    retention_preserve_on_failure boolean,
    retention_due_at              timestamptz,
    extra                         jsonb,
    content_hash                  bytea,
    stream_app_id                 text,
    first_synced_at               timestamptz NOT NULL DEFAULT now(),
    last_synced_at                timestamptz NOT NULL DEFAULT now(),
    gone_at                       timestamptz,
    payload_removed_at            timestamptz,
    CONSTRAINT runs_pkey PRIMARY KEY (id),
    CONSTRAINT runs_version_fkey FOREIGN KEY (workflow_version_id) REFERENCES workflow_versions (id),
    CONSTRAINT runs_draft_fkey FOREIGN KEY (workflow_draft_id) REFERENCES workflow_versions (id)
);
COMMENT ON TABLE runs IS
    'One row a run of a workflow, in its latest known state. A run that leaves the API stays here, with gone_at set.';
COMMENT ON COLUMN runs.id IS 'Id of the run, as the API gives it.';
COMMENT ON COLUMN runs.app_id IS 'App that the run was triggered from (apps.id).';
COMMENT ON COLUMN runs.workflow_app_id IS 'App that the run''s workflow belongs to (apps.id).';
COMMENT ON COLUMN runs.workflow_id IS 'Workflow that ran (workflows.id).';
COMMENT ON COLUMN runs.workflow_version_id IS
    'Definition that ran (workflow_versions.id): the published version, or the draft where there is no version.';
COMMENT ON COLUMN runs.workflow_draft_id IS
    'Draft that the run carries (workflow_versions.id); null where it carries none.';
COMMENT ON COLUMN runs.version IS 'Number of the workflow version that ran, as the run itself says.';
COMMENT ON COLUMN runs.status IS
    'PENDING, RUNNING (both: still open), CANCELLED, COMPLETED, SKIPPED, FAILED, or a newer value of the API.';
COMMENT ON COLUMN runs.origin IS
    'What started the run: WORKFLOW, TRIGGER, RECORD, TEST, ENDPOINT, WEBHOOK, or a newer value of the API.';
COMMENT ON COLUMN runs.error IS 'Message of the error that ended the run.';
COMMENT ON COLUMN runs.started_at IS 'When the run started; null while it waits.';
COMMENT ON COLUMN runs.ended_at IS 'When the run ended; null while it is open.';
COMMENT ON COLUMN runs.duration_s IS 'ended_at minus started_at, in seconds; null where either is.';
COMMENT ON COLUMN runs.created_at IS 'When the run was created. Its UTC day is the day of the daily views.';
COMMENT ON COLUMN runs.updated_at IS 'When the run last changed in the API: a replay or a change of its retention moves it.';
COMMENT ON COLUMN runs.updated_on_day IS
    'True where the API gave updated_at as a bare day: it then counts as the end of that day.';
COMMENT ON COLUMN runs.collection_id IS 'Collection of the record that the run worked on.';
COMMENT ON COLUMN runs.record_id IS 'Record that the run worked on.';
COMMENT ON COLUMN runs.input IS 'Input of the run, as received.';
COMMENT ON COLUMN runs.result IS 'Result of the run, as received.';
COMMENT ON COLUMN runs.usage_total IS
    'Credits that the run used, exact; null where the API told none. run_usage_calls has what they went to.';
COMMENT ON COLUMN runs.retention_max_age_s IS 'How long the API keeps the run, in seconds; -1 keeps it for ever.';
COMMENT ON COLUMN runs.retention_preserve_on_failure IS 'Whether the run is kept past its retention if it failed.';
COMMENT ON COLUMN runs.retention_due_at IS 'When the API removes the run; null where it does not.';
COMMENT ON COLUMN runs.extra IS
    'Fields of the payload that no column holds, by their path, so that nothing is lost; null when there are none.';
COMMENT ON COLUMN runs.content_hash IS 'Hash of the run as received, to recognise an unchanged one.';
COMMENT ON COLUMN runs.stream_app_id IS
    'App in whose listing the run was found: with workflow_id it names the stream (etl_streams).';
COMMENT ON COLUMN runs.first_synced_at IS 'When the run was first loaded.';
COMMENT ON COLUMN runs.last_synced_at IS 'When the row''s content last changed here.';
COMMENT ON COLUMN runs.gone_at IS
    'When a reconcile found that the API no longer lists the run; null while it does.';
COMMENT ON COLUMN runs.payload_removed_at IS
    'When the run''s payloads were removed here because its retention was due; null while they stand.';

CREATE TABLE run_steps (
    run_id       text    NOT NULL,
    step_key     text    NOT NULL,
    ordinal      integer NOT NULL,
    type         text,
    status       text,
    started_at   timestamptz,
    ended_at     timestamptz,
    duration_ms  double precision
        GENERATED ALWAYS AS ((extract(epoch FROM ended_at - started_at) * 1000)::double precision) STORED,
    error        text,
    output       jsonb,
    logs         jsonb,
    provider     text,
    model        text,
    http_status  integer,
    child_run_id text,
    usage_total  numeric,
    extra        jsonb,
    CONSTRAINT run_steps_pkey PRIMARY KEY (run_id, step_key),
    CONSTRAINT run_steps_run_fkey FOREIGN KEY (run_id) REFERENCES runs (id) ON DELETE CASCADE
);
COMMENT ON TABLE run_steps IS
    'One row a step of a run: every step that has an output or used credits.';
COMMENT ON COLUMN run_steps.run_id IS 'Run that the step is part of (runs.id).';
COMMENT ON COLUMN run_steps.step_key IS
    'Key of the step in the definition (workflow_steps.key); a second step with the same key is key#2, and so on.';
COMMENT ON COLUMN run_steps.ordinal IS
    'Place of the step in the payload, from 0; steps known only by their credits come after the last output.';
COMMENT ON COLUMN run_steps.type IS
    'Step type: note, branch, code, model, http_request, browser, workflow, service, input, or a newer one.';
COMMENT ON COLUMN run_steps.status IS 'As of a run; null where the step is known only by its credits.';
COMMENT ON COLUMN run_steps.started_at IS 'When the step started.';
COMMENT ON COLUMN run_steps.ended_at IS 'When the step ended; null while it is open.';
COMMENT ON COLUMN run_steps.duration_ms IS 'ended_at minus started_at, in milliseconds; null where either is.';
COMMENT ON COLUMN run_steps.error IS 'Message of the step''s error.';
COMMENT ON COLUMN run_steps.output IS 'Output of the step, as received; a list where the step looped.';
COMMENT ON COLUMN run_steps.logs IS 'Log lines of the step, as received.';
COMMENT ON COLUMN run_steps.provider IS 'Provider of a model step''s model; null where the step looped (see run_step_calls).';
COMMENT ON COLUMN run_steps.model IS 'Model of a model step; null where the step looped (see run_step_calls).';
COMMENT ON COLUMN run_steps.http_status IS
    'HTTP status that an http_request or browser step got; null where the step looped.';
COMMENT ON COLUMN run_steps.child_run_id IS
    'Run that a workflow step started (runs.id, where that workflow is synced too); null where the step looped (see run_step_calls).';
COMMENT ON COLUMN run_steps.usage_total IS 'Credits that the step used, exact; null where the API told none.';
COMMENT ON COLUMN run_steps.extra IS
    'Fields of the step that no column holds, by their path; null when there are none.';

CREATE TABLE run_step_calls (
    run_id      text    NOT NULL,
    step_key    text    NOT NULL,
    ordinal     integer NOT NULL,
    call_id     text,
    index       bigint,
    key         text,
    type        text,
    status      text,
    started_at  timestamptz,
    ended_at    timestamptz,
    duration_ms double precision
        GENERATED ALWAYS AS ((extract(epoch FROM ended_at - started_at) * 1000)::double precision) STORED,
    error       text,
    output      jsonb,
    logs        jsonb,
    provider    text,
    model       text,
    child_run_id text,
    extra       jsonb,
    CONSTRAINT run_step_calls_pkey PRIMARY KEY (run_id, step_key, ordinal),
    CONSTRAINT run_step_calls_step_fkey FOREIGN KEY (run_id, step_key)
        REFERENCES run_steps (run_id, step_key) ON DELETE CASCADE
);
COMMENT ON TABLE run_step_calls IS 'One row a loop iteration or tool call of a step.';
COMMENT ON COLUMN run_step_calls.run_id IS 'Run that the call is part of (runs.id).';
COMMENT ON COLUMN run_step_calls.step_key IS 'Step that the call is part of (run_steps.step_key).';
COMMENT ON COLUMN run_step_calls.ordinal IS 'Place of the call in the step''s list of calls, from 0.';
COMMENT ON COLUMN run_step_calls.call_id IS 'Id of the call, where the API gives one.';
COMMENT ON COLUMN run_step_calls.index IS 'Number of the loop iteration, as the API gives it.';
COMMENT ON COLUMN run_step_calls.key IS 'Key of what was called: the step itself in a loop, else the tool.';
COMMENT ON COLUMN run_step_calls.type IS 'Step type of what was called.';
COMMENT ON COLUMN run_step_calls.status IS 'As of a run.';
COMMENT ON COLUMN run_step_calls.started_at IS 'When the call started.';
COMMENT ON COLUMN run_step_calls.ended_at IS 'When the call ended; null while it is open.';
COMMENT ON COLUMN run_step_calls.duration_ms IS 'ended_at minus started_at, in milliseconds; null where either is.';
COMMENT ON COLUMN run_step_calls.error IS 'Message of the call''s error.';
COMMENT ON COLUMN run_step_calls.output IS 'Output of the call, as received.';
COMMENT ON COLUMN run_step_calls.logs IS 'Log lines of the call, as received.';
COMMENT ON COLUMN run_step_calls.provider IS 'Provider of the model that was called.';
COMMENT ON COLUMN run_step_calls.model IS 'Model that was called.';
COMMENT ON COLUMN run_step_calls.child_run_id IS
    'Run that the call started: an iteration of a looped workflow step, or a tool (runs.id, where that workflow is synced too).';
COMMENT ON COLUMN run_step_calls.extra IS
    'Fields of the call that no column holds, by their path; null when there are none.';

CREATE TABLE run_usage_calls (
    run_id      text    NOT NULL,
    step_key    text    NOT NULL,
    path        text    NOT NULL,
    parent_path text,
    depth       integer NOT NULL,
    call_id     text,
    total       numeric,
    CONSTRAINT run_usage_calls_pkey PRIMARY KEY (run_id, step_key, path),
    CONSTRAINT run_usage_calls_run_fkey FOREIGN KEY (run_id) REFERENCES runs (id) ON DELETE CASCADE
);
COMMENT ON TABLE run_usage_calls IS
    'The credit tree, flattened: one row a node below the root. The roots'' totals are runs.usage_total and run_steps.usage_total.';
COMMENT ON COLUMN run_usage_calls.run_id IS 'Run that used the credits (runs.id).';
COMMENT ON COLUMN run_usage_calls.step_key IS
    'Step whose tree this is (run_steps.step_key); an empty string for the run''s own tree.';
COMMENT ON COLUMN run_usage_calls.path IS 'Places from the root, from 0, joined by dots: 0, 0.1, 0.1.0.';
COMMENT ON COLUMN run_usage_calls.parent_path IS 'Path of the node above; null at the first level.';
COMMENT ON COLUMN run_usage_calls.depth IS 'Level below the root, from 1.';
COMMENT ON COLUMN run_usage_calls.call_id IS 'Id of the call; null on levels that carry none.';
COMMENT ON COLUMN run_usage_calls.total IS 'Credits of this node and all below it, exact.';

-- lz4 packs and unpacks payloads several times faster than the default; servers built without it keep the default.
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
        RAISE NOTICE 'This server has no lz4; payloads use its default compression.';
END
$$;
