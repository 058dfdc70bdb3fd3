-- What waits on each queue that has something ready: its depth (counted to ten thousand) and the age of its oldest run.
-- Indexes: lanes_open, runs_ready.
SELECT e.slug AS environment, l.queue, sum(d.depth)::bigint AS depth, max(d.age) AS age
FROM headrace.lanes AS l
JOIN headrace.environments AS e ON e.id = l.environment_id
CROSS JOIN LATERAL (
    SELECT count(*) AS depth, extract(epoch FROM headrace.clock() - min(h.ready_at))::float8 AS age
    FROM (
        SELECT r.ready_at FROM headrace.runs AS r
        WHERE r.lane_id = l.id AND r.status = 'QUEUED' AND r.ready_at <= headrace.clock()
        ORDER BY r.ready_at, r.id LIMIT 10000
    ) AS h
) AS d
WHERE l.open AND d.depth > 0
GROUP BY e.slug, l.queue
