-- Bookkeeping: invocations, the progress of each stream, the quarantine, the shared request budget and erased runs.

CREATE TABLE etl_syncs (
    id             bigint GENERATED ALWAYS AS IDENTITY,
    mode           text        NOT NULL,
    started_at     timestamptz NOT NULL DEFAULT now(),
    ended_at       timestamptz,
    status         text        NOT NULL DEFAULT 'running',
    requests       bigint      NOT NULL DEFAULT 0,
    retries        bigint      NOT NULL DEFAULT 0,
    pages          bigint      NOT NULL DEFAULT 0,
    runs_seen      bigint      NOT NULL DEFAULT 0,
    runs_inserted  bigint      NOT NULL DEFAULT 0,
    runs_updated   bigint      NOT NULL DEFAULT 0,
    runs_unchanged bigint      NOT NULL DEFAULT 0,
    runs_gone      bigint      NOT NULL DEFAULT 0,
    rejects        bigint      NOT NULL DEFAULT 0,
    error          text,
    host           text,
    pid            integer,
    version        text,
    CONSTRAINT etl_syncs_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE etl_syncs IS 'One row per invocation of sync, backfill or reconcile.';
COMMENT ON COLUMN etl_syncs.id IS 'Number of the invocation, ascending.';
COMMENT ON COLUMN etl_syncs.mode IS 'sync, backfill or reconcile.';
COMMENT ON COLUMN etl_syncs.started_at IS 'When it started.';
COMMENT ON COLUMN etl_syncs.ended_at IS 'When it ended; null while it runs.';
COMMENT ON COLUMN etl_syncs.status IS
    'running, succeeded, partial (some streams failed or are incomplete), failed, interrupted, or skipped (other invocations held all its streams).';
COMMENT ON COLUMN etl_syncs.requests IS 'HTTP requests sent, including retries.';
COMMENT ON COLUMN etl_syncs.retries IS 'HTTP requests that were retries.';
COMMENT ON COLUMN etl_syncs.pages IS 'Pages of listings read.';
COMMENT ON COLUMN etl_syncs.runs_seen IS 'Runs received.';
COMMENT ON COLUMN etl_syncs.runs_inserted IS 'Runs that were new to the warehouse.';
COMMENT ON COLUMN etl_syncs.runs_updated IS 'Runs whose content had changed.';
COMMENT ON COLUMN etl_syncs.runs_unchanged IS 'Runs that the warehouse already held as received.';
COMMENT ON COLUMN etl_syncs.runs_gone IS 'Runs that the API no longer lists.';
COMMENT ON COLUMN etl_syncs.rejects IS 'Runs put into quarantine (etl_rejects).';
COMMENT ON COLUMN etl_syncs.error IS 'Message of the error that ended it or of the first failure; null without one.';
COMMENT ON COLUMN etl_syncs.host IS 'Host that it ran on.';
COMMENT ON COLUMN etl_syncs.pid IS 'Process id on that host.';
COMMENT ON COLUMN etl_syncs.version IS 'Version of cortex-etl.';

CREATE TABLE etl_streams (
    app_id             text   NOT NULL,
    workflow_id        text   NOT NULL,
    requested          boolean  NOT NULL DEFAULT true,
    late_after         interval NOT NULL DEFAULT '1 day',
    watermark          timestamptz,
    backfill_done      boolean NOT NULL DEFAULT false,
    backfill_cursor    jsonb,
    last_synced_at     timestamptz,
    last_succeeded_at  timestamptz,
    last_reconciled_at timestamptz,
    api_count          bigint,
    counts_at          timestamptz,
    last_error         text,
    last_hint          text,
    last_error_at      timestamptz,
    fence              bigint NOT NULL DEFAULT 0,
    listing_order      text,
    listing_status     text NOT NULL DEFAULT 'ALL',
    listing_origin     text NOT NULL DEFAULT 'ALL',
    run_bytes          bigint,
    CONSTRAINT etl_streams_pkey PRIMARY KEY (app_id, workflow_id)
);
COMMENT ON TABLE etl_streams IS 'One row per stream: the run listing of one workflow as one app lists it.';
COMMENT ON COLUMN etl_streams.app_id IS 'App whose listing is read.';
COMMENT ON COLUMN etl_streams.workflow_id IS 'Workflow whose runs are read.';
COMMENT ON COLUMN etl_streams.requested IS
    'Whether the settings ask for the stream, as the last sync found; a stream that they no longer ask for is retired.';
COMMENT ON COLUMN etl_streams.late_after IS
    'How long the stream may go without a complete sync: the longer of 1 day and 2 × sync.reconcile_every.';
COMMENT ON COLUMN etl_streams.watermark IS
    'Largest updated_at such that every listed run at or below it is loaded or quarantined.';
COMMENT ON COLUMN etl_streams.backfill_done IS 'Whether the whole history has been read once.';
COMMENT ON COLUMN etl_streams.backfill_cursor IS 'Where an interrupted backfill resumes; null when none is unfinished.';
COMMENT ON COLUMN etl_streams.last_synced_at IS 'When a sync last read the stream to its end.';
COMMENT ON COLUMN etl_streams.last_succeeded_at IS
    'When a sync of the stream last ended with the counts of the API and the warehouse in agreement.';
COMMENT ON COLUMN etl_streams.last_reconciled_at IS 'When everything that the API lists was last compared with the warehouse.';
COMMENT ON COLUMN etl_streams.api_count IS 'Number of runs in the listing, as the API last counted them (pagination-count).';
COMMENT ON COLUMN etl_streams.counts_at IS 'When the API counted them.';
COMMENT ON COLUMN etl_streams.last_error IS 'Message of the last failure; null after a success.';
COMMENT ON COLUMN etl_streams.last_hint IS 'What to do about the last failure; null after a success, or if nothing is known to help.';
COMMENT ON COLUMN etl_streams.last_error_at IS 'When the last failure occurred.';
COMMENT ON COLUMN etl_streams.fence IS
    'Fencing token: incremented by each process that takes the stream over and checked in each commit.';
COMMENT ON COLUMN etl_streams.listing_order IS
    'Order of the listing as observed: created_desc, created_asc, updated_desc or none; null while unknown.';
COMMENT ON COLUMN etl_streams.listing_status IS
    'Filter by status with which the listing was last read; api_count counts the runs that pass it. ALL: no filter.';
COMMENT ON COLUMN etl_streams.listing_origin IS
    'Filter by origin with which the listing was last read; api_count counts the runs that pass it. ALL: no filter.';
COMMENT ON COLUMN etl_streams.run_bytes IS
    'Average size of the runs that the last sync read, in bytes; null while unknown. Page sizes follow it.';

CREATE TABLE etl_page_sizes (
    app_id    text        NOT NULL,
    page_size integer     NOT NULL,
    tried_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT etl_page_sizes_pkey PRIMARY KEY (app_id)
);
COMMENT ON TABLE etl_page_sizes IS 'One row per app whose listings have shown the largest page that the API gives.';
COMMENT ON COLUMN etl_page_sizes.app_id IS 'App in the settings.';
COMMENT ON COLUMN etl_page_sizes.page_size IS 'Largest number of runs on a page.';
COMMENT ON COLUMN etl_page_sizes.tried_at IS 'When that showed. After 7 days larger pages are tried again.';

CREATE TABLE etl_queue (
    sync_id     bigint  NOT NULL,
    place       integer NOT NULL,
    workflow_id text    NOT NULL,
    app_ids     text[]  NOT NULL,
    claimed_by  text,
    held_since  timestamptz,
    outcomes    jsonb,
    requests    bigint  NOT NULL DEFAULT 0,
    retries     bigint  NOT NULL DEFAULT 0,
    fence       bigint,
    since       timestamptz,
    until       timestamptz,
    start       integer,
    CONSTRAINT etl_queue_pkey PRIMARY KEY (sync_id, place)
);
COMMENT ON TABLE etl_queue IS
    'One row per workflow that a running invocation reads. It is claimed as a whole, with all apps that list it, because they may list the same runs. A big stream that several processes read also has a row per window of creation times.';
COMMENT ON COLUMN etl_queue.sync_id IS 'Invocation (etl_syncs.id). Its rows are deleted when it ends.';
COMMENT ON COLUMN etl_queue.place IS 'Order in which the workflows are read.';
COMMENT ON COLUMN etl_queue.workflow_id IS 'Workflow whose runs are read.';
COMMENT ON COLUMN etl_queue.app_ids IS 'Apps whose listings of them are read, one after another.';
COMMENT ON COLUMN etl_queue.claimed_by IS 'Process that reads it; null while none does.';
COMMENT ON COLUMN etl_queue.held_since IS
    'When another invocation was first found to hold one of its streams; it is tried again after all others.';
COMMENT ON COLUMN etl_queue.outcomes IS 'How each of its streams ended, or the reading of the window; null until then.';
COMMENT ON COLUMN etl_queue.requests IS 'HTTP requests that the process had sent by then, since the last workflow or window that it finished.';
COMMENT ON COLUMN etl_queue.retries IS 'HTTP requests among them that were retries.';
COMMENT ON COLUMN etl_queue.fence IS
    'Of a window: the fencing token (etl_streams.fence) of the process that has claimed the stream; others commit under it too.';
COMMENT ON COLUMN etl_queue.since IS 'Of a window: runs created at this time or later; null for all of the end.';
COMMENT ON COLUMN etl_queue.until IS 'Of a window: runs created before this time; null for all of the beginning.';
COMMENT ON COLUMN etl_queue.start IS 'Of a window: about how many runs the listing shows in front of it.';

CREATE INDEX etl_queue_free_idx ON etl_queue (sync_id, place) WHERE claimed_by IS NULL AND held_since IS NULL;
COMMENT ON INDEX etl_queue_free_idx IS 'Finds the next workflow to claim.';

CREATE TABLE etl_shared_syncs (
    sync_id    bigint  NOT NULL,
    name       text,
    terms      jsonb   NOT NULL,
    is_queued  boolean NOT NULL DEFAULT false,
    requests   bigint  NOT NULL DEFAULT 0,
    retries    bigint  NOT NULL DEFAULT 0,
    stop_code  integer,
    stop_error text,
    stop_hint  text,
    summary    jsonb,
    CONSTRAINT etl_shared_syncs_pkey PRIMARY KEY (sync_id)
);
COMMENT ON TABLE etl_shared_syncs IS
    'One row per invocation that several processes work on: what they agree in, and what they tell each other.';
COMMENT ON COLUMN etl_shared_syncs.sync_id IS 'Invocation (etl_syncs.id).';
COMMENT ON COLUMN etl_shared_syncs.name IS 'Name that copies of the command join (--join).';
COMMENT ON COLUMN etl_shared_syncs.terms IS
    'What all processes must agree in: mode, selection, version, and short hashes of their settings, by key.';
COMMENT ON COLUMN etl_shared_syncs.is_queued IS 'Whether its workflows have been found and queued (etl_queue).';
COMMENT ON COLUMN etl_shared_syncs.requests IS 'HTTP requests that finding them took.';
COMMENT ON COLUMN etl_shared_syncs.retries IS 'HTTP requests among them that were retries.';
COMMENT ON COLUMN etl_shared_syncs.stop_code IS 'Exit code with which all processes are to end at once; null while none is to.';
COMMENT ON COLUMN etl_shared_syncs.stop_error IS 'Message of the error that is the reason; null without one.';
COMMENT ON COLUMN etl_shared_syncs.stop_hint IS 'What to do about it; null without one.';
COMMENT ON COLUMN etl_shared_syncs.summary IS 'The summary of the whole, as sync --json prints it; null until the end.';

CREATE TABLE etl_app_errors (
    app_id        text NOT NULL,
    last_error    text NOT NULL,
    last_hint     text,
    last_error_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT etl_app_errors_pkey PRIMARY KEY (app_id)
);
COMMENT ON TABLE etl_app_errors IS
    'One row per app whose workflows the last sync of the app could not list, or not all of them. Its streams that no sync has read since are failing.';
COMMENT ON COLUMN etl_app_errors.app_id IS 'App in the settings.';
COMMENT ON COLUMN etl_app_errors.last_error IS 'Error message: why its workflows could not be listed.';
COMMENT ON COLUMN etl_app_errors.last_hint IS 'What to do about it; null if nothing is known to help.';
COMMENT ON COLUMN etl_app_errors.last_error_at IS 'When that happened.';

CREATE TABLE etl_rejects (
    id          bigint GENERATED ALWAYS AS IDENTITY,
    sync_id     bigint,
    app_id      text        NOT NULL,
    workflow_id text        NOT NULL,
    run_id      text,
    url         text,
    page        integer,
    reason      text        NOT NULL,
    error       text        NOT NULL,
    payload     bytea       NOT NULL,
    digest      bytea       NOT NULL,
    bytes       bigint,
    created_at  timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    CONSTRAINT etl_rejects_pkey PRIMARY KEY (id),
    CONSTRAINT etl_rejects_sync_fkey FOREIGN KEY (sync_id) REFERENCES etl_syncs (id) ON DELETE SET NULL
);
COMMENT ON TABLE etl_rejects IS
    'The quarantine: items of a listing that could not be loaded, with their bytes, so that they can be loaded once the cause is fixed.';
COMMENT ON COLUMN etl_rejects.id IS 'Number of the item, ascending.';
COMMENT ON COLUMN etl_rejects.sync_id IS 'Invocation that quarantined the item (etl_syncs.id); null once that row is pruned.';
COMMENT ON COLUMN etl_rejects.app_id IS 'App of the stream (etl_streams.app_id).';
COMMENT ON COLUMN etl_rejects.workflow_id IS 'Workflow of the stream (etl_streams.workflow_id).';
COMMENT ON COLUMN etl_rejects.run_id IS 'Id of the run; null where it cannot be read.';
COMMENT ON COLUMN etl_rejects.url IS 'URL that the item came from, without secrets.';
COMMENT ON COLUMN etl_rejects.page IS 'Page of the listing, from 1; 0 for a run that was read by its id.';
COMMENT ON COLUMN etl_rejects.reason IS 'Stable code of the reason.';
COMMENT ON COLUMN etl_rejects.error IS 'Error message: what was expected and what was received.';
COMMENT ON COLUMN etl_rejects.payload IS
    'The item as received. With payloads.store none or payloads.redact only its ids, status, times and numbers; empty if it is not a JSON object, or too large.';
COMMENT ON COLUMN etl_rejects.digest IS 'SHA-256 of the item as received, to recognise it when it is read again.';
COMMENT ON COLUMN etl_rejects.bytes IS 'Size of the item as received, in bytes.';
COMMENT ON COLUMN etl_rejects.created_at IS 'When the item was quarantined.';
COMMENT ON COLUMN etl_rejects.resolved_at IS
    'When the item or a later version of the run was loaded, or the item was no longer listed; null while it is in quarantine.';

CREATE UNIQUE INDEX etl_rejects_open_idx ON etl_rejects (app_id, workflow_id, digest) WHERE resolved_at IS NULL;
COMMENT ON INDEX etl_rejects_open_idx IS
    'Keeps each quarantined item once; finds the items of a stream (sync_health, rejects list).';
CREATE INDEX etl_rejects_open_run_idx ON etl_rejects (run_id) WHERE resolved_at IS NULL;
COMMENT ON INDEX etl_rejects_open_run_idx IS
    'Finds the quarantined versions of runs that have just been loaded, to resolve them.';
CREATE INDEX etl_rejects_sync_idx ON etl_rejects (sync_id);
COMMENT ON INDEX etl_rejects_sync_idx IS 'Finds the items that one invocation quarantined; serves the pruning of etl_syncs.';

CREATE TABLE etl_rate_budgets (
    host         text NOT NULL,
    egress       text NOT NULL DEFAULT '',
    granted_at   timestamptz[] NOT NULL DEFAULT '{}',
    granted      integer[]     NOT NULL DEFAULT '{}',
    paused_until timestamptz,
    paused_at    timestamptz,
    paused_after integer,
    CONSTRAINT etl_rate_budgets_pkey PRIMARY KEY (host, egress)
);
COMMENT ON TABLE etl_rate_budgets IS
    'One row per API host and address that it sees: the request budget that the processes on this warehouse share.';
COMMENT ON COLUMN etl_rate_budgets.host IS 'Host name and port of the API. Its rate limit counts per IP address, so all keys share the budget.';
COMMENT ON COLUMN etl_rate_budgets.egress IS
    'Name of the address that the host sees (setting api.egress); empty for processes that name none.';
COMMENT ON COLUMN etl_rate_budgets.granted_at IS 'When each recent lease of requests was granted.';
COMMENT ON COLUMN etl_rate_budgets.granted IS 'Number of requests in each of those leases.';
COMMENT ON COLUMN etl_rate_budgets.paused_until IS 'Until when no process sends requests, because the API asked for a pause; null without one.';
COMMENT ON COLUMN etl_rate_budgets.paused_at IS 'When the API last asked for a pause; null if it never did.';
COMMENT ON COLUMN etl_rate_budgets.paused_after IS
    'Number of requests granted in the minute before that. Fewer than configured means that the API allows fewer.';

CREATE TABLE etl_settings (
    name       text        NOT NULL,
    value      jsonb,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT etl_settings_pkey PRIMARY KEY (name)
);
COMMENT ON TABLE etl_settings IS 'Facts that the warehouse keeps from one invocation to the next.';
COMMENT ON COLUMN etl_settings.name IS 'Name of the fact.';
COMMENT ON COLUMN etl_settings.value IS 'Its value.';
COMMENT ON COLUMN etl_settings.updated_at IS 'When the fact was last written.';

CREATE TABLE etl_erased (
    hash      bytea       NOT NULL,
    kind      text        NOT NULL,
    erased_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT etl_erased_pkey PRIMARY KEY (hash)
);
COMMENT ON TABLE etl_erased IS 'One row per run or record that was erased for good (cortex-etl forget), so that it does not return.';
COMMENT ON COLUMN etl_erased.hash IS 'Salted hash of the id.';
COMMENT ON COLUMN etl_erased.kind IS 'run, or record: all runs of the record, future ones included.';
COMMENT ON COLUMN etl_erased.erased_at IS 'When it was erased.';

CREATE TABLE etl_alert_rules (
    name        text    NOT NULL,
    checked_at  timestamptz,
    found_since timestamptz,
    firing      boolean NOT NULL DEFAULT false,
    CONSTRAINT etl_alert_rules_pkey PRIMARY KEY (name)
);
COMMENT ON TABLE etl_alert_rules IS 'One row per alert rule that has been checked (settings alerts.enable and alerts.rules).';
COMMENT ON COLUMN etl_alert_rules.name IS 'Name of the rule.';
COMMENT ON COLUMN etl_alert_rules.checked_at IS
    'When the rule was last checked; null if its message could not be sent, so that the next sync checks it again.';
COMMENT ON COLUMN etl_alert_rules.found_since IS 'Since when every check has found rows; null if the last one found none.';
COMMENT ON COLUMN etl_alert_rules.firing IS 'Whether the rule fires, as the last message said.';
