-- Tasks are as home has them ($1, JSON rows). Returns those that were not, and whether their code names a queue. They are locked in the
-- order in which workers that register lock them. Index: tasks_pkey.
INSERT INTO headrace.tasks AS t (
    environment_id, id, queue, max_attempts, skips_failed, coalesces, registered_at, current_version
)
SELECT h.environment_id, h.id, h.queue, h.max_attempts, h.skips_failed, h.coalesces, h.registered_at, h.current_version
FROM jsonb_populate_recordset(NULL::headrace.tasks, $1::jsonb) AS h ORDER BY h.environment_id, h.id
ON CONFLICT (environment_id, id) DO UPDATE
SET queue = EXCLUDED.queue, max_attempts = EXCLUDED.max_attempts, skips_failed = EXCLUDED.skips_failed,
    coalesces = EXCLUDED.coalesces, registered_at = EXCLUDED.registered_at, current_version = EXCLUDED.current_version
WHERE (t.queue, t.max_attempts, t.skips_failed, t.coalesces, t.current_version)
    IS DISTINCT FROM (EXCLUDED.queue, EXCLUDED.max_attempts, EXCLUDED.skips_failed, EXCLUDED.coalesces, EXCLUDED.current_version)
RETURNING t.environment_id, t.id, t.queue <> 'task/' || t.id AS elsewhere
