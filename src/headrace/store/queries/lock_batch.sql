-- A batch as it stands, locked until the transaction ends: items of one batch are stored one chunk after the other, so
-- that what the next statements see of it is whole. Index: batches_pkey.
SELECT id, environment_id, status, run_count, accepted, highest_index, aliased, prefailed, settled, succeeded, sealed_at, start_policy,
    idempotency_key, parent_run_id, resume_parent, traceparent, error::text AS error, created_at, updated_at,
    processing_completed_at, completed_at, seal_deadline, root_run_id, depth
FROM headrace.batches WHERE environment_id = $1::integer AND id = $2::uuid FOR UPDATE
