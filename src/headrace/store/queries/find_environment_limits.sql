-- What an environment may do at once, what executes in it, and what is ready (counted to ten thousand a lane). Indexes:
-- environments_pkey, workers_not_emptied, runs_held, lanes_open, runs_ready.
SELECT e.slug, e.concurrency_limit, e.paused_at,
    (
        SELECT coalesce(sum(held.runs), 0)::bigint
        FROM headrace.workers AS w CROSS JOIN LATERAL (
            SELECT count(*) AS runs FROM headrace.runs AS r WHERE r.worker_id = w.id AND r.status = 'EXECUTING'
        ) AS held
        WHERE w.emptied_at IS NULL AND w.environment_id = e.id
    ) AS running,
    (
        SELECT coalesce(sum(d.depth), 0)::bigint
        FROM headrace.lanes AS l CROSS JOIN LATERAL (
            SELECT count(*) AS depth FROM (
                SELECT FROM headrace.runs AS r
                WHERE r.lane_id = l.id AND r.status = 'QUEUED' AND r.ready_at <= headrace.clock()
                ORDER BY r.ready_at, r.id LIMIT 10000
            ) AS h
        ) AS d
        WHERE l.environment_id = e.id AND l.open
    ) AS queued
FROM headrace.environments AS e WHERE e.id = $1::integer
