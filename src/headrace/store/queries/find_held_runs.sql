-- What one worker holds. Index: runs_held.
SELECT r.environment_id, r.id, r.attempt, r.rescues, r.worker_id
FROM headrace.runs AS r WHERE r.worker_id = $1::bigint AND r.status = 'EXECUTING' ORDER BY r.id LIMIT $2::integer
