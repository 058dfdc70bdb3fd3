-- As watch_runs, but waits for nobody: a run that another transaction holds comes back unwatched. Whoever holds a batch's row
-- must not wait for a run: completions lock runs first and batches after.
-- Index: runs_pkey.
WITH there AS MATERIALIZED (
    SELECT r.environment_id, r.id FROM headrace.runs AS r
    WHERE r.environment_id = $1::integer AND r.id = ANY($2::uuid[])
),
free AS MATERIALIZED (
    SELECT r.environment_id, r.id FROM headrace.runs AS r
    WHERE r.environment_id = $1::integer AND r.id = ANY($2::uuid[]) ORDER BY r.id FOR UPDATE SKIP LOCKED
),
watched AS (
    UPDATE headrace.runs AS r SET watched = true FROM free AS f
    WHERE r.environment_id = f.environment_id AND r.id = f.id
    RETURNING r.id, r.finished_at IS NOT NULL AS ended, r.status = 'COMPLETED' AS succeeded, r.parent_run_id
)
SELECT t.id, w.id IS NOT NULL AS watched, w.ended, w.succeeded, w.parent_run_id FROM there AS t LEFT JOIN watched AS w ON w.id = t.id
