-- Makes waiting runs ready: the caller has locked them and one of their points is done. They go before what came later than
-- they did: ready_at is when they were made. Index: runs_pkey.
UPDATE headrace.runs AS r
SET status = 'QUEUED', ready_at = r.created_at, resumes = r.resumes + 1, updated_at = headrace.clock()
FROM (SELECT $1::integer AS environment_id, u.id FROM unnest($2::uuid[]) AS u (id) OFFSET 0) AS w
WHERE r.environment_id = w.environment_id AND r.id = w.id AND r.status::text = 'WAITING'
RETURNING r.id
