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
COMMENT ON COLUMN etl_syncs.started_at IS 'When the invocation started.';
COMMENT ON COLUMN etl_syncs.ended_at IS 'When the invocation ended; null while it is running.';
COMMENT ON COLUMN etl_syncs.status IS
    'running, succeeded, partial (some streams failed or are incomplete), failed, interrupted, or skipped (other invocations held all its streams).';
COMMENT ON COLUMN etl_syncs.requests IS 'Number of HTTP requests sent, including retries.';
COMMENT ON COLUMN etl_syncs.retries IS 'Number of retries among them.';
COMMENT ON COLUMN etl_syncs.pages IS 'Number of pages read.';
COMMENT ON COLUMN etl_syncs.runs_seen IS 'Number of runs received.';
COMMENT ON COLUMN etl_syncs.runs_inserted IS 'Number of new runs.';
COMMENT ON COLUMN etl_syncs.runs_updated IS 'Number of runs whose content had changed.';
COMMENT ON COLUMN etl_syncs.runs_unchanged IS 'Number of runs whose content had not changed.';
COMMENT ON COLUMN etl_syncs.runs_gone IS 'Number of runs that the API no longer lists.';
COMMENT ON COLUMN etl_syncs.rejects IS 'Number of quarantined items (etl_rejects).';
COMMENT ON COLUMN etl_syncs.error IS 'Message of the error that ended the invocation, or of the first failure; null if there is none.';
COMMENT ON COLUMN etl_syncs.host IS 'Host on which the invocation ran.';
COMMENT ON COLUMN etl_syncs.pid IS 'Process id on the host.';
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
    reconcile_began_at timestamptz,
    reconciled_since   timestamptz,
    CONSTRAINT etl_streams_pkey PRIMARY KEY (app_id, workflow_id)
);
COMMENT ON TABLE etl_streams IS 'One row per stream, which is the listing of one workflow''s runs by one app.';
COMMENT ON COLUMN etl_streams.app_id IS 'App of the stream.';
COMMENT ON COLUMN etl_streams.workflow_id IS 'Workflow of the stream.';
COMMENT ON COLUMN etl_streams.requested IS
    'Whether the settings request the stream, when a sync, status or doctor last read them. A stream that is no longer requested is retired.';
COMMENT ON COLUMN etl_streams.late_after IS
    'Time without a complete sync after which the stream is late: the longer of 1 day and 2 × sync.reconcile_every.';
COMMENT ON COLUMN etl_streams.watermark IS
    'Largest updated_at for which all listed runs up to that time are loaded or quarantined.';
COMMENT ON COLUMN etl_streams.backfill_done IS 'Whether the whole history has been loaded.';
COMMENT ON COLUMN etl_streams.backfill_cursor IS 'Where an interrupted backfill resumes; null if no backfill is unfinished.';
COMMENT ON COLUMN etl_streams.last_synced_at IS 'When the last sync of the stream reached the end of its listing.';
COMMENT ON COLUMN etl_streams.last_succeeded_at IS
    'When a sync of the stream last ended with equal counts in the API and the warehouse.';
COMMENT ON COLUMN etl_streams.last_reconciled_at IS 'When all runs listed by the API were last compared with the warehouse. If a reconcile took several syncs, the start of the first.';
COMMENT ON COLUMN etl_streams.api_count IS 'Number of runs in the listing according to the API (pagination-count).';
COMMENT ON COLUMN etl_streams.counts_at IS 'When the API reported api_count.';
COMMENT ON COLUMN etl_streams.last_error IS 'Message of the last failure; null after a success.';
COMMENT ON COLUMN etl_streams.last_hint IS 'What to do about the last failure, or about a reconcile that needs more requests than sync.reconcile_share allows; null if there is no hint.';
COMMENT ON COLUMN etl_streams.last_error_at IS 'When the last failure occurred.';
COMMENT ON COLUMN etl_streams.fence IS
    'Fencing token, which is incremented by each process that locks the stream, and checked in each commit.';
COMMENT ON COLUMN etl_streams.listing_order IS
    'Observed order of the listing: created_desc, created_asc, updated_desc or none; null if unknown.';
COMMENT ON COLUMN etl_streams.listing_status IS
    'Status filter of the last sync, to which api_count refers; ALL for no filter.';
COMMENT ON COLUMN etl_streams.listing_origin IS
    'Origin filter of the last sync, to which api_count refers; ALL for no filter.';
COMMENT ON COLUMN etl_streams.run_bytes IS
    'Average size of the runs that the last sync read, in bytes; null if unknown. It determines page sizes.';
COMMENT ON COLUMN etl_streams.reconcile_began_at IS
    'Start of the unfinished reconcile, if it takes several syncs; otherwise null.';
COMMENT ON COLUMN etl_streams.reconciled_since IS
    'The unfinished reconcile has compared all runs created at or after this time; null if there is no such reconcile.';

CREATE TABLE etl_page_sizes (
    app_id    text        NOT NULL,
    page_size integer     NOT NULL,
    tried_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT etl_page_sizes_pkey PRIMARY KEY (app_id)
);
COMMENT ON TABLE etl_page_sizes IS 'One row per app for which the maximum page size of the API is known.';
COMMENT ON COLUMN etl_page_sizes.app_id IS 'App in the settings.';
COMMENT ON COLUMN etl_page_sizes.page_size IS 'Maximum number of runs per page.';
COMMENT ON COLUMN etl_page_sizes.tried_at IS 'When page_size was determined. After 7 days, larger pages are tried again.';

CREATE FUNCTION page_size_of(app_id text) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT page_size FROM etl_page_sizes AS known
    WHERE known.app_id = page_size_of.app_id AND known.tried_at > now() - interval '7 days'
$$;
COMMENT ON FUNCTION page_size_of IS 'The maximum page size of the API for an app; null if it is not known, or to be tried again.';

-- A function created in this form keeps referring to the tables of its schema if that is renamed.
CREATE FUNCTION lock_key(VARIADIC name text[]) RETURNS bigint LANGUAGE sql STABLE
RETURN hashtextextended(array_to_string(
    (SELECT nspname::text FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = 'etl_streams'::regclass)
    || name, E'\n'), 0);
COMMENT ON FUNCTION lock_key IS
    'The key of an advisory lock of this schema by its name: ''sync'' and etl_syncs.id, or ''stream'', app and workflow, for example.';

-- The session holds the locks until it releases them or ends. A former owner that hangs in the middle of a commit keeps
-- rows locked: its session, which holds the commit lock, is terminated. The new fencing token prevents later commits of
-- a former owner.
CREATE FUNCTION lock_streams(app_ids text[], workflow_ids text[]) RETURNS SETOF etl_streams LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    WITH asked AS MATERIALIZED (
        SELECT app_id, workflow_id,
            pg_try_advisory_lock(lock_key('stream', app_id, workflow_id)) AS is_locked,
            lock_key('commit', app_id, workflow_id) AS commit_key
        FROM unnest(app_ids, workflow_ids) AS streams (app_id, workflow_id)
    ),
    locked AS MATERIALIZED (
        SELECT asked.app_id, asked.workflow_id, count(pg_terminate_backend(activity.pid))
        FROM asked
        LEFT JOIN (
            etl_locks AS locks
            JOIN pg_stat_activity AS activity ON activity.pid = locks.backend_pid
                AND activity.usename = current_user AND activity.pid <> pg_backend_pid()
        ) ON locks.key = asked.commit_key
        WHERE asked.is_locked
        GROUP BY asked.app_id, asked.workflow_id
    )
    INSERT INTO etl_streams AS streams (app_id, workflow_id, fence)
    SELECT locked.app_id, locked.workflow_id, 1 FROM locked ORDER BY locked.app_id, locked.workflow_id
    ON CONFLICT ON CONSTRAINT etl_streams_pkey DO UPDATE SET fence = streams.fence + 1
    RETURNING streams.*;
END
$$;
COMMENT ON FUNCTION lock_streams IS
    'Locks those of the given streams that no other session holds, and returns their rows, each with a new fencing token.';

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
    CONSTRAINT etl_queue_pkey PRIMARY KEY (sync_id, place)
);
COMMENT ON TABLE etl_queue IS
    'One row per workflow that a running invocation syncs. A process claims a workflow with all apps that list it, because they may list the same runs. If several processes read a large stream, it also has a row per slice of its creation times (fence is not null); an app whose workflows could not be listed has a finished row (place is negative).';
COMMENT ON COLUMN etl_queue.sync_id IS 'Invocation (etl_syncs.id). When it ends, its rows are deleted.';
COMMENT ON COLUMN etl_queue.place IS 'Position in the queue; negative for an app whose workflows could not be listed.';
COMMENT ON COLUMN etl_queue.workflow_id IS 'The workflow.';
COMMENT ON COLUMN etl_queue.app_ids IS 'Apps that list the workflow; their listings are read one after another.';
COMMENT ON COLUMN etl_queue.claimed_by IS 'Process that has claimed the workflow or slice; null if no process has.';
COMMENT ON COLUMN etl_queue.held_since IS
    'When another invocation was first found to hold one of the streams; null if none was. The workflow is then tried again after all others.';
COMMENT ON COLUMN etl_queue.outcomes IS 'Outcomes of the streams, or the result of reading the slice; null until the row is finished.';
COMMENT ON COLUMN etl_queue.requests IS 'Number of HTTP requests that the process has sent since it last finished a workflow or slice.';
COMMENT ON COLUMN etl_queue.retries IS 'Number of retries among them.';
COMMENT ON COLUMN etl_queue.fence IS
    'For a slice, the fencing token (etl_streams.fence) of the process that has locked the stream; other processes commit with this token too.';
COMMENT ON COLUMN etl_queue.since IS 'For a slice, the earliest creation time, inclusive; null if it has no lower bound.';
COMMENT ON COLUMN etl_queue.until IS 'For a slice, the latest creation time, exclusive; null if it has no upper bound.';

CREATE INDEX etl_queue_free_idx ON etl_queue (sync_id, place) WHERE claimed_by IS NULL AND held_since IS NULL;
COMMENT ON INDEX etl_queue_free_idx IS 'The next workflow to claim.';

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
    'One row per invocation that several processes work on, with the state that they share.';
COMMENT ON COLUMN etl_shared_syncs.sync_id IS 'Invocation (etl_syncs.id).';
COMMENT ON COLUMN etl_shared_syncs.name IS 'Name by which other processes join the invocation (--join).';
COMMENT ON COLUMN etl_shared_syncs.terms IS
    'Values that must be equal in all processes: mode, selection, version, and short hashes of the settings by key.';
COMMENT ON COLUMN etl_shared_syncs.is_queued IS 'Whether the workflows have been queued (etl_queue).';
COMMENT ON COLUMN etl_shared_syncs.requests IS 'Number of HTTP requests that do not belong to a workflow, such as those of discovery.';
COMMENT ON COLUMN etl_shared_syncs.retries IS 'Number of retries among them.';
COMMENT ON COLUMN etl_shared_syncs.stop_code IS 'Exit code with which all processes must stop; null if they need not stop.';
COMMENT ON COLUMN etl_shared_syncs.stop_error IS 'Error message for all processes; null if there is none.';
COMMENT ON COLUMN etl_shared_syncs.stop_hint IS 'What to do about the error; null if there is no hint.';
COMMENT ON COLUMN etl_shared_syncs.summary IS 'Summary of the invocation, as printed by sync --json; null until the invocation ends.';

CREATE TABLE etl_app_errors (
    app_id        text NOT NULL,
    last_error    text NOT NULL,
    last_hint     text,
    last_error_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT etl_app_errors_pkey PRIMARY KEY (app_id)
);
COMMENT ON TABLE etl_app_errors IS
    'One row per app whose workflows the last sync could not list completely. Streams of the app that were not synced since are failing.';
COMMENT ON COLUMN etl_app_errors.app_id IS 'App in the settings.';
COMMENT ON COLUMN etl_app_errors.last_error IS 'Error message of listing the workflows.';
COMMENT ON COLUMN etl_app_errors.last_hint IS 'What to do about the error; null if there is no hint.';
COMMENT ON COLUMN etl_app_errors.last_error_at IS 'When the error occurred.';

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
    'The quarantine: one row per item that could not be loaded, with its bytes, so that it can be loaded after the cause is fixed.';
COMMENT ON COLUMN etl_rejects.id IS 'Number of the item, ascending.';
COMMENT ON COLUMN etl_rejects.sync_id IS 'Invocation that quarantined the item (etl_syncs.id); null after that row is deleted.';
COMMENT ON COLUMN etl_rejects.app_id IS 'App of the stream (etl_streams.app_id).';
COMMENT ON COLUMN etl_rejects.workflow_id IS 'Workflow of the stream (etl_streams.workflow_id).';
COMMENT ON COLUMN etl_rejects.run_id IS 'Id of the run; null if it cannot be read.';
COMMENT ON COLUMN etl_rejects.url IS 'URL from which the item was read, without secrets.';
COMMENT ON COLUMN etl_rejects.page IS 'Page of the listing, from 1; 0 for a run that was requested by id.';
COMMENT ON COLUMN etl_rejects.reason IS 'Stable code of the reason.';
COMMENT ON COLUMN etl_rejects.error IS 'Error message, with the expected and the received value.';
COMMENT ON COLUMN etl_rejects.payload IS
    'The item as received. With payloads.store: none or payloads.redact, only its ids, status, times and numbers; then empty if the item is not a JSON object. Also empty if the item is too large.';
COMMENT ON COLUMN etl_rejects.digest IS 'SHA-256 of the item as received, to recognize it when it is read again.';
COMMENT ON COLUMN etl_rejects.bytes IS 'Size of the item as received, in bytes.';
COMMENT ON COLUMN etl_rejects.created_at IS 'When the item was quarantined.';
COMMENT ON COLUMN etl_rejects.resolved_at IS
    'When the item or a later copy of the run was loaded, or the item was no longer listed; null while the item is in quarantine.';

CREATE UNIQUE INDEX etl_rejects_open_idx ON etl_rejects (app_id, workflow_id, digest) WHERE resolved_at IS NULL;
COMMENT ON INDEX etl_rejects_open_idx IS
    'Uniqueness of quarantined items, and the items of a stream (sync_health, rejects list).';
CREATE INDEX etl_rejects_open_run_idx ON etl_rejects (run_id) WHERE resolved_at IS NULL;
COMMENT ON INDEX etl_rejects_open_run_idx IS
    'Quarantined copies of runs that have just been loaded, to resolve them.';
CREATE INDEX etl_rejects_sync_idx ON etl_rejects (sync_id);
COMMENT ON INDEX etl_rejects_sync_idx IS 'Items that an invocation quarantined, for deleting old rows of etl_syncs.';

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
    'One row per API host and egress address, with the request budget that all processes of this warehouse share.';
COMMENT ON COLUMN etl_rate_budgets.host IS 'Host name and port of the API. The rate limit is per IP address, so all keys share the budget.';
COMMENT ON COLUMN etl_rate_budgets.egress IS
    'Name of the address from which requests reach the host (setting api.egress); empty if the setting is not set.';
COMMENT ON COLUMN etl_rate_budgets.granted_at IS 'Latest time at which the requests of each recent lease are sent.';
COMMENT ON COLUMN etl_rate_budgets.granted IS 'Number of requests in each of these leases.';
COMMENT ON COLUMN etl_rate_budgets.paused_until IS 'Until when all requests are paused at the API''s request; null if they are not paused.';
COMMENT ON COLUMN etl_rate_budgets.paused_at IS 'When the API last requested a pause; null if it never did.';
COMMENT ON COLUMN etl_rate_budgets.paused_after IS
    'Number of requests granted in the minute before paused_at; at most so many were sent.';

CREATE TABLE etl_settings (
    name       text        NOT NULL,
    value      jsonb,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT etl_settings_pkey PRIMARY KEY (name)
);
COMMENT ON TABLE etl_settings IS 'Values that are kept between invocations.';
COMMENT ON COLUMN etl_settings.name IS 'Name of the value.';
COMMENT ON COLUMN etl_settings.value IS 'The value.';
COMMENT ON COLUMN etl_settings.updated_at IS 'When the value was last written.';

CREATE TABLE etl_erased (
    hash      bytea       NOT NULL,
    kind      text        NOT NULL,
    erased_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT etl_erased_pkey PRIMARY KEY (hash)
);
COMMENT ON TABLE etl_erased IS 'One row per run or record that was erased permanently (cortex-etl forget), so that later loads do not restore it.';
COMMENT ON COLUMN etl_erased.hash IS 'Salted hash of the id.';
COMMENT ON COLUMN etl_erased.kind IS 'run, or record (all runs of the record, including future ones).';
COMMENT ON COLUMN etl_erased.erased_at IS 'When the run or record was erased.';

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
COMMENT ON COLUMN etl_alert_rules.found_since IS 'First check since which all checks have found rows; null if the last check found none.';
COMMENT ON COLUMN etl_alert_rules.firing IS 'Whether the rule is firing, according to the last message sent.';
