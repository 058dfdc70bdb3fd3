-- What operations have made of a run's metadata; the transaction holds the run. Whether a claim may have stepped over it
-- meanwhile. Index: runs_pkey.
UPDATE headrace.runs AS r
SET metadata = $3::text::jsonb, metadata_write = coalesce($4::bigint, r.metadata_write), updated_at = headrace.clock()
WHERE r.environment_id = $1::integer AND r.id = $2::uuid
RETURNING r.status = 'QUEUED' AS queued
