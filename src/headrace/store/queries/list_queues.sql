-- Queues by name: those that somebody said something of, those of tasks, and those that runs were put on; $2 asks for one, $3 and $4
-- for a page. Of each what may be done at once, what executes, and what is ready (counted to ten thousand a lane). Indexes:
-- queues_environment_id_name_key, tasks_pkey, lanes_open, environments_pkey, workers_not_emptied, runs_held, runs_ready.
WITH names AS MATERIALIZED (
    SELECT q.name FROM headrace.queues AS q WHERE q.environment_id = $1::integer AND ($2::text IS NULL OR q.name = $2::text)
    UNION
    SELECT t.queue FROM headrace.tasks AS t WHERE t.environment_id = $1::integer AND ($2::text IS NULL OR t.queue = $2::text)
    UNION
    SELECT n.queue FROM headrace.lanes AS l
    LEFT JOIN headrace.tasks AS t ON t.environment_id = l.environment_id AND t.id = l.task
    CROSS JOIN LATERAL (SELECT CASE WHEN l.queue = 'task/' || l.task THEN coalesce(t.queue, l.queue) ELSE l.queue END AS queue) AS n -- as in claim_runs
    WHERE l.environment_id = $1::integer AND ($2::text IS NULL OR n.queue = $2::text)
),
page AS MATERIALIZED (
    SELECT n.name FROM names AS n ORDER BY n.name LIMIT $3::integer OFFSET $4::bigint
),
executing AS MATERIALIZED (
    SELECT n.queue AS name, sum(held.runs)::bigint AS runs
    FROM headrace.workers AS w
    CROSS JOIN LATERAL (
        SELECT r.lane_id, count(*) AS runs FROM headrace.runs AS r WHERE r.worker_id = w.id AND r.status = 'EXECUTING' GROUP BY r.lane_id
    ) AS held
    JOIN headrace.lanes AS l ON l.id = held.lane_id
    LEFT JOIN headrace.tasks AS t ON t.environment_id = l.environment_id AND t.id = l.task
    CROSS JOIN LATERAL (SELECT CASE WHEN l.queue = 'task/' || l.task THEN coalesce(t.queue, l.queue) ELSE l.queue END AS queue) AS n
    WHERE w.emptied_at IS NULL AND w.environment_id = $1::integer
    GROUP BY n.queue
),
ready AS MATERIALIZED (
    SELECT n.queue AS name, sum(d.depth)::bigint AS runs
    FROM headrace.lanes AS l
    LEFT JOIN headrace.tasks AS t ON t.environment_id = l.environment_id AND t.id = l.task
    CROSS JOIN LATERAL (SELECT CASE WHEN l.queue = 'task/' || l.task THEN coalesce(t.queue, l.queue) ELSE l.queue END AS queue) AS n
    CROSS JOIN LATERAL (
        SELECT count(*) AS depth FROM (
            SELECT FROM headrace.runs AS r
            WHERE r.lane_id = l.id AND r.status = 'QUEUED' AND r.ready_at <= headrace.clock()
            ORDER BY r.ready_at, r.id LIMIT 10000
        ) AS h
    ) AS d
    WHERE l.environment_id = $1::integer AND l.open AND n.queue IN (SELECT p.name FROM page AS p)
    GROUP BY n.queue
)
SELECT p.name, (SELECT count(*) FROM names) AS total, q.declared_limit, q.override_limit, q.override_percent, q.overridden_at,
    q.key_limit, q.rate_limit, q.rate_period, coalesce(q.rate_by_key, false) AS rate_by_key,
    coalesce(q.keeps_slots, false) AS keeps_slots, q.paused_at,
    -- a limit of the environment alone is none of the queue
    CASE WHEN coalesce(q.override_limit, q.declared_limit) IS NOT NULL OR (q.override_percent IS NOT NULL AND e.concurrency_limit IS NOT NULL)
        THEN headrace.queue_limit(q, e.concurrency_limit) END AS effective_limit,
    coalesce(x.runs, 0) AS running, coalesce(r.runs, 0) AS queued
FROM page AS p
JOIN headrace.environments AS e ON e.id = $1::integer
LEFT JOIN headrace.queues AS q ON q.environment_id = $1::integer AND q.name = p.name
LEFT JOIN executing AS x ON x.name = p.name
LEFT JOIN ready AS r ON r.name = p.name
ORDER BY p.name
