-- The fence of what a run writes to its journal: whoever holds it in this attempt keeps it until the transaction ends.
-- FOR SHARE, because the rescue and the cancel of a run must wait for it. Index: runs_pkey.
SELECT r.id FROM headrace.runs AS r
WHERE r.environment_id = $1::integer AND r.id = $2::uuid AND r.attempt = $3::integer AND r.worker_id + 0 = $4::bigint
    AND r.status::text = 'EXECUTING'
FOR SHARE
