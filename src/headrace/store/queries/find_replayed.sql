-- What is copied of runs that are replayed, but for their payloads. Indexes: runs_pkey, lanes_pkey.
SELECT r.id, l.task, l.queue, r.options::text AS options
FROM headrace.runs AS r JOIN headrace.lanes AS l ON l.id = r.lane_id
WHERE r.environment_id = $1::integer AND r.id = ANY($2::uuid[])
ORDER BY r.id
