-- The lanes of (task, queue) pairs; a queue that is not given is the one that the task's worker registered.
-- Indexes: tasks_pkey, lanes_by_name.
SELECT w.task, w.given, w.queue, l.id
FROM (
    SELECT p.task, p.queue AS given, coalesce(p.queue, t.queue, 'task/' || p.task) AS queue
    FROM unnest($2::text[], $3::text[]) AS p (task, queue)
    LEFT JOIN headrace.tasks AS t ON t.environment_id = $1::integer AND t.id = p.task
) AS w
LEFT JOIN headrace.lanes AS l ON l.environment_id = $1::integer AND l.task = w.task AND l.queue = w.queue
    AND l.batch_id IS NOT DISTINCT FROM $4::uuid AND l.version IS NOT DISTINCT FROM $5::text
