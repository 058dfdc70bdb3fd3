-- The tags of a run, which the transaction holds. Whether a claim may have stepped over it meanwhile. Index: runs_pkey.
UPDATE headrace.runs AS r
SET options = jsonb_set(coalesce(r.options, '{}'), '{tags}', to_jsonb($3::text[])), updated_at = headrace.clock()
WHERE r.environment_id = $1::integer AND r.id = $2::uuid
RETURNING r.status = 'QUEUED' AS queued
