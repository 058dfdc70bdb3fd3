-- Runs that execute already, on these queues ($2; NULL: on all of them), are counted under limits that are new. Ends lock runs by id
-- as well. Indexes: workers_not_emptied, runs_held, lanes_pkey, tasks_pkey, queues_environment_id_name_key, runs_pkey.
WITH held AS MATERIALIZED (
    SELECT r.id, coalesce(q.id, 0) AS counted_in
    FROM headrace.workers AS w
    CROSS JOIN LATERAL (
        SELECT r.id, coalesce(r.order_lane_id, r.lane_id) AS lane_id, r.counted_in FROM headrace.runs AS r
        WHERE r.worker_id = w.id AND r.status = 'EXECUTING' ORDER BY r.id
    ) AS r
    JOIN headrace.lanes AS l ON l.id = r.lane_id
    LEFT JOIN headrace.tasks AS t ON t.environment_id = l.environment_id AND t.id = l.task
    CROSS JOIN LATERAL (SELECT CASE WHEN l.queue = 'task/' || l.task THEN coalesce(t.queue, l.queue) ELSE l.queue END AS queue) AS n -- as in claim_runs
    LEFT JOIN headrace.queues AS q ON q.environment_id = l.environment_id AND q.name = n.queue
    WHERE w.emptied_at IS NULL AND w.environment_id = $1::integer AND ($2::text[] IS NULL OR n.queue = ANY($2::text[]))
        AND r.counted_in IS DISTINCT FROM coalesce(q.id, 0)
),
locked AS MATERIALIZED (
    SELECT r.ctid, h.counted_in
    FROM held AS h JOIN headrace.runs AS r ON r.environment_id = $1::integer AND r.id = h.id AND r.status = 'EXECUTING'
    ORDER BY r.id FOR NO KEY UPDATE OF r
)
UPDATE headrace.runs AS r SET counted_in = k.counted_in FROM locked AS k WHERE r.ctid = k.ctid
RETURNING r.id
