-- Runs that an ended worker still holds, a bounded number. Indexes: workers_not_emptied, runs_held.
SELECT r.environment_id, r.id, r.attempt, r.rescues, r.worker_id, w.name AS worker_name, w.version, r.lane_id
FROM headrace.workers AS w JOIN headrace.runs AS r ON r.worker_id = w.id AND r.status = 'EXECUTING'
WHERE w.emptied_at IS NULL AND w.ended_at IS NOT NULL
ORDER BY r.environment_id, r.id LIMIT $1::integer
