-- Calls of a looped model step that tell no type are calls of that step.

CREATE OR REPLACE VIEW counted_models AS
SELECT
    runs.day,
    runs.workflow_id,
    coalesce(steps.provider, by_model.provider) AS provider,
    coalesce(steps.model, by_model.model) AS model,
    sum(coalesce(by_model.calls, 1))::bigint AS calls,
    sum(coalesce(by_model.failed, CASE WHEN steps.status = 'FAILED' THEN 1 ELSE 0 END))::bigint AS failed,
    sum(steps.usage_total) FILTER (WHERE coalesce(by_model.models, 1) = 1) AS credits
FROM etl_uncounted_runs AS runs
CROSS JOIN LATERAL (
    SELECT run_id, step_key, provider, model, status, output, usage_total
    FROM run_steps
    WHERE run_id = runs.id AND type = 'model'
    OFFSET 0
) AS steps
LEFT JOIN LATERAL (
    SELECT
        calls.provider,
        calls.model,
        count(*) AS calls,
        count(*) FILTER (WHERE calls.status = 'FAILED') AS failed,
        count(*) OVER () AS models
    FROM run_step_calls AS calls
    WHERE calls.run_id = steps.run_id AND calls.step_key = steps.step_key
        AND (
            calls.type = 'model' OR calls.model IS NOT NULL
            -- In a loop a call has the key of its step; the output is not there where no payloads are stored.
            OR calls.type IS NULL AND (calls.key = calls.step_key OR jsonb_typeof(steps.output) = 'array')
        )
        AND steps.provider IS NULL AND steps.model IS NULL
    GROUP BY calls.provider, calls.model
) AS by_model ON true
WHERE by_model.calls IS NOT NULL OR steps.provider IS NOT NULL OR steps.model IS NOT NULL
    OR coalesce(steps.output <> '[]', true)
GROUP BY
    runs.day, runs.workflow_id, coalesce(steps.provider, by_model.provider), coalesce(steps.model, by_model.model);

-- Days that were counted without them.
INSERT INTO etl_changed_days (workflow_id, day, runs)
SELECT workflow_id, day, sum(runs)
FROM rollup_health
GROUP BY 1, 2;
