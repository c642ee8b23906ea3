-- A synthetic year of 20 workflows: schema `made` has a view with the rows to load for each table of the warehouse.
-- $RUNS is the number of runs. They are ordered by stream, newest first, as a backfill loads them.
CREATE SCHEMA made;

-- A pseudo-random number from 0 to 1, determined by the arguments.
CREATE FUNCTION made.chance(n bigint, salt bigint) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT (hashint8extended(n, salt) & 1048575) / 1048576.0::double precision $$;

-- A factor around 1 with a long tail.
CREATE FUNCTION made.spread(n bigint, salt bigint) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT exp(2 * (made.chance(n, salt) + made.chance(n, salt + 1) + made.chance(n, salt + 2) - 1.5)) $$;

CREATE TABLE made.steps AS
SELECT
    w AS workflow, pattern.ordinal, key, type, seconds, nodes, key = 'read_page' AS loops,
    CASE WHEN type = 'model' THEN (ARRAY['openai', 'anthropic', 'mistral', 'google'])[1 + (w + ordinal) % 4] END AS provider,
    CASE WHEN type = 'model' THEN (ARRAY['gpt-4o', 'sonnet', 'large', 'flash'])[1 + (w + ordinal) % 4] END AS model
FROM generate_series(0, 19) AS w
JOIN (
    VALUES
        (0, 0, 'intake', 'input', 0.02, 0), (0, 1, 'classify', 'model', 3, 2), (0, 2, 'route', 'branch', 0.01, 0),
        (0, 3, 'post_ticket', 'http_request', 0.4, 0), (0, 4, 'alert', 'service', 0.3, 2),
        (1, 0, 'intake', 'input', 0.02, 0), (1, 1, 'fetch', 'http_request', 0.6, 0), (1, 2, 'read_page', 'model', 9, 4),
        (1, 3, 'merge', 'code', 0.1, 0), (1, 4, 'summarise', 'model', 4, 2), (1, 5, 'store', 'service', 0.3, 2),
        (2, 0, 'intake', 'input', 0.02, 0), (2, 1, 'draft', 'model', 5, 2), (2, 2, 'review', 'model', 3, 2),
        (2, 3, 'assemble', 'code', 0.1, 1),
        (3, 0, 'intake', 'input', 0.02, 0), (3, 1, 'crawl', 'browser', 6, 2), (3, 2, 'extract', 'model', 4, 2),
        (3, 3, 'follow_up', 'workflow', 8, 0), (3, 4, 'done', 'code', 0.05, 0)
) AS pattern (number, ordinal, key, type, seconds, nodes) ON number = CASE w WHEN 19 THEN 2 ELSE w % 4 END;

CREATE TABLE made.base AS
WITH shares AS (
    SELECT w, 1.0 / (w + 3) / sum(1.0 / (w + 3)) OVER () AS share FROM generate_series(0, 19) AS w
), counted AS (
    SELECT w, greatest(round(share * $RUNS)::bigint, 1) AS runs FROM shares
), placed AS (
    SELECT w, runs, (sum(runs) OVER (ORDER BY w) - runs)::bigint AS before FROM counted
), timed AS (
    SELECT
        before + place AS n,
        w AS workflow,
        now() - interval '365 days' * ((place + made.chance(before + place, 1)) / runs) AS created_at
    FROM placed
    CROSS JOIN LATERAL generate_series(0, runs - 1) AS place
)
SELECT
    n,
    workflow,
    left(encode(sha256(n::text::bytea), 'base64'), 20) AS id,
    created_at,
    created_at + interval '2 s' * made.chance(n, 2) ^ 4 AS started_at,
    made.spread(n, 20) AS pace,
    CASE
        WHEN created_at > now() - interval '10 minutes' OR n % 100000 = 77777 THEN 'RUNNING'
        WHEN made.chance(n, 3) < 0.02 + workflow * 0.002 THEN 'FAILED'
        WHEN made.chance(n, 3) > 0.99 THEN 'CANCELLED'
        WHEN made.chance(n, 3) > 0.98 THEN 'SKIPPED'
        ELSE 'COMPLETED'
    END AS status,
    1 + floor(6 * (1 - extract(epoch FROM now() - created_at) / (365 * 86400.0)))::integer AS version,
    workflow IN (3, 7, 11, 15) AND made.chance(n, 4) < 0.1 AS starts_another
FROM timed;
CREATE INDEX ON made.base (n);

-- The run of the last workflow that each of those started: the nearest in time.
CREATE TABLE made.children AS
SELECT parent.n, child.id AS child_run_id
FROM (SELECT n, row_number() OVER (ORDER BY created_at DESC) AS place FROM made.base WHERE starts_another) AS parent
JOIN (SELECT id, row_number() OVER (ORDER BY created_at DESC) AS place FROM made.base WHERE workflow = 19) AS child
    USING (place);
CREATE INDEX ON made.children (n);
ANALYZE made.base, made.children, made.steps;

CREATE VIEW made.apps AS SELECT 'app' || a AS id, 'App ' || a AS name, a = 0 AS verified FROM generate_series(0, 1) AS a;

CREATE VIEW made.workflows AS
SELECT
    'wf' || w AS id, 'app' || w % 2 AS app_id, 'Workflow ' || w AS name, true AS enabled, false AS deleted,
    'wf' || w || ':6' AS current_version_id, now() - interval '400 days' AS created_at, now() AS updated_at
FROM generate_series(0, 19) AS w;

CREATE VIEW made.workflow_versions AS
SELECT
    'wf' || w || ':' || v AS id, 'app' || w % 2 AS app_id, 'wf' || w AS workflow_id, false AS is_draft, v AS version,
    'Release ' || v AS notes, 'user' || w % 5 AS created_by_id, 'User ' || w % 5 AS created_by_name,
    now() - interval '365 days' * ((7 - v) / 6.0) AS created_at
FROM generate_series(0, 19) AS w, generate_series(1, 6) AS v
UNION ALL
SELECT 'draft:' || w, 'app' || w % 2, 'wf' || w, true, NULL, NULL, NULL, NULL, now() FROM generate_series(0, 19) AS w;

CREATE VIEW made.workflow_steps AS
SELECT versions.id AS workflow_version_id, ordinal, key, type, '{"prompt": "Do it well."}'::jsonb AS config
FROM made.workflow_versions AS versions
JOIN made.steps ON 'wf' || steps.workflow = versions.workflow_id
UNION ALL
SELECT id, 9, 'never', 'code', '{}' FROM made.workflow_versions;

CREATE VIEW made.workflow_step_links AS
SELECT
    versions.id AS workflow_version_id, step.key AS from_key, after.key AS to_key,
    CASE step.type WHEN 'branch' THEN 'branch:yes' ELSE 'destination' END AS via
FROM made.workflow_versions AS versions
JOIN made.steps AS step ON 'wf' || step.workflow = versions.workflow_id
JOIN made.steps AS after ON after.workflow = step.workflow AND after.ordinal = step.ordinal + 1;

CREATE VIEW made.runs AS
SELECT
    id,
    'app' || workflow % 2 AS app_id,
    'app' || workflow % 2 AS workflow_app_id,
    'wf' || workflow AS workflow_id,
    CASE WHEN made.chance(n, 5) < 0.02 THEN 'draft:' || workflow ELSE 'wf' || workflow || ':' || version END AS workflow_version_id,
    CASE WHEN made.chance(n, 5) < 0.02 THEN 'draft:' || workflow END AS workflow_draft_id,
    CASE WHEN made.chance(n, 5) >= 0.02 THEN version END AS version,
    status,
    (ARRAY['RECORD', 'TRIGGER', 'WORKFLOW', 'TEST', 'ENDPOINT', 'WEBHOOK'])[1 + floor(6 * made.chance(n, 6))::integer] AS origin,
    CASE status WHEN 'FAILED' THEN '429 Rate limit reached for requests per min: limit ' || n % 5000 END AS error,
    started_at,
    CASE WHEN status <> 'RUNNING' THEN started_at + interval '12 s' * pace END AS ended_at,
    created_at,
    started_at + interval '12 s' * pace + CASE WHEN n % 500 = 0 THEN interval '3 days' ELSE '1 s' END AS updated_at,
    CASE WHEN made.chance(n, 6) < 0.4 THEN 'col' || workflow END AS collection_id,
    CASE WHEN made.chance(n, 6) < 0.4 THEN 'rec' || floor(50000 * made.chance(n, 7)) END AS record_id,
    jsonb_build_object('customer', jsonb_build_object('name', 'Customer ' || n % 40, 'vip', n % 40 = 0), 'text', repeat('word ', 10)) AS input,
    CASE status WHEN 'COMPLETED' THEN jsonb_build_object('answer', repeat('said ', 20)) END AS result,
    round((0.05 * pace)::numeric, 8) AS credits,
    round((0.05 * pace)::numeric, 8) AS own_credits,
    CASE WHEN n % 5 = 0 THEN 7776000 END AS retention_max_age_s,
    CASE WHEN n % 5 = 0 THEN created_at + interval '90 days' END AS retention_due_at,
    CASE WHEN n % 200 = 0 THEN '{"region": "eu"}'::jsonb END AS extra,
    sha256(id::bytea) AS content_hash,
    'app' || workflow % 2 AS stream_app_id,
    CASE WHEN n % 5 = 0 AND created_at < now() - interval '90 days' THEN created_at + interval '90 days' END AS gone_at
FROM made.base;

CREATE VIEW made.run_steps AS
SELECT
    base.id AS run_id,
    step.key AS step_key,
    step.ordinal,
    step.type,
    CASE WHEN base.status = 'FAILED' AND step.ordinal = 3 THEN 'FAILED' WHEN base.status = 'RUNNING' AND step.ordinal > 1
        THEN 'PENDING' ELSE 'COMPLETED' END AS status,
    base.started_at + interval '2 s' * base.pace * step.ordinal AS started_at,
    base.started_at + interval '2 s' * base.pace * step.ordinal
        + interval '1 s' * step.seconds * made.spread(base.n * 8 + step.ordinal, 30) AS ended_at,
    CASE WHEN base.status = 'FAILED' AND step.ordinal = 3 THEN step.key || ': Request failed with status code 502' END AS error,
    CASE WHEN NOT step.loops THEN jsonb_build_object('text', repeat('output ', 8)) ELSE '["page one", "page two", "page three"]' END AS output,
    CASE WHEN NOT step.loops THEN step.provider END AS provider,
    CASE WHEN NOT step.loops THEN step.model END AS model,
    CASE WHEN step.type IN ('http_request', 'browser') THEN CASE WHEN base.n % 50 = 0 THEN 502 ELSE 200 END END AS http_status,
    CASE WHEN step.type = 'workflow' THEN children.child_run_id END AS child_run_id,
    step.loops AS looped,
    CASE WHEN step.type = 'model' AND NOT step.loops THEN 1000 + base.n % 4000 END AS input_tokens,
    CASE WHEN step.type = 'model' AND NOT step.loops THEN 100 + base.n % 400 END AS output_tokens,
    CASE WHEN step.nodes > 0 THEN round((0.01 * step.seconds * base.pace)::numeric, 9) END AS credits
FROM made.base
JOIN made.steps AS step ON step.workflow = base.workflow
LEFT JOIN made.children ON children.n = base.n;

CREATE VIEW made.run_step_calls AS
SELECT
    base.id AS run_id, step.key AS step_key, place AS ordinal, 'call' || base.n || '-' || place AS call_id, place::bigint AS index,
    step.key AS key, step.type,
    CASE WHEN (base.n + place) % 300 = 0 THEN 'FAILED' ELSE 'COMPLETED' END AS status,
    base.started_at + interval '3 s' * place AS started_at,
    base.started_at + interval '3 s' * place + interval '2 s' * made.spread(base.n * 8 + place, 40) AS ended_at,
    jsonb_build_object('text', repeat('page ', 8)) AS output, step.provider, step.model
FROM made.base
JOIN made.steps AS step ON step.workflow = base.workflow AND step.loops
CROSS JOIN LATERAL generate_series(0, floor(8 * made.chance(base.n, 8) ^ 1.3)::integer) AS place;

-- The run's tree has one node per step with credits; the tree of a step is up to two levels deep.
CREATE VIEW made.run_usage_calls AS
SELECT
    base.id AS run_id,
    '' AS step_key,
    step.ordinal::text AS path,
    NULL::text AS parent_path,
    1 AS depth,
    NULL::text AS call_id,
    round((0.01 * step.seconds * base.pace)::numeric, 9) AS credits
FROM made.base
JOIN made.steps AS step ON step.workflow = base.workflow AND step.nodes > 0
UNION ALL
SELECT
    base.id,
    step.key,
    CASE WHEN node % 2 = 0 THEN (node / 2)::text ELSE node / 2 || '.0' END,
    CASE WHEN node % 2 = 1 THEN (node / 2)::text END,
    1 + node % 2,
    CASE WHEN node % 2 = 0 THEN 'call' || base.n || '-' || node / 2 END,
    round((0.01 * step.seconds * base.pace / (1 + node))::numeric, 9)
FROM made.base
JOIN made.steps AS step ON step.workflow = base.workflow AND step.nodes > 0
CROSS JOIN LATERAL generate_series(0, step.nodes - 1) AS node;

CREATE VIEW made.child_runs AS
SELECT run_id AS parent_run_id, step_key AS parent_step_key, child_run_id AS run_id
FROM made.run_steps
WHERE child_run_id IS NOT NULL;

CREATE VIEW made.etl_streams AS
SELECT
    'app' || w % 2 AS app_id, 'wf' || w AS workflow_id, now() AS watermark, true AS backfill_done,
    now() AS last_synced_at, now() AS last_reconciled_at, 1000::bigint AS api_count
FROM generate_series(0, 19) AS w;

CREATE VIEW made.etl_syncs AS
SELECT 'sync' AS mode, now() - interval '10 minutes' * i AS started_at, now() - interval '10 minutes' * i + interval '9 s' AS ended_at,
    'succeeded' AS status, 40::bigint AS requests
FROM generate_series(5000, 0, -1) AS i;

CREATE VIEW made.etl_rejects AS
SELECT
    'app' || i % 2 AS app_id, 'wf' || i % 20 AS workflow_id, 'bad' || i AS run_id, 'invalid_json' AS reason,
    'not JSON' AS error, '\x7b'::bytea AS payload, sha256(i::text::bytea) AS digest, now() - interval '1 day' AS created_at
FROM generate_series(1, 50) AS i;
