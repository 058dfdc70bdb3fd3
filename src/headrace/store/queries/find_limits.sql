-- The limits that lanes of these tasks are under, by the names that all stores know: queues, and '' for the environment. Indexes:
-- environments_pkey, lanes_open, tasks_pkey, queues_environment_id_name_key.
SELECT '' AS name FROM headrace.environments AS e WHERE e.id = $1::integer AND e.concurrency_limit IS NOT NULL
UNION
SELECT q.name
FROM headrace.lanes AS l
LEFT JOIN headrace.tasks AS t ON t.environment_id = l.environment_id AND t.id = l.task
-- as in claim_runs
CROSS JOIN LATERAL (SELECT CASE WHEN l.queue = 'task/' || l.task THEN coalesce(t.queue, l.queue) ELSE l.queue END AS queue) AS n
JOIN headrace.queues AS q ON q.environment_id = l.environment_id AND q.name = n.queue
WHERE l.environment_id = $1::integer AND l.open AND l.task = ANY($2::text[])
    AND (q.declared_limit IS NOT NULL OR q.override_limit IS NOT NULL OR q.override_percent IS NOT NULL OR q.key_limit IS NOT NULL
        OR q.rate_limit IS NOT NULL)
