-- Runs that were claimed and never started go back as if they had not been claimed. Indexes: runs_pkey,
-- parkings_pkey.
UPDATE headrace.runs AS r
SET status = 'QUEUED', attempt = r.attempt - 1, worker_id = NULL, updated_at = headrace.clock(),
    (ready_at, parked) = (
        SELECT CASE WHEN p.yes THEN 'infinity'::timestamptz ELSE r.ready_at END, CASE WHEN p.yes THEN r.ready_at END
        FROM (
            SELECT EXISTS (
                SELECT FROM headrace.parkings AS p
                WHERE p.environment_id = r.environment_id AND p.root_id = coalesce(r.root_run_id, r.id)
            ) AS yes
        ) AS p
    )
FROM (
    SELECT $1::integer AS environment_id, u.id, u.attempt FROM unnest($3::uuid[], $4::integer[]) AS u (id, attempt) OFFSET 0
) AS g
WHERE r.environment_id = g.environment_id AND r.id = g.id
    AND CASE WHEN r.worker_id = $2::bigint AND r.status = 'EXECUTING' THEN r.attempt = g.attempt END
RETURNING r.id
