-- Runs that were claimed and never started go back as if they had not been claimed. Index: runs_pkey.
UPDATE headrace.runs AS r
SET status = 'QUEUED', attempt = r.attempt - 1, worker_id = NULL, updated_at = headrace.clock()
FROM (
    SELECT $1::integer AS environment_id, u.id, u.attempt FROM unnest($3::uuid[], $4::integer[]) AS u (id, attempt) OFFSET 0
) AS g
WHERE r.environment_id = g.environment_id AND r.id = g.id AND r.attempt = g.attempt AND r.worker_id + 0 = $2::bigint
    AND r.status::text = 'EXECUTING'
RETURNING r.id
