-- The seal: one conditional UPDATE, which succeeds once, and only when every index from 0 to the count is there. Where all
-- runs have ended by then it closes the batch as well. Index: batches_pkey.
UPDATE headrace.batches AS b
SET sealed_at = headrace.clock(), updated_at = headrace.clock(), run_count = $3::integer,
    status = headrace.settled_batch_status('PROCESSING', $3::integer, b.settled, b.prefailed),
    processing_completed_at = headrace.clock(),
    completed_at = CASE WHEN b.settled = $3::integer THEN headrace.clock() END
WHERE b.environment_id = $1::integer AND b.id = $2::uuid AND b.status = 'PENDING' AND b.sealed_at IS NULL
    AND b.accepted = $3::integer AND b.highest_index < $3::integer AND coalesce(b.run_count, $3::integer) = $3::integer
RETURNING id, environment_id, status, run_count, accepted, highest_index, aliased, prefailed, settled, succeeded, sealed_at, start_policy, watched,
    idempotency_key, parent_run_id, resume_parent, traceparent, error::text AS error, created_at, updated_at,
    processing_completed_at, completed_at, seal_deadline, root_run_id, depth
