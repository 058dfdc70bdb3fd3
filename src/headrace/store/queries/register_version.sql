-- A version that a worker runs, and the tasks that it has there. A task that is new in it makes it the task's current version, where
-- promotion is automatic ($4) or the task has none. The caller's transaction holds the rows of the tasks. Indexes:
-- versions_environment_id_version_key, version_tasks_pkey, tasks_pkey.
WITH seen AS (
    INSERT INTO headrace.versions (environment_id, version, first_seen_at, last_seen_at)
    SELECT $1::integer, $2::text, t.now, t.now FROM (SELECT headrace.clock() AS now) AS t
    ON CONFLICT (environment_id, version) DO UPDATE SET last_seen_at = EXCLUDED.last_seen_at
    RETURNING id
),
fresh AS (
    INSERT INTO headrace.version_tasks (version_id, task, first_seen_at)
    SELECT s.id, t.task, headrace.clock() FROM seen AS s CROSS JOIN unnest($3::text[]) AS t (task) ORDER BY t.task
    ON CONFLICT (version_id, task) DO NOTHING
    RETURNING task
)
UPDATE headrace.tasks AS t SET current_version = $2::text
FROM fresh AS f
WHERE t.environment_id = $1::integer AND t.id = f.task AND ($4::boolean OR t.current_version IS NULL)
RETURNING t.id
