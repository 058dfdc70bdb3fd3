-- What is said of these queues ($2) in this store, what executes on each, and what is ready (counted to ten thousand a lane). As
-- list_queues does it. Indexes: queues_environment_id_name_key, tasks_pkey, lanes_open, environments_pkey, workers_not_emptied,
-- runs_held, runs_ready.
WITH executing AS MATERIALIZED (
    SELECT n.queue AS name, sum(held.runs)::bigint AS runs
    FROM headrace.workers AS w
    CROSS JOIN LATERAL (
        SELECT r.lane_id, count(*) AS runs FROM headrace.runs AS r WHERE r.worker_id = w.id AND r.status = 'EXECUTING' GROUP BY r.lane_id
    ) AS held
    JOIN headrace.lanes AS l ON l.id = held.lane_id
    LEFT JOIN headrace.tasks AS t ON t.environment_id = l.environment_id AND t.id = l.task
    CROSS JOIN LATERAL (SELECT CASE WHEN l.queue = 'task/' || l.task THEN coalesce(t.queue, l.queue) ELSE l.queue END AS queue) AS n -- as in claim_runs
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
    WHERE l.environment_id = $1::integer AND l.open AND n.queue = ANY($2::text[])
    GROUP BY n.queue
)
SELECT p.name, q.declared_limit, q.override_limit, q.override_percent, q.overridden_at, q.key_limit, q.rate_limit, q.rate_period,
    coalesce(q.rate_by_key, false) AS rate_by_key, coalesce(q.keeps_slots, false) AS keeps_slots, q.paused_at,
    -- a limit of the environment alone is none of the queue
    CASE WHEN coalesce(q.override_limit, q.declared_limit) IS NOT NULL OR (q.override_percent IS NOT NULL AND e.concurrency_limit IS NOT NULL)
        THEN headrace.queue_limit(q, e.concurrency_limit) END AS effective_limit,
    coalesce(x.runs, 0) AS running, coalesce(r.runs, 0) AS queued
FROM unnest($2::text[]) AS p (name)
JOIN headrace.environments AS e ON e.id = $1::integer
LEFT JOIN headrace.queues AS q ON q.environment_id = $1::integer AND q.name = p.name
LEFT JOIN executing AS x ON x.name = p.name
LEFT JOIN ready AS r ON r.name = p.name
