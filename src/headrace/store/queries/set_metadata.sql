-- What a run's code has made of its metadata. Index: runs_pkey.
UPDATE headrace.runs AS r SET metadata = $5::text::jsonb, updated_at = headrace.clock()
WHERE r.environment_id = $1::integer AND r.id = $2::uuid AND r.attempt = $3::integer AND r.worker_id + 0 = $4::bigint
    AND r.status::text = 'EXECUTING'
RETURNING r.id
