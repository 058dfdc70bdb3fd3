-- The lanes of (task, queue, kind, locked version); a queue that is not given is the one that the task's worker registered.
-- Indexes: tasks_pkey, lanes_by_name.
SELECT w.task, w.given, w.queue, w.kind::text AS kind, w.locked_to, l.id
FROM (
    SELECT p.task, p.queue AS given, coalesce(p.queue, t.queue, 'task/' || p.task) AS queue, p.kind::headrace.lane_kind AS kind, p.locked_to
    FROM unnest($2::text[], $3::text[], $6::text[], $7::text[]) AS p (task, queue, kind, locked_to)
    LEFT JOIN headrace.tasks AS t ON t.environment_id = $1::integer AND t.id = p.task
) AS w
LEFT JOIN headrace.lanes AS l ON l.environment_id = $1::integer AND l.task = w.task AND l.queue = w.queue
    AND l.batch_id IS NOT DISTINCT FROM $4::uuid AND l.version IS NOT DISTINCT FROM coalesce(w.locked_to, $5::text)
    AND l.kind = w.kind AND l.locked = (w.locked_to IS NOT NULL)
