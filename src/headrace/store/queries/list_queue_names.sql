-- The names of all queues that are known in this store: those that somebody said something of, those of tasks, and those that runs were
-- put on. $2 asks whether there is one. Indexes: queues_environment_id_name_key, tasks_pkey, lanes_by_name.
SELECT q.name FROM headrace.queues AS q WHERE q.environment_id = $1::integer AND ($2::text IS NULL OR q.name = $2::text)
UNION
SELECT t.queue FROM headrace.tasks AS t WHERE t.environment_id = $1::integer AND ($2::text IS NULL OR t.queue = $2::text)
UNION
SELECT n.queue FROM headrace.lanes AS l
LEFT JOIN headrace.tasks AS t ON t.environment_id = l.environment_id AND t.id = l.task
CROSS JOIN LATERAL (SELECT CASE WHEN l.queue = 'task/' || l.task THEN coalesce(t.queue, l.queue) ELSE l.queue END AS queue) AS n -- as in claim_runs
WHERE l.environment_id = $1::integer AND ($2::text IS NULL OR n.queue = $2::text)
