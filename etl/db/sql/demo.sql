-- name: workflows
-- Which workflows cost most, and how often do they fail?
SELECT workflow_name,
       sum(runs)              AS runs,
       sum(failed)            AS failed,
       round(100.0 * sum(failed) / nullif(
           sum(completed + failed + cancelled + skipped), 0), 1) AS "failed %",
       round(sum(credits), 2) AS credits
FROM workflow_health_daily
GROUP BY workflow_name
ORDER BY credits DESC NULLS LAST
LIMIT 5;

-- name: steps
-- Which steps take longest?
SELECT w.name                               AS workflow_name,
       s.step_key,
       s.type,
       s.runs,
       round(s.p50_s::numeric, 1) AS p50_s,
       round(s.p95_s::numeric, 1) AS p95_s
FROM step_performance s
JOIN workflows w ON w.id = s.workflow_id
ORDER BY s.p95_s DESC NULLS LAST
LIMIT 5;

-- name: failures
-- What failed last, and why?
SELECT to_char(failed_at, 'YYYY-MM-DD HH24:MI') AS failed_at,
       workflow_name,
       step_key,
       error
FROM recent_failures
ORDER BY failed_at DESC
LIMIT 5;

-- name: forget
-- Drop the demo's schema in the demo's own PostgreSQL, to start over.
DROP SCHEMA IF EXISTS cortex CASCADE;
