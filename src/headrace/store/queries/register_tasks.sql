-- What a worker says of its tasks. The last word counts, but for that of a version ($7) which is not a task's current one and does not
-- become it by this, so an old worker that starts again undoes nothing; its tasks' rows are locked all the same. Indexes: tasks_pkey,
-- versions_environment_id_version_key, version_tasks_pkey.
INSERT INTO headrace.tasks (environment_id, id, queue, max_attempts, skips_failed, coalesces, registered_at)
SELECT $1::integer, t.id, t.queue, t.max_attempts, t.skips_failed, t.coalesces, headrace.clock()
FROM unnest($2::text[], $3::text[], $4::integer[], $5::boolean[], $6::integer[])
    AS t (id, queue, max_attempts, skips_failed, coalesces) ORDER BY t.id
ON CONFLICT (environment_id, id) DO UPDATE
SET queue = EXCLUDED.queue, max_attempts = EXCLUDED.max_attempts, skips_failed = EXCLUDED.skips_failed,
    coalesces = EXCLUDED.coalesces, registered_at = EXCLUDED.registered_at
WHERE tasks.current_version IS NULL OR tasks.current_version = $7::text OR ($8::boolean AND NOT EXISTS (
    SELECT FROM headrace.versions AS v JOIN headrace.version_tasks AS s ON s.version_id = v.id
    WHERE v.environment_id = tasks.environment_id AND v.version = $7::text AND s.task = tasks.id
))
