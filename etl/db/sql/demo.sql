-- name: workflows
-- Which workflows cost most, and how often do they fail?
SELECT workflow_name,
       sum(runs)              AS runs,
       sum(failed)            AS failed,
       round(100.0 * sum(failed) / nullif(
           sum(completed + failed + cancelled + skipped), 0), 1) AS "failed %",
       round(sum(credits), 2) AS credits
FROM workflow_health_daily
GROUP BY workflow_id, workflow_name
ORDER BY credits DESC NULLS LAST
LIMIT 5;

-- name: steps
-- Which steps take longest?
SELECT workflow_name,
       step_key,
       type,
       runs,
       round(p50_s::numeric, 1) AS p50_s,
       round(p95_s::numeric, 1) AS p95_s
FROM step_performance
ORDER BY step_performance.p95_s DESC NULLS LAST
LIMIT 5;

-- name: failures
-- What fails most, and why?
SELECT workflow_name,
       step_key,
       message,
       runs,
       to_char(last_seen, 'YYYY-MM-DD HH24:MI') AS last_seen
FROM failure_groups
ORDER BY runs DESC, failure_groups.last_seen DESC
LIMIT 5;

-- name: forget
-- Drop the demo's schema in the demo's own PostgreSQL, to start over.
DROP SCHEMA IF EXISTS cortex CASCADE;
