-- Makes waiting runs ready: the caller has locked them and one of their points is done. They go before what came later than
-- they did: ready_at is when they were made. Those of a tree that is parked (moves) are parked. Indexes: runs_pkey, parkings_pkey.
UPDATE headrace.runs AS r
SET status = 'QUEUED', resumes = r.resumes + 1, updated_at = headrace.clock(),
    ready_at = CASE WHEN w.any_parked AND EXISTS (
        SELECT FROM headrace.parkings AS p WHERE p.environment_id = r.environment_id AND p.root_id = coalesce(r.root_run_id, r.id)
    ) THEN 'infinity' ELSE r.created_at END,
    parked = CASE WHEN w.any_parked AND EXISTS (
        SELECT FROM headrace.parkings AS p WHERE p.environment_id = r.environment_id AND p.root_id = coalesce(r.root_run_id, r.id)
    ) THEN r.created_at END
FROM (
    SELECT $1::integer AS environment_id, u.id, EXISTS (SELECT FROM headrace.parkings) AS any_parked
    FROM unnest($2::uuid[]) AS u (id) OFFSET 0
) AS w
WHERE r.environment_id = w.environment_id AND r.id = w.id AND r.status::text = 'WAITING'
RETURNING r.id
