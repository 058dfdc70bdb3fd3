-- In a store other than home: a version that a worker runs, and the tasks that it has there, where they are not known here yet. Which
-- version is a task's current one is home's to say. Indexes: versions_environment_id_version_key, version_tasks_pkey.
WITH seen AS (
    INSERT INTO headrace.versions (environment_id, version, first_seen_at, last_seen_at)
    SELECT $1::integer, $2::text, t.now, t.now FROM (SELECT headrace.clock() AS now) AS t
    ON CONFLICT (environment_id, version) DO UPDATE SET last_seen_at = EXCLUDED.last_seen_at
    RETURNING id
)
INSERT INTO headrace.version_tasks (version_id, task, first_seen_at)
SELECT s.id, t.task, headrace.clock() FROM seen AS s CROSS JOIN unnest($3::text[]) AS t (task) ORDER BY t.task
ON CONFLICT (version_id, task) DO NOTHING
