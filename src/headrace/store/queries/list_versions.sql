-- Versions, the one that came last first: those below $3 (all: NULL), at most $4; or one, by its name ($2). Indexes:
-- versions_environment_id_version_key, version_tasks_pkey, tasks_pkey, workers_by_version.
SELECT v.id, v.version, v.first_seen_at, v.last_seen_at, v.promoted_at,
    ARRAY(SELECT s.task FROM headrace.version_tasks AS s WHERE s.version_id = v.id ORDER BY s.task) AS tasks,
    ARRAY(
        SELECT s.task FROM headrace.version_tasks AS s
        JOIN headrace.tasks AS t ON t.environment_id = v.environment_id AND t.id = s.task AND t.current_version = v.version
        WHERE s.version_id = v.id ORDER BY s.task
    ) AS current_for,
    (
        SELECT count(*)::integer FROM headrace.workers AS w
        WHERE w.environment_id = v.environment_id AND w.version = v.version AND w.ended_at IS NULL
    ) AS workers
FROM headrace.versions AS v
WHERE v.environment_id = $1::integer AND ($2::text IS NULL OR v.version = $2::text) AND ($3::integer IS NULL OR v.id < $3::integer)
ORDER BY v.id DESC LIMIT $4::integer
