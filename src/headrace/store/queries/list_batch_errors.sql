-- Items that could not become a run that can start, the first thousand. Index: runs_pkey.
SELECT r.batch_index, l.task, r.error::text AS error
FROM headrace.runs AS r JOIN headrace.lanes AS l ON l.id = r.lane_id
WHERE r.environment_id = $1::integer AND r.batch_id = $2::uuid AND r.status = 'SYSTEM_FAILURE' AND r.attempt = 0
    AND r.id BETWEEN headrace.item_run_id($2::uuid, 0) AND headrace.item_run_id($2::uuid, 2147483647)
ORDER BY r.id LIMIT 1000
