-- As watch_runs, but waits for nobody: a run that another transaction holds comes back unwatched. Whoever holds a batch's row
-- must not wait for a run: completions lock runs first and batches after.
-- As in lock_runs, each is met by its key. Index: runs_pkey.
WITH named AS MATERIALIZED (
    SELECT DISTINCT u.id FROM unnest($2::uuid[]) AS u (id) ORDER BY u.id
),
there AS MATERIALIZED (
    SELECT l.environment_id, l.id FROM named AS n
    CROSS JOIN LATERAL (
        SELECT r.environment_id, r.id FROM headrace.runs AS r WHERE r.environment_id = $1::integer AND r.id = n.id LIMIT 1
    ) AS l
),
free AS MATERIALIZED (
    SELECT l.environment_id, l.id FROM named AS n
    CROSS JOIN LATERAL (
        SELECT r.environment_id, r.id FROM headrace.runs AS r
        WHERE r.environment_id = $1::integer AND r.id = n.id LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS l
),
watched AS (
    UPDATE headrace.runs AS r SET watched = true FROM free AS f
    WHERE r.environment_id = f.environment_id AND r.id = f.id
    RETURNING r.id, r.finished_at IS NOT NULL AS ended, r.status = 'COMPLETED' AS succeeded, r.parent_run_id
)
SELECT t.id, w.id IS NOT NULL AS watched, w.ended, w.succeeded, w.parent_run_id FROM there AS t LEFT JOIN watched AS w ON w.id = t.id
