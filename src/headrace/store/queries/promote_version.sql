-- Makes a version the current one of all its tasks. Tasks are locked in one order, as workers that register lock them. Indexes:
-- versions_environment_id_version_key, version_tasks_pkey, tasks_pkey.
WITH held AS MATERIALIZED (
    SELECT t.environment_id, t.id
    FROM headrace.versions AS v
    JOIN headrace.version_tasks AS s ON s.version_id = v.id
    JOIN headrace.tasks AS t ON t.environment_id = v.environment_id AND t.id = s.task
    WHERE v.environment_id = $1::integer AND v.version = $2::text
    ORDER BY t.id FOR UPDATE OF t
)
UPDATE headrace.tasks AS t SET current_version = $2::text
FROM held AS h WHERE t.environment_id = h.environment_id AND t.id = h.id
RETURNING t.id
